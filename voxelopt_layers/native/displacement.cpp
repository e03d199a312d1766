// Linear sampling at x + u(x) of ../displacement.py, forward and backward, sixteen at a time.

#include "common.hpp"

namespace {

// Along one axis: the two voxels around each sample, their weights, and how these change with the
// coordinate.
struct Axis {
  IntLanes at[2] = {};
  Lanes weight[2] = {fill(1.0f), Lanes{}}, slope[2] = {};

  Axis() = default;  // that of an image without depth
  // Samples at `wanted` of an axis of `length` voxels, `stride` apart.
  Axis(const Lanes &wanted, long length, long stride, bool border) {
    const float top = float(length - 1), reach = border ? 0.0f : 1.0f;
    const Lanes lowest = fill(-reach), highest = fill(top + reach), none = {}, one = fill(1.0f);
    const Lanes x = smaller(larger(wanted, lowest), highest);  // NaN becomes an index too
    const Lanes towards_0 = __builtin_convertvector(__builtin_convertvector(x, IntLanes), Lanes);
    const Lanes down = towards_0 > x ? towards_0 - 1.0f : towards_0;
    const Lanes below = smaller(down, highest - 1.0f), share = x - below;
    const Lanes first = larger(below, none), second = smaller(below + 1.0f, fill(top));
    at[0] = __builtin_convertvector(first, IntLanes) * int32_t(stride);
    at[1] = __builtin_convertvector(second, IntLanes) * int32_t(stride);
    // Voxels outside count as 0; beyond the ends nothing changes with the coordinate.
    const Lanes low_in = below >= 0 ? one : none, high_in = below < top ? one : none;
    const Lanes moves = wanted > lowest ? (wanted < highest ? one : none) : none;
    const Lanes nan = wanted == wanted ? none : wanted;  // is handed on
    weight[0] = (1.0f - share) * low_in + nan;
    weight[1] = share * high_in;
    slope[0] = -moves * low_in;
    slope[1] = moves * high_in;
  }
};

struct Samples {
  Axis d, h, w;
  long planes;  // 2, or 1 of an image

  // Those of n voxels from (line, x) on.
  template <class Count>
  Samples(const float *displacement, const Shape &shape, long axes, long line, long x, Count n,
          bool border)
      : planes(axes - 1) {
    const long voxels = shape.voxels(), width = shape.width, height = shape.height;
    const float *last = displacement + (axes - 1) * voxels + line * width + x;
    const Lanes steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    w = Axis(steps + float(x) + load(last, n), width, 1, border);
    h = Axis(float(line % height) + load(last - voxels, n), height, width, border);
    if (axes < 3) return;
    d = Axis(float(line / height) + load(last - 2 * voxels, n), shape.depth, shape.plane(), border);
  }

  // work(corner, its place, its weight) for each of the 4 or 8 voxels around the samples.
  template <class Work> void corners(const Work &work) const {
    for (long i = 0; i < 4 * planes; ++i) {
      const long z = i / 4, y = i / 2 % 2, x = i % 2;
      work(i, d.at[z] + h.at[y] + w.at[x], d.weight[z] * h.weight[y] * w.weight[x]);
    }
  }
};

inline Lanes gather(const float *from, const IntLanes &at) {
#if defined(__AVX512F__)
  return Lanes(_mm512_i32gather_ps(__m512i(at), from, sizeof(float)));
#else
  Lanes x;
  for (long i = 0; i < LANES; ++i) x[i] = from[at[i]];
  return x;
#endif
}

}  // namespace

// out = warped image (+ displacement, where `add`: the composition of two displacements).
extern "C" void voxelopt_warp(const float *image, const float *displacement, float *out,
                              const Shape *shape, long axes, long border, long add, long threads) {
  const long voxels = shape->voxels(), channels = shape->channels;
  const long lines = shape->depth * shape->height;
  parallel(shape->batch * lines, threads, [&](long item, long) {
    const long b = item / lines, line = item % lines;
    const float *u = displacement + b * axes * voxels;
    sixteen_at_a_time(shape->width, [&](long x, auto left) {
      const Samples samples(u, *shape, axes, line, x, left, border != 0);
      IntLanes places[8];
      Lanes weights[8];
      samples.corners([&](long i, const IntLanes &at, const Lanes &weight) {
        places[i] = at;
        weights[i] = weight;
      });
      const long here = line * shape->width + x;
      for (long c = 0; c < channels; ++c) {
        const float *from = image + (b * channels + c) * voxels;
        Lanes sum = add ? load(u + c * voxels + here, left) : Lanes{};
        for (long i = 0; i < 4 * samples.planes; ++i) sum += weights[i] * gather(from, places[i]);
        store(sum, out + (b * channels + c) * voxels + here, left);
      }
    });
  });
}

// Adds to grad_image, no channel on two threads, since samples fall anywhere, and then to
// grad_displacement, line by line; either may be null, and both the same.
extern "C" void voxelopt_warp_backward(const float *image, const float *displacement,
                                       const float *grad, float *grad_image,
                                       float *grad_displacement, const Shape *shape, long axes,
                                       long border, long threads) {
  const long voxels = shape->voxels(), width = shape->width, channels = shape->channels;
  const long lines = shape->depth * shape->height;
  // Every group has each so many of the channels.
  const long groups = std::min(threads, channels);
  parallel(grad_image ? shape->batch * groups : 0, threads, [&](long item, long) {
    const long b = item / groups;
    for (long line = 0; line < lines; ++line) {
      sixteen_at_a_time(width, [&](long x, auto left) {
        const Samples samples(displacement + b * axes * voxels, *shape, axes, line, x, left,
                              border != 0);
        int32_t places[8][LANES];
        Lanes weights[8];
        samples.corners([&](long i, const IntLanes &at, const Lanes &weight) {
          std::memcpy(places[i], &at, sizeof at);
          weights[i] = weight;
        });
        for (long c = item % groups; c < channels; c += groups) {
          const long volume = (b * channels + c) * voxels;
          const Lanes g = load(grad + volume + line * width + x, left);
          float shares[8][LANES], *to = grad_image + volume;
          for (long i = 0; i < 4 * samples.planes; ++i) store(g * weights[i], shares[i]);
          for (long k = 0; k < left; ++k) {
            for (long i = 0; i < 4 * samples.planes; ++i) to[places[i][k]] += shares[i][k];
          }
        }
      });
    }
  });
  parallel(grad_displacement ? shape->batch * lines : 0, threads, [&](long item, long) {
    const long b = item / lines, line = item % lines;
    sixteen_at_a_time(width, [&](long x, auto left) {
      const Samples samples(displacement + b * axes * voxels, *shape, axes, line, x, left,
                            border != 0);
      const Axis &d = samples.d, &h = samples.h, &w = samples.w;
      Lanes change[3] = {};
      const long here = line * width + x;
      for (long c = 0; c < channels; ++c) {
        const float *from = image + (b * channels + c) * voxels;
        const Lanes g = load(grad + (b * channels + c) * voxels + here, left);
        for (long z = 0; z < samples.planes; ++z) {
          Lanes along_h = {}, slope_h = {}, slope_w = {};
          for (long y = 0; y < 2; ++y) {
            const IntLanes row = d.at[z] + h.at[y];
            const Lanes low = gather(from, row + w.at[0]), high = gather(from, row + w.at[1]);
            const Lanes along = w.weight[0] * low + w.weight[1] * high;
            along_h += h.weight[y] * along;
            slope_h += h.slope[y] * along;
            slope_w += h.weight[y] * (w.slope[0] * low + w.slope[1] * high);
          }
          const Lanes share = g * d.weight[z];
          change[0] += g * d.slope[z] * along_h;
          change[1] += share * slope_h;
          change[2] += share * slope_w;
        }
      }
      for (long axis = 0; axis < axes; ++axis) {
        float *to = grad_displacement + (b * axes + axis) * voxels + here;
        store(load(to, left) + change[3 - axes + axis], to, left);
      }
    });
  });
}
