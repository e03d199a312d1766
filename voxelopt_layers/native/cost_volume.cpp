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
  long padded() const { return shape.width + 2 * radius; }

  // Start of the moving row at (d, h), or -1 where it lies outside and counts as 0.
  long row(long d, long h) const {
    const long inner_d = clamp(d, shape.depth), inner_h = clamp(h, shape.height);
    if (!border && (inner_d != d || inner_h != h)) return -1;
    return inner_d * shape.plane() + inner_h * shape.width;
  }

  // Copies one row of every channel, continued by `radius` voxels at both ends.
  void load(const float *image, long start, float *rows) const {
    for (long c = 0; c < shape.channels; ++c) {
      float *to = rows + c * padded();
      if (start < 0) {
        std::fill(to, to + padded(), 0.0f);
        continue;
      }
      const float *from = image + c * shape.voxels() + start;
      std::copy(from, from + shape.width, to + radius);
      std::fill(to, to + radius, border ? from[0] : 0.0f);
      std::fill(to + radius + shape.width, to + padded(), border ? from[shape.width - 1] : 0.0f);
    }
  }
};

// sum_c phi(f_c(x) - m_c(x + dx)) along one row.
template <bool squared, class T>
void row_cost(const float *fixed, long voxels, const float *moving, long padded, long channels,
              long width, float scale, T *out) {
  sixteen_at_a_time(width, [&](long x, auto left) {
    Lanes sum = {};
    for (long c = 0; c < channels; ++c) {
      const Lanes t = load(fixed + c * voxels + x, left) - load(moving + c * padded + x, left);
      sum += squared ? t * t : magnitude(t);
    }
    store(sum * scale, out + x, left);
  });
}

template <class T>
void cost_volume(const float *fixed, const float *moving, T *cost, const Shape *shape, long radius,
                 long radius_d, long squared, long border, float scale, long threads) {
  const Search search{*shape, radius, radius_d, squared != 0, border != 0, scale};
  const long voxels = shape->voxels(), width = shape->width, side = search.side();
  const long lines = shape->depth * shape->height;
  parallel(shape->batch * lines, threads, [&](long item, long) {
    static thread_local std::vector<float> rows;
    rows.resize(shape->channels * search.padded());
    const long b = item / lines, d = item % lines / shape->height, h = item % shape->height;
    const float *f = fixed + b * shape->channels * voxels + item % lines * width;
    const float *m = moving + b * shape->channels * voxels;
    T *out = cost + b * search.offsets() * voxels + item % lines * width;
    for (long dz = -radius_d; dz <= radius_d; ++dz) {
      for (long dy = -radius; dy <= radius; ++dy) {
        search.load(m, search.row(d + dz, h + dy), rows.data());
        for (long dx = 0; dx < side; ++dx, out += voxels) {
          auto step = search.squared ? row_cost<true, T> : row_cost<false, T>;
          step(f, voxels, rows.data() + dx, search.padded(), shape->channels, width, scale, out);
        }
      }
    }
  });
}

// Slabs that write to common planes of the moving gradient are never at work together: first those
// of even number, then those of odd.
template <class T>
void cost_volume_backward(const float *fixed, const float *moving, const T *grad, float *grad_fixed,
                          float *grad_moving, const Shape *shape, long radius, long radius_d,
                          long squared, long border, float scale, long threads) {
  const Search search{*shape, radius, radius_d, squared != 0, border != 0, scale};
  const long voxels = shape->voxels(), width = shape->width, channels = shape->channels;
  const long padded = search.padded(), side = search.side();
  const bool flat = radius_d == 0;  // slabs along H where there is no depth to share out
  const long length = flat ? shape->height : shape->depth;
  const long thick = std::max(2 * radius, (length + 4 * threads - 1) / (4 * threads));
  const long slabs = (length + thick - 1) / thick;

  auto line = [&](long b, long d, long h, float *rows, float *sent) {
    const long here = d * shape->plane() + h * width;
    const float *f = fixed + b * channels * voxels + here;
    float *gf = grad_fixed + b * channels * voxels + here;
    const T *g = grad + b * search.offsets() * voxels + here;
    for (long dz = -radius_d; dz <= radius_d; ++dz) {
      for (long dy = -radius; dy <= radius; ++dy) {
        const long start = search.row(d + dz, h + dy);
        search.load(moving + b * channels * voxels, start, rows);
        for (long dx = 0; dx < side; ++dx, g += voxels) {
          sixteen_at_a_time(width, [&](long x, auto left) {
            const Lanes scaled = load(g + x, left) * scale;
            for (long c = 0; c < channels; ++c) {
              const Lanes f_c = load(f + c * voxels + x, left), zero = {};
              const Lanes t = f_c - load(rows + c * padded + dx + x, left);
              Lanes v = 2 * t * scaled;
              if (!squared) v = t > 0 ? scaled : (t < 0 ? -scaled : zero);
              store(load(gf + c * voxels + x, left) + v, gf + c * voxels + x, left);
              store(v, sent + (dx * channels + c) * width + x, left);
            }
          });
        }
        if (start < 0) continue;
        for (long i = 0; i < side * channels; ++i) {
          const float *from = sent + i * width;
          float *to = grad_moving + (b * channels + i % channels) * voxels + start;
          const long shift = i / channels - radius;
          const long first = clamp(-shift, width + 1), last = clamp(width - shift, width + 1);
          for (long x = first; x < last; ++x) to[x + shift] -= from[x];
          for (long x = 0; border && x < first; ++x) to[0] -= from[x];
          for (long x = last; border && x < width; ++x) to[width - 1] -= from[x];
        }
      }
    }
  };

  for (long odd = 0; odd < 2; ++odd) {
    const long half = (slabs + 1 - odd) / 2;
    parallel(shape->batch * half, threads, [&](long item, long) {
      std::vector<float> rows(channels * padded), sent(side * channels * width);
      const long b = item / half, first = (2 * (item % half) + odd) * thick;
      for (long i = first; i < std::min(length, first + thick); ++i) {
        for (long h = 0; h < (flat ? 1 : shape->height); ++h) {
          for (long d = 0; d < (flat ? shape->depth : 1); ++d) {
            line(b, flat ? d : i, flat ? i : h, rows.data(), sent.data());
          }
        }
      }
    });
  }
}

}  // namespace

extern "C" void voxelopt_cost_volume(const float *fixed, const float *moving, void *cost, long kept,
                                     const Shape *shape, long radius, long radius_d, long squared,
                                     long border, float scale, long threads) {
  by_type(kept, [&](auto *null) {
    cost_volume(fixed, moving, static_cast<decltype(null)>(cost), shape, radius, radius_d, squared,
                border, scale, threads);
  });
}

// Adds to grad_fixed and grad_moving.
extern "C" void voxelopt_cost_volume_backward(const float *fixed, const float *moving,
                                              const void *grad, float *grad_fixed,
                                              float *grad_moving, long kept, const Shape *shape,
                                              long radius, long radius_d, long squared, long border,
                                              float scale, long threads) {
  by_type(kept, [&](auto *null) {
    cost_volume_backward(fixed, moving, static_cast<decltype(null)>(const_cast<void *>(grad)),
                         grad_fixed, grad_moving, shape, radius, radius_d, squared, border, scale,
                         threads);
  });
}
