// The local correlation of ../local_correlation.py: patches around x and x + o, for all offsets o.

#include "common.hpp"

namespace {

// A volume and how far it is continued beyond its sides.
struct Extended {
  long depth, height, width, beyond_d, beyond;
  Extended(const Shape &shape, long beyond_d, long beyond)
      : depth(shape.depth + 2 * beyond_d), height(shape.height + 2 * beyond),
        width(shape.width + 2 * beyond), beyond_d(beyond_d), beyond(beyond) {}
  long voxels() const { return depth * height * width; }
  long row(long d, long h) const { return (d * height + h) * width; }

  void fill_from(const float *image, const Shape &shape, bool border, float *out) const {
    for (long d = 0; d < depth; ++d) {
      for (long h = 0; h < height; ++h, out += width) {
        const long z = d - beyond_d, y = h - beyond;
        const long inner_z = clamp(z, shape.depth), inner_y = clamp(y, shape.height);
        if (!border && (z != inner_z || y != inner_y)) {
          std::fill(out, out + width, 0.0f);
          continue;
        }
        const float *from = image + inner_z * shape.plane() + inner_y * shape.width;
        std::fill(out, out + beyond, border ? from[0] : 0.0f);
        std::copy(from, from + shape.width, out + beyond);
        const float last = border ? from[shape.width - 1] : 0.0f;
        std::fill(out + beyond + shape.width, out + width, last);
      }
    }
  }
};

struct Window {
  long radius, radius_d;
  float voxels() const {
    return float((2 * radius + 1) * (2 * radius + 1) * (2 * radius_d + 1));
  }
};

// Sums over the window, slice by slice: row(d, h, to) writes a row of what is summed, which reaches
// beyond the result by the window's radius on all sides; done(d, sums) takes a slice of the result.
template <class Row, class Done>
void window_sums(const Window &window, long depth, long height, long width, const Row &row,
                 const Done &done) {
  const long r = window.radius, side = 2 * r + 1, slices = 2 * window.radius_d + 1;
  const long line = whole_lines(width), plane = height * line;
  static thread_local Buffer buffers;
  buffers.resize(whole_lines(width + 2 * r) + (height + 2 * r) * line + (slices + 1) * plane);
  float *entries = buffers.data(), *along = entries + whole_lines(width + 2 * r);
  float *ring = along + (height + 2 * r) * line, *sums = ring + slices * plane;
  for (long d = 0; d < depth + 2 * window.radius_d; ++d) {
    for (long h = 0; h < height + 2 * r; ++h) {
      row(d, h, entries);
      for (long x = 0; x < width; x += LANES) {
        Lanes sum = load(entries + x, width + 2 * r - x);
        for (long i = 1; i < side; ++i) sum += load(entries + x + i, width + 2 * r - x - i);
        store(sum, along + h * line + x);
      }
    }
    float *slice = ring + d % slices * plane;
    for (long x = 0; x < plane; x += LANES) {
      Lanes sum = load(along + x);
      for (long i = 1; i < side; ++i) sum += load(along + x + i * line);
      store(sum, slice + x);
    }
    if (d < slices - 1) continue;
    for (long x = 0; x < plane; x += LANES) {
      Lanes sum = load(ring + x);
      for (long i = 1; i < slices; ++i) sum += load(ring + i * plane + x);
      store(sum, sums + x);
    }
    done(d - slices + 1, sums, line);
  }
}

inline Lanes root(const Lanes &x) {
  Lanes y;
  for (long i = 0; i < LANES; ++i) y[i] = std::sqrt(x[i]);
  return y;
}

// One channel of one map: its values continued beyond the volume; the mean of each patch, and one
// over its standard deviation, which are continued by `window.radius` less.
struct Patches {
  Extended values, centres;
  Buffer value, mean, reciprocal;
  Patches(const Shape &shape, const Window &window, long search_d, long search)
      : values(shape, search_d + window.radius_d, search + window.radius),
        centres(shape, search_d, search), value(values.voxels()), mean(centres.voxels()),
        reciprocal(centres.voxels()) {}

  // Of the values, or (`squares`) of their squares.
  void average(const Window &window, bool squares) {
    float *to = squares ? reciprocal.data() : mean.data();
    const float share = 1 / window.voxels();
    window_sums(
        window, centres.depth, centres.height, centres.width,
        [&](long d, long h, float *entries) {
          const float *from = value.data() + values.row(d, h);
          sixteen_at_a_time(values.width, [&](long x, auto left) {
            const Lanes v = load(from + x, left);
            store(squares ? v * v : v, entries + x, left);
          });
        },
        [&](long d, const float *sums, long line) {
          for (long h = 0; h < centres.height; ++h) {
            sixteen_at_a_time(centres.width, [&](long x, auto left) {
              store(load(sums + h * line + x) * share, to + centres.row(d, h) + x, left);
            });
          }
        });
  }

  void finish(float least_variance) {
    sixteen_at_a_time(centres.voxels(), [&](long x, auto left) {
      const Lanes m = load(mean.data() + x, left), zero = {};
      const Lanes variance = larger(load(reciprocal.data() + x, left) - m * m, zero);
      store(1.0f / root(variance + least_variance), reciprocal.data() + x, left);
    });
  }
};

struct Offset { long d, h, w; };

std::vector<Offset> offsets(long radius_d, long radius, bool star) {
  std::vector<Offset> all;
  if (star) {  // the centre, then both neighbours along each axis
    all.push_back({0, 0, 0});
    if (radius_d) all.insert(all.end(), {{-1, 0, 0}, {1, 0, 0}});
    all.insert(all.end(), {{0, -1, 0}, {0, 1, 0}, {0, 0, -1}, {0, 0, 1}});
    return all;
  }
  for (long d = -radius_d; d <= radius_d; ++d) {
    for (long h = -radius; h <= radius; ++h) {
      for (long w = -radius; w <= radius; ++w) all.push_back({d, h, w});
    }
  }
  return all;
}

// cost = scale (1 - correlation) of the patches around x and x + offset; or adds that.
void correlate(const Patches &fixed, const Patches &moving, const Window &window,
               const Shape &shape, Offset offset, float scale, bool add, Kept *cost) {
  const float share = 1 / window.voxels();
  const long search = moving.centres.beyond, search_d = moving.centres.beyond_d;
  window_sums(
      window, shape.depth, shape.height, shape.width,
      [&](long d, long h, float *entries) {
        const float *f = fixed.value.data() + fixed.values.row(d, h);
        const long shifted = moving.values.row(d + search_d + offset.d, h + search + offset.h);
        const float *m = moving.value.data() + shifted + search + offset.w;
        sixteen_at_a_time(fixed.values.width, [&](long x, auto left) {
          store(load(f + x, left) * load(m + x, left), entries + x, left);
        });
      },
      [&](long d, const float *sums, long line) {
        for (long h = 0; h < shape.height; ++h) {
          const long at = fixed.centres.row(d, h);
          const long to = moving.centres.row(d + search_d + offset.d, h + search + offset.h) +
                          search + offset.w;
          Kept *out = cost + (d * shape.height + h) * shape.width;
          sixteen_at_a_time(shape.width, [&](long x, auto left) {
            const Lanes means = load(fixed.mean.data() + at + x, left) *
                                load(moving.mean.data() + to + x, left);
            const Lanes unit = load(fixed.reciprocal.data() + at + x, left) *
                               load(moving.reciprocal.data() + to + x, left);
            const Lanes c = (load(sums + h * line + x) * share - means) * unit;
            const Lanes bounded = smaller(fill(1.0f), larger(fill(-1.0f), c));
            const Lanes before = add ? load(out + x, left) : Lanes{};
            store(keepable(before + scale * (1.0f - bounded)), out + x, left);
          });
        }
      });
}

}  // namespace

// `add`: onto what is in `cost` already. `star`: only the centre and its neighbours along the axes.
extern "C" void voxelopt_local_correlation(const float *fixed, const float *moving, Kept *cost,
                                           const Shape *shape, long radius, long radius_d,
                                           long window_radius, long window_radius_d, long star,
                                           long border, float scale, float least_variance,
                                           long add, long threads) {
  const Window window{window_radius, window_radius_d};
  const std::vector<Offset> all = offsets(radius_d, radius, star != 0);
  const long voxels = shape->voxels(), count = all.size();
  Patches f(*shape, window, 0, 0), m(*shape, window, radius_d, radius);
  for (long item = 0; item < shape->batch * shape->channels; ++item) {
    const long b = item / shape->channels, channel = item % shape->channels;
    f.values.fill_from(fixed + item * voxels, *shape, border != 0, f.value.data());
    m.values.fill_from(moving + item * voxels, *shape, border != 0, m.value.data());
    parallel(4, threads, [&](long i, long) { (i < 2 ? m : f).average(window, i % 2); });
    parallel(2, threads, [&](long i, long) { (i ? m : f).finish(least_variance); });
    parallel(count, threads, [&](long i, long) {
      Kept *out = cost + (b * count + i) * voxels;
      correlate(f, m, window, *shape, all[i], scale, add || channel > 0, out);
    });
  }
}
