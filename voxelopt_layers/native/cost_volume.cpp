// The cost volume of ../cost_volume.py, L1 or L2 over channels, forward and backward.

#include "common.hpp"

namespace {

struct Search {
  Shape shape;
  long radius, radius_d;
  bool squared, border;
  float scale;
  long side() const { return 2 * radius + 1; }
  long offsets() const { return (2 * radius_d + 1) * side() * side(); }
  // Rows of voxels, with room for `radius` more on both sides, on cache lines.
  long margin() const { return whole_lines(radius); }
  long padded() const { return whole_lines(shape.width) + 2 * margin(); }

  // Start of the moving row at (d, h), or -1 where it lies outside and counts as 0.
  long row(long d, long h) const {
    const long inner_d = clamp(d, shape.depth), inner_h = clamp(h, shape.height);
    if (!border && (inner_d != d || inner_h != h)) return -1;
    return inner_d * shape.plane() + inner_h * shape.width;
  }

  // Copies one row of every channel, continued by `radius` voxels at both ends.
  void load(const float *image, long start, float *rows) const {
    for (long c = 0; c < shape.channels; ++c) {
      float *to = rows + c * padded() + margin();
      if (start < 0) {
        std::fill(to - radius, to + shape.width + radius, 0.0f);
        continue;
      }
      const float *from = image + c * shape.voxels() + start;
      float *end = std::copy(from, from + shape.width, to);
      std::fill(to - radius, to, border ? from[0] : 0.0f);
      std::fill(end, end + radius, border ? end[-1] : 0.0f);
    }
  }
};

// sum_c phi(f_c(x) - m_c(x + dx)) along one row.
template <bool squared>
void row_cost(const float *fixed, long voxels, const float *moving, long padded, long channels,
              long width, float scale, Kept *out) {
  sixteen_at_a_time(width, [&](long x, auto left) {
    Lanes sum = {};
    for (long c = 0; c < channels; ++c) {
      const Lanes t = load(fixed + c * voxels + x, left) - load(moving + c * padded + x, left);
      sum += squared ? t * t : magnitude(t);
    }
    store(keepable(sum * scale), out + x, left);
  });
}

void cost_volume(const float *fixed, const float *moving, Kept *cost, const Shape *shape, long radius,
                 long radius_d, long squared, long border, float scale, long threads) {
  const Search search{*shape, radius, radius_d, squared != 0, border != 0, scale};
  const long voxels = shape->voxels(), width = shape->width, side = search.side();
  const long lines = shape->depth * shape->height;
  parallel(shape->batch * lines, threads, [&](long item, long) {
    static thread_local Buffer rows;
    rows.resize(shape->channels * search.padded());
    const long b = item / lines, d = item % lines / shape->height, h = item % shape->height;
    const float *f = fixed + b * shape->channels * voxels + item % lines * width;
    const float *m = moving + b * shape->channels * voxels;
    Kept *out = cost + b * search.offsets() * voxels + item % lines * width;
    for (long dz = -radius_d; dz <= radius_d; ++dz) {
      for (long dy = -radius; dy <= radius; ++dy) {
        search.load(m, search.row(d + dz, h + dy), rows.data());
        for (long dx = 0; dx < side; ++dx, out += voxels) {
          auto step = search.squared ? row_cost<true> : row_cost<false>;
          const float *row = rows.data() + search.margin() - radius + dx;
          step(f, voxels, row, search.padded(), shape->channels, width, scale, out);
        }
      }
    }
  });
}

// Of one line of voxels and one row of the moving map, `side` offsets along W: adds to the gradient
// of the fixed map, and stores what each offset sends to the moving one, in a row of its own.
template <long SIDE>
void line_backward(const Search &search, const float *fixed, const float *rows, const Kept *grad,
                   float *grad_fixed, float *sent) {
  const long voxels = search.shape.voxels(), side = SIDE ? SIDE : search.side();
  const long padded = search.padded(), margin = search.margin();
  sixteen_at_a_time(search.shape.width, [&](long x, auto left) {
    for (long c = 0; c < search.shape.channels; ++c) {
      const Lanes f = load(fixed + c * voxels + x, left), zero = {};
      Lanes sum = load(grad_fixed + c * voxels + x, left);
      for (long dx = 0; dx < side; ++dx) {
        const Lanes g = load(grad + dx * voxels + x, left) * search.scale;
        const Lanes t = f - load(rows + c * padded + margin - search.radius + dx + x, left);
        const Lanes sign = t > 0 ? g : t < 0 ? -g : zero;
        const Lanes v = SIDE || !search.squared ? sign : 2 * t * g;
        sum += v;
        store(v, sent + (c * side + dx) * padded + margin + x, left);
      }
      store(sum, grad_fixed + c * voxels + x, left);
    }
  });
}

// Takes from one row of the moving gradient what was sent to it: `side` rows, each for one offset,
// with zeros at both ends.
template <long SIDE> void collect(const Search &search, const float *sent, float *to) {
  const long width = search.shape.width, radius = search.radius, side = SIDE ? SIDE : search.side();
  const long padded = search.padded();
  sent += search.margin();
  sixteen_at_a_time(width, [&](long x, auto left) {
    Lanes sum = load(to + x, left);
    for (long dx = 0; dx < side; ++dx) sum -= load(sent + dx * padded + radius - dx + x, left);
    store(sum, to + x, left);
  });
  for (long dx = 0; search.border && dx < side; ++dx) {  // what went beyond the ends
    const float *from = sent + dx * padded;
    for (long x = 0; x < std::min(radius - dx, width); ++x) to[0] -= from[x];
    for (long x = std::max(0L, width - (dx - radius)); x < width; ++x) to[width - 1] -= from[x];
  }
}

// Slabs that write to common planes of the moving gradient are never at work together: first those
// of even number, then those of odd. SIDE is the
// search's where it is L1, or 0 where either is known at run time alone.
template <long SIDE>
void cost_volume_backward(const Search &search, const float *fixed, const float *moving,
                          const Kept *grad, float *grad_fixed, float *grad_moving, long threads) {
  const Shape &shape = search.shape;
  const long voxels = shape.voxels(), width = shape.width, channels = shape.channels;
  const long radius = search.radius, radius_d = search.radius_d, side = search.side();
  const bool flat = radius_d == 0;  // slabs along H where there is no depth to share out
  const long length = flat ? shape.height : shape.depth;
  const long thick = std::max(2 * radius, (length + 4 * threads - 1) / (4 * threads));
  const long slabs = (length + thick - 1) / thick, padded = search.padded();

  auto line = [&](long b, long d, long h, float *rows, float *sent) {
    const long here = d * shape.plane() + h * width, volume = b * channels * voxels;
    const Kept *g = grad + b * search.offsets() * voxels + here;
    for (long dz = -radius_d; dz <= radius_d; ++dz) {
      for (long dy = -radius; dy <= radius; ++dy, g += side * voxels) {
        const long start = search.row(d + dz, h + dy);
        search.load(moving + volume, start, rows);
        line_backward<SIDE>(search, fixed + volume + here, rows, g,
                                     grad_fixed + volume + here, sent);
        for (long c = 0; c < channels && start >= 0; ++c) {
          collect<SIDE>(search, sent + c * side * padded,
                        grad_moving + volume + c * voxels + start);
        }
      }
    }
  };

  for (long odd = 0; odd < 2; ++odd) {
    const long half = (slabs + 1 - odd) / 2;
    parallel(shape.batch * half, threads, [&](long item, long) {
      Buffer rows(channels * padded), sent(side * channels * padded);
      const long b = item / half, first = (2 * (item % half) + odd) * thick;
      for (long i = first; i < std::min(length, first + thick); ++i) {
        for (long h = 0; h < (flat ? 1 : shape.height); ++h) {
          for (long d = 0; d < (flat ? shape.depth : 1); ++d) {
            line(b, flat ? d : i, flat ? i : h, rows.data(), sent.data());
          }
        }
      }
    });
  }
}

}  // namespace

extern "C" void voxelopt_cost_volume(const float *fixed, const float *moving, Kept *cost,
                                     const Shape *shape, long radius, long radius_d, long squared,
                                     long border, float scale, long threads) {
  cost_volume(fixed, moving, cost, shape, radius, radius_d, squared, border, scale, threads);
}

// Adds to grad_fixed and grad_moving.
extern "C" void voxelopt_cost_volume_backward(const float *fixed, const float *moving,
                                              const Kept *grad, float *grad_fixed,
                                              float *grad_moving, const Shape *shape, long radius,
                                              long radius_d, long squared, long border,
                                              float scale, long threads) {
  const Search search{*shape, radius, radius_d, squared != 0, border != 0, scale};
  const bool usual = radius == 1 && !squared;  // the layer's defaults
  auto step = usual ? cost_volume_backward<3> : cost_volume_backward<0>;
  step(search, fixed, moving, grad, grad_fixed, grad_moving, threads);
}
