// Linear sampling at x + u(x) of ../displacement.py, forward and backward.

#include "common.hpp"

namespace {

// One axis of one row of samples: the two voxels around each, the share of the upper one, and
// whether they lie inside (1) or count as 0.
struct Axis {
  std::vector<int32_t> low, high;
  std::vector<float> low_weight, high_weight, low_slope, high_slope;

  void resize(long n) {
    for (auto *v : {&low, &high}) v->resize(n);
    for (auto *v : {&low_weight, &high_weight, &low_slope, &high_slope}) v->resize(n);
  }

  // Samples at `start + i * step + u[i]` of an axis of `length` voxels, `stride` apart.
  void locate(const float *u, long n, float start, float step, long length, long stride,
              bool border) {
    const float top = float(length - 1);
    const float lowest = border ? 0.0f : -1.0f, highest = border ? top : top + 1;
    for (long i = 0; i < n; ++i) {
      const float wanted = start + i * step + u[i];  // NaN becomes an index too
      const float x = std::min(std::max(lowest, wanted), highest);
      const float below = std::min(std::floor(x), highest - 1), share = x - below;
      // Beyond the ends nothing changes with the coordinate.
      const float moves = wanted > lowest && wanted < highest ? 1.0f : 0.0f;
      const float low_in = below >= 0 ? 1.0f : 0.0f, high_in = below + 1 <= top ? 1.0f : 0.0f;
      low[i] = int32_t(std::max(below, 0.0f)) * int32_t(stride);
      high[i] = int32_t(std::min(below + 1, top)) * int32_t(stride);
      const float nan = wanted == wanted ? 0.0f : wanted;  // is handed on
      low_weight[i] = (1 - share) * low_in + nan;
      high_weight[i] = share * high_in;
      low_slope[i] = -moves * low_in;
      high_slope[i] = moves * high_in;
    }
  }
};

struct Row {
  Axis d, h, w;
  void locate(const float *u, const Shape &shape, long axes, long depth, long height, bool border) {
    const long voxels = shape.voxels(), n = shape.width;
    for (Axis *axis : {&d, &h, &w}) axis->resize(n);
    const float *last = u + (axes - 1) * voxels;
    w.locate(last, n, 0, 1, shape.width, 1, border);
    h.locate(last - voxels, n, float(height), 0, shape.height, shape.width, border);
    if (axes == 3) {
      d.locate(u, n, float(depth), 0, shape.depth, shape.plane(), border);
    } else {
      std::fill(d.low.begin(), d.low.end(), 0);
      std::fill(d.low_weight.begin(), d.low_weight.end(), 1.0f);
    }
  }
};

}  // namespace

// out = warped image (+ displacement, where `add`: the composition of two displacements).
extern "C" void voxelopt_warp(const float *image, const float *displacement, float *out,
                              const Shape *shape, long axes, long border, long add, long threads) {
  const long voxels = shape->voxels(), n = shape->width, channels = shape->channels;
  const long lines = shape->depth * shape->height;
  parallel(shape->batch * lines, threads, [&](long item, long) {
    static thread_local Row row;
    const long b = item / lines, line = item % lines, here = line * n;
    const float *u = displacement + b * axes * voxels + here;
    row.locate(u, *shape, axes, line / shape->height, line % shape->height, border != 0);
    const Axis &d = row.d, &h = row.h, &w = row.w;
    for (long c = 0; c < channels; ++c) {
      const float *from = image + (b * channels + c) * voxels;
      float *to = out + (b * channels + c) * voxels + here;
      auto plane = [&](const int32_t *start, long i) {
        const float *low = from + start[i] + h.low[i], *high = from + start[i] + h.high[i];
        return h.low_weight[i] *
                   (w.low_weight[i] * low[w.low[i]] + w.high_weight[i] * low[w.high[i]]) +
               h.high_weight[i] *
                   (w.low_weight[i] * high[w.low[i]] + w.high_weight[i] * high[w.high[i]]);
      };
      if (axes == 3) {
        for (long i = 0; i < n; ++i) {
          to[i] = d.low_weight[i] * plane(d.low.data(), i) +
                  d.high_weight[i] * plane(d.high.data(), i);
        }
      } else {
        for (long i = 0; i < n; ++i) to[i] = plane(d.low.data(), i);
      }
      for (long i = 0; add && i < n; ++i) to[i] += (u + c * voxels)[i];
    }
  });
}

// Adds to grad_image, no channel on two threads, since samples fall anywhere, and then to
// grad_displacement, row by row; either may be null, and both the same.
extern "C" void voxelopt_warp_backward(const float *image, const float *displacement,
                                       const float *grad, float *grad_image,
                                       float *grad_displacement, const Shape *shape, long axes,
                                       long border, long threads) {
  const long voxels = shape->voxels(), n = shape->width, channels = shape->channels;
  const long lines = shape->depth * shape->height;
  auto locate = [&](Row &row, long b, long line) {
    row.locate(displacement + b * axes * voxels + line * n, *shape, axes, line / shape->height,
               line % shape->height, border != 0);
  };
  if (grad_image) {
    const long groups = std::min(threads, channels);
    parallel(shape->batch * groups, threads, [&](long item, long) {
      Row row;
      const Axis &d = row.d, &h = row.h, &w = row.w;
      // Every group has each so many of the channels.
      auto scatter_row = [&](long volume, long line) {
        float *to = grad_image + volume * voxels;
        const float *g = grad + volume * voxels + line * n;
        for (long i = 0; i < n; ++i) {
          auto scatter = [&](float *plane, float share) {
            float *low = plane + h.low[i], *high = plane + h.high[i];
            low[w.low[i]] += share * h.low_weight[i] * w.low_weight[i];
            low[w.high[i]] += share * h.low_weight[i] * w.high_weight[i];
            high[w.low[i]] += share * h.high_weight[i] * w.low_weight[i];
            high[w.high[i]] += share * h.high_weight[i] * w.high_weight[i];
          };
          scatter(to + d.low[i], g[i] * d.low_weight[i]);
          if (axes == 3) scatter(to + d.high[i], g[i] * d.high_weight[i]);
        }
      };
      const long b = item / groups;
      for (long line = 0; line < lines; ++line) {
        locate(row, b, line);
        for (long c = item % groups; c < channels; c += groups) scatter_row(b * channels + c, line);
      }
    });
  }
  if (!grad_displacement) return;
  parallel(shape->batch * lines, threads, [&](long item, long) {
    static thread_local Row row;
    const long b = item / lines, here = item % lines * n;
    locate(row, b, item % lines);
    const Axis &d = row.d, &h = row.h, &w = row.w;
    float *out = grad_displacement + b * axes * voxels + here;
    float *by_w = out + (axes - 1) * voxels, *by_h = by_w - voxels;
    for (long c = 0; c < channels; ++c) {
      const float *from = image + (b * channels + c) * voxels;
      const float *g = grad + (b * channels + c) * voxels + here;
      for (long i = 0; i < n; ++i) {
        auto add = [&](const float *plane, float share) {
          const float *low = plane + h.low[i], *high = plane + h.high[i];
          const float a = low[w.low[i]], e = low[w.high[i]];
          const float f = high[w.low[i]], k = high[w.high[i]];
          by_w[i] += share * (h.low_weight[i] * (w.low_slope[i] * a + w.high_slope[i] * e) +
                              h.high_weight[i] * (w.low_slope[i] * f + w.high_slope[i] * k));
          const float lower = w.low_weight[i] * a + w.high_weight[i] * e;
          const float upper = w.low_weight[i] * f + w.high_weight[i] * k;
          by_h[i] += share * (h.low_slope[i] * lower + h.high_slope[i] * upper);
          return h.low_weight[i] * lower + h.high_weight[i] * upper;
        };
        const float lower = add(from + d.low[i], g[i] * d.low_weight[i]);
        if (axes == 3) {
          const float upper = add(from + d.high[i], g[i] * d.high_weight[i]);
          out[i] += g[i] * (d.low_slope[i] * lower + d.high_slope[i] * upper);
        }
      }
    }
  });
}
