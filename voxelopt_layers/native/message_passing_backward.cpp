// The gradients of the adaptive Gaussian.

#include "message_passing.hpp"

namespace {

// Adds to `sums` what one axis says of sigma: with y = sum_j w_j x_j and the moment
// m = sum_j j^2 w_j x_j, dy / dsigma = (m - y sum_j j^2 w_j) / sigma^3, whose divisor comes last.
void add_sigma_gradient(const float *grad, const float *y, const float *moment,
                        const float *squares, long n, float *sums) {
  sixteen_at_a_time(n, [&](long x, auto left) {
    const Lanes slope = load(moment + x, left) - load(squares + x, left) * load(y + x, left);
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
// sums of sigma, within a slab. One pass over the planes that reach it; those whose sums are not
// complete wait in a ring.
template <long RADIUS>
void smooth_slab_backward(const Filter<RADIUS> &filter, const float *image, const Powers &powers,
                          float *grad, float *sums, const Slab &slab) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, height = shape.height;
  const long depth = shape.depth, radius = filter.radius(), places = 2 * radius + 1;
  Buffer w((radius + 1) * plane), squares(plane), zeros(filter.border ? 0 : plane), lost(plane);
  Buffer across(plane), by_across(plane);
  Buffer across_moment(plane), row_moment(width), inner(width), filtered(width), moment(width);
  Buffer products((radius + 1) * filter.padded()), ring(filter.across ? places * plane : 0);
  Buffer padded(filter.padded());
  float *row = &padded[filter.margin()];
  Taps taps(radius);
  Around<float *> to(radius);
  auto in_ring = [&](long i) { return &ring[(i + places) % places * plane]; };

  const long start = std::max(0L, slab.first - radius), end = std::min(depth, slab.last + radius);
  for (long d = start; d < end; ++d) {
    const bool inside = d >= slab.first && d < slab.last;
    const float *g = inside ? grad + d * plane : slab.outside(d, plane);
    // Planes outside have their share of sigma's gradient in their own slab.
    float *sum = inside ? sums + d * plane : lost.data();
    const float *mixed = image + d * plane;
    filter.template weights<true>(powers.q.at + d * plane, powers.centre.at + d * plane, plane,
                                  w.data(), squares.data());
    if (filter.across) {
      filter.template around<const float *>(image, d, depth, plane, zeros.data(), taps);
      filter.template mix<true>(taps, w.data(), plane, plane, across.data(), across_moment.data());
      mixed = across.data();
    }
    std::fill(by_across.begin(), by_across.end(), 0.0f);
    for (long h = 0; h < height; ++h) {
      const long here = h * width;
      const float *row_w = &w[here];
      filter.template around<const float *>(mixed, h, height, width, zeros.data(), taps);
      filter.template mix<true>(taps, row_w, plane, width, row, row_moment.data());
      filter.row_around(row, taps);
      filter.template mix<true>(taps, row_w, plane, width, filtered.data(), moment.data());
      add_sigma_gradient(g + here, filtered.data(), moment.data(), &squares[here], width,
                         sum + here);
      spread_along(filter, g + here, row_w, products.data(), inner.data());
      add_sigma_gradient(inner.data(), row, row_moment.data(), &squares[here], width, sum + here);
      filter.around(by_across.data(), h, height, width, lost.data(), to);
      spread(filter, inner.data(), row_w, width, to);
    }
    if (!filter.across) {
      std::copy(by_across.begin(), by_across.end(), grad + d * plane);
      continue;
    }
    add_sigma_gradient(by_across.data(), across.data(), across_moment.data(), squares.data(), plane,
                       sum);
    for (long i = d == start ? d : d + 2 * radius; i <= d + 2 * radius; ++i) {  // as many places
      std::fill(in_ring(i - radius), in_ring(i - radius) + plane, 0.0f);
    }
    for (long j = 0; j <= radius; ++j) {
      const bool above = filter.border || d >= j, below = filter.border || d + j < depth;
      to.before[j] = above ? in_ring(clamp(d - j, depth)) : lost.data();
      to.after[j] = below ? in_ring(clamp(d + j, depth)) : lost.data();
    }
    spread(filter, by_across.data(), w.data(), plane, to);
    const long complete = d + 1 < depth ? d - radius : d;
    for (long i = std::max(slab.first, d - radius); i <= std::min(complete, slab.last - 1); ++i) {
      std::copy(in_ring(i), in_ring(i) + plane, grad + i * plane);
    }
  }
}

// All volumes of one sample.
template <class T, long RADIUS>
void smooth_backward(const Filter<RADIUS> &filter, const T *image, const float *sigma, float *grad,
                     float *grad_sigma, long threads) {
  const long voxels = filter.shape.voxels(), plane = filter.shape.plane();
  const std::vector<Slab> slabs = cut(filter, grad, threads);
  threads = std::max(1L, std::min(threads, long(slabs.size())));
  std::vector<Buffer> sums(threads, Buffer(voxels)), wide(threads);
  const Powers powers(filter, sigma, threads);
  parallel(slabs.size(), threads, [&](long item, long thread) {
    const Slab &slab = slabs[item];
    const long start = slab.volume * voxels;
    const float *volume;
    if constexpr (std::is_same<T, float>()) {
      volume = image + start;
    } else {
      wide[thread].resize(voxels);
      convert(image + start, voxels, wide[thread].data());
      volume = wide[thread].data();
    }
    smooth_slab_backward(filter, volume, powers, grad + start, sums[thread].data(), slab);
  });
  parallel(filter.shape.depth, threads, [&](long d, long) {
    for (const auto &sum : sums) {
      sixteen_at_a_time(plane, [&](long i, auto left) {
        const long at = d * plane + i;
        const Lanes s = load(sigma + at, left), change = load(&sum[at], left) / (s * s * s);
        store(load(grad_sigma + at, left) + change, grad_sigma + at, left);
      });
    }
  });
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
      smooth_backward(filter, image + start, sigma + b * voxels, grad + start,
                          grad_sigma + b * voxels, threads);
    });
  }
}
