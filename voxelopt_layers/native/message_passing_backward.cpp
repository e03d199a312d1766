// The gradients of the adaptive Gaussian.

#include "message_passing.hpp"

namespace {

// Adds to `sums` what one axis says of sigma: with y = sum_j w_j x_j and the moment
// m = sum_j j^2 w_j x_j, dy / dsigma = (m - y sum_j j^2 w_j) / sigma^3, whose divisor comes last.
template <long RADIUS>
void add_sigma_gradient(const Filter<RADIUS> &filter, const float *grad, const float *y,
                        const float *moment, const float *w, long n, float *sums) {
  const long stride = filter.shape.plane();
  sixteen_at_a_time(n, [&](long x, auto left) {
    Lanes squares = {};
    for (long j = 1; j <= filter.radius(); ++j) {
      squares += 2.0f * j * j * load(w + j * stride + x, left);
    }
    const Lanes slope = load(moment + x, left) - squares * load(y + x, left);
    store(load(sums + x, left) + load(grad + x, left) * slope, sums + x, left);
  });
}

// Adds w_j g to the rows (or planes) j before and j after: what `mix` read, it writes.
template <long RADIUS>
void spread(const Filter<RADIUS> &filter, const float *grad, const float *w, long n,
            const Around<float *> &to) {
  const long stride = filter.shape.plane();
  sixteen_at_a_time(n, [&](long x, auto left) {
    const Lanes g = load(grad + x, left);
    store(load(to.before[0] + x, left) + load(w + x, left) * g, to.before[0] + x, left);
    for (long j = 1; j <= filter.radius(); ++j) {
      const Lanes part = load(w + j * stride + x, left) * g;
      store(load(to.before[j] + x, left) + part, to.before[j] + x, left);
      store(load(to.after[j] + x, left) + part, to.after[j] + x, left);
    }
  });
}

// The same along a row: out(x) = sum_j (w_j g)(x - j) + (w_j g)(x + j). `products` holds a row for
// every j, with zeros at both ends.
template <long RADIUS>
void spread_along(const Filter<RADIUS> &filter, const float *grad, const float *w, float *products,
                  float *out) {
  const long n = filter.shape.width, radius = filter.radius(), padded = filter.padded();
  products += filter.margin();
  sixteen_at_a_time(n, [&](long x, auto left) {
    const Lanes g = load(grad + x, left);
    for (long j = 0; j <= filter.radius(); ++j) {
      const Lanes part = load(w + j * filter.shape.plane() + x, left) * g;
      store(part, products + j * padded + x, left);
    }
  });
  sixteen_at_a_time(n, [&](long x, auto left) {
    Lanes sum = load(products + x, left);
    for (long j = 1; j <= filter.radius(); ++j) {
      const float *from = products + j * padded + x;
      sum += load(from - j, left) + load(from + j, left);
    }
    store(sum, out + x, left);
  });
  for (long j = 1; j <= radius && filter.border; ++j) {  // what went beyond the ends
    const float *from = products + j * padded;
    for (long i = 0; i < std::min(j, n); ++i) {
      out[0] += from[i];
      out[n - 1] += from[n - 1 - i];
    }
  }
}

// Turns the gradient of one filtered volume into that of the volume, in place, and adds to the
// sums of sigma. One pass over the planes; those whose sums are not complete wait in a ring.
template <long RADIUS>
void smooth_backward(const Filter<RADIUS> &filter, const float *image, const float *sigma,
                     float *grad, float *sums) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, height = shape.height;
  const long depth = shape.depth, radius = filter.radius(), places = 2 * radius + 1;
  const long beyond = filter.border ? 0 : plane;
  Buffer w((radius + 1) * plane), zeros(beyond), lost(beyond), across(plane), by_across(plane);
  Buffer across_moment(plane), row_moment(width), inner(width), filtered(width), moment(width);
  Buffer products((radius + 1) * filter.padded()), ring(filter.across ? places * plane : 0);
  Buffer padded(filter.padded());
  float *row = &padded[filter.margin()];
  Taps taps(radius);
  Around<float *> to(radius);
  auto in_ring = [&](long i) { return &ring[i % places * plane]; };

  for (long d = 0; d < depth; ++d) {
    float *g = grad + d * plane, *sum = sums + d * plane;
    const float *mixed = image + d * plane;
    filter.weights(sigma + d * plane, plane, w.data());
    if (filter.across) {
      filter.template around<const float *>(image, d, depth, plane, zeros.data(), taps);
      filter.mix(taps, w.data(), plane, plane, across.data(), across_moment.data());
      mixed = across.data();
    }
    std::fill(by_across.begin(), by_across.end(), 0.0f);
    for (long h = 0; h < height; ++h) {
      const long here = h * width;
      const float *row_w = &w[here];
      filter.template around<const float *>(mixed, h, height, width, zeros.data(), taps);
      filter.mix(taps, row_w, plane, width, row, row_moment.data());
      filter.row_around(row, taps);
      filter.mix(taps, row_w, plane, width, filtered.data(), moment.data());
      add_sigma_gradient(filter, g + here, filtered.data(), moment.data(), row_w, width,
                         sum + here);
      spread_along(filter, g + here, row_w, products.data(), inner.data());
      add_sigma_gradient(filter, inner.data(), row, row_moment.data(), row_w, width,
                         sum + here);
      filter.around(by_across.data(), h, height, width, lost.data(), to);
      spread(filter, inner.data(), row_w, width, to);
    }
    if (!filter.across) {
      std::copy(by_across.begin(), by_across.end(), g);
      continue;
    }
    add_sigma_gradient(filter, by_across.data(), across.data(), across_moment.data(), w.data(),
                       plane, sum);
    for (long i = d == 0 ? 0 : d + radius; i <= d + radius; ++i) {
      std::fill(in_ring(i), in_ring(i) + plane, 0.0f);
    }
    for (long j = 0; j <= radius; ++j) {
      const bool above = filter.border || d >= j, below = filter.border || d + j < depth;
      to.before[j] = above ? in_ring(clamp(d - j, depth)) : lost.data();
      to.after[j] = below ? in_ring(clamp(d + j, depth)) : lost.data();
    }
    spread(filter, by_across.data(), w.data(), plane, to);
    for (long i = std::max(0L, d - radius); i <= (d + 1 < depth ? d - radius : d); ++i) {
      std::copy(in_ring(i), in_ring(i) + plane, grad + i * plane);
    }
  }
}

// All volumes of one sample.
template <class T, long RADIUS>
void smooth_backward_all(const Filter<RADIUS> &filter, const T *image, const float *sigma,
                         float *grad, float *grad_sigma, long threads) {
  const long channels = filter.shape.channels, voxels = filter.shape.voxels();
  threads = std::max(1L, std::min(threads, channels));
  std::vector<Buffer> sums(threads, Buffer(voxels));
  parallel(channels, threads, [&](long c, long thread) {
    Buffer wide(std::is_same<T, float>() ? 0 : voxels);
    convert(image + c * voxels, wide.size(), wide.data());
    const float *volume = wide.data();
    if constexpr (std::is_same<T, float>()) volume = image + c * voxels;
    smooth_backward(filter, volume, sigma, grad + c * voxels, sums[thread].data());
  });
  for (const auto &sum : sums) {
    for (long i = 0; i < voxels; ++i) grad_sigma[i] += sum[i] / (sigma[i] * sigma[i] * sigma[i]);
  }
}

}  // namespace

// `grad` becomes the gradient of the image, in place; adds to grad_sigma, thread by thread.
extern "C" void voxelopt_smooth_backward(const Kept *image, const float *sigma, float *grad,
                                         float *grad_sigma, const Shape *shape, long across,
                                         long radius, long border, long threads) {
  const long voxels = shape->voxels();
  for (long b = 0; b < shape->batch; ++b) {
    const long start = b * shape->channels * voxels;
    by_radius(*shape, radius, border, across, [&](const auto &filter) {
      smooth_backward_all(filter, image + start, sigma + b * voxels, grad + start,
                          grad_sigma + b * voxels, threads);
    });
  }
}
