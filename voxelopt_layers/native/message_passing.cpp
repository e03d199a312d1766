// The adaptive Gaussian of ../message_passing.py, in place, forward and backward.
//
// Planes along D are filtered one after another: across planes, then along H and W within the
// plane. Weights are made from sigma plane by plane, which costs less than reading them.

#include "common.hpp"

namespace {

// Rows (or planes) j before and j after the one to be filtered, which is number 0 of both.
struct Taps {
  std::vector<const float *> before, after;
  explicit Taps(long radius) : before(radius + 1), after(radius + 1) {}
};

struct Filter {
  Shape shape;
  long radius;
  bool border, across;  // across: along D too

  // w[j * n] for taps 0 to radius: exp(-j^2 / (2 sigma^2)), normalised. Each is made of the one
  // before: q^(j^2) is q^((j - 1)^2) times q^(2 j - 1).
  void weights(const float *sigma, long n, float *w) const {
    sixteen_at_a_time(n, [&](long x, auto left) {
      const Lanes s = load(sigma + x, left), q = exp(-0.5f / (s * s));
      Lanes tap = fill(1.0f), ratio = q, sum = fill(1.0f);
      for (long j = 1; j <= radius; ++j) {
        tap *= ratio;
        ratio *= q * q;
        sum += 2 * tap;
        store(tap, w + j * n + x, left);
      }
      const Lanes centre = 1.0f / sum;
      store(centre, w + x, left);
      for (long j = 1; j <= radius; ++j) {
        store(load(w + j * n + x, left) * centre, w + j * n + x, left);
      }
    });
  }

  // out = sum_j w_j (before_j + after_j); `moment`, if not null, is the same with j^2 w_j.
  template <class T>
  void mix(const Taps &taps, const float *w, long stride, long n, T *out,
           float *moment = nullptr) const {
    sixteen_at_a_time(n, [&](long x, auto left) {
      Lanes sum = load(w + x, left) * load(taps.before[0] + x, left), squares = {};
      for (long j = 1; j <= radius; ++j) {
        const Lanes both = load(taps.before[j] + x, left) + load(taps.after[j] + x, left);
        const Lanes part = load(w + j * stride + x, left) * both;
        sum += part;
        squares += float(j * j) * part;
      }
      store(sum, out + x, left);
      if (moment) store(squares, moment + x, left);
    });
  }

  // Row (or plane) i of n, each `size` long, continued beyond the ends.
  const float *at(const float *rows, long i, long n, long size, const float *zeros) const {
    if (i >= 0 && i < n) return rows + i * size;
    return border ? rows + clamp(i, n) * size : zeros;
  }

  void rows_around(const float *plane, long h, const float *zeros, Taps &taps) const {
    for (long j = 0; j <= radius; ++j) {
      taps.before[j] = at(plane, h - j, shape.height, shape.width, zeros);
      taps.after[j] = at(plane, h + j, shape.height, shape.width, zeros);
    }
  }

  // Continues the row that starts at `radius` of its buffer; its taps lie beside it.
  void row_around(float *buffer, Taps &taps) const {
    const float first = buffer[radius], last = buffer[radius + shape.width - 1];
    std::fill(buffer, buffer + radius, border ? first : 0.0f);
    std::fill(buffer + radius + shape.width, buffer + 2 * radius + shape.width,
              border ? last : 0.0f);
    for (long j = 0; j <= radius; ++j) {
      taps.before[j] = buffer + radius - j;
      taps.after[j] = buffer + radius + j;
    }
  }
};

// One slab of planes of one volume, with the original planes beside it.
struct Slab {
  long first, last;
  std::vector<float> before, after;
};

template <class T>
void smooth_slab(const Filter &filter, T *volume, const float *sigma, const Slab &slab) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, radius = filter.radius;
  // Planes around the one at hand, as they were before filtering.
  const long places = 2 * radius + 1;
  std::vector<float> w((radius + 1) * plane), mixed(plane);
  std::vector<float> ring(filter.across ? places * plane : 0);
  std::vector<float> buffer(width + 2 * radius), zeros(filter.border ? width : plane);
  Taps taps(radius);
  auto original = [&](long i) -> const float * {
    if (i < 0 || i >= shape.depth) {
      if (!filter.border) return zeros.data();
      i = clamp(i, shape.depth);
    }
    if (i < slab.first) return &slab.before[(i - std::max(0L, slab.first - radius)) * plane];
    if (i >= slab.last) return &slab.after[(i - slab.last) * plane];
    return &ring[i % places * plane];
  };
  long next = slab.first;  // to come into the ring
  for (long d = slab.first; d < slab.last; ++d) {
    T *here = volume + d * plane;
    filter.weights(sigma + d * plane, plane, w.data());
    if (filter.across) {
      for (; next < std::min(slab.last, d + radius + 1); ++next) {
        convert(volume + next * plane, plane, &ring[next % places * plane]);
      }
      for (long j = 0; j <= radius; ++j) {
        taps.before[j] = original(d - j);
        taps.after[j] = original(d + j);
      }
      filter.mix(taps, w.data(), plane, plane, mixed.data());
    } else {
      convert(here, plane, mixed.data());
    }
    for (long h = 0; h < shape.height; ++h) {
      filter.rows_around(mixed.data(), h, zeros.data(), taps);
      filter.mix(taps, &w[h * width], plane, width, &buffer[radius]);
      filter.row_around(buffer.data(), taps);
      filter.mix(taps, &w[h * width], plane, width, here + h * width);
    }
  }
}

// Adds to grad_sigma what one axis says: with y = sum_j w_j x_j and the moment m = sum_j j^2 w_j
// x_j, dy / dsigma = (m - y sum_j j^2 w_j) / sigma^3.
void add_sigma_gradient(const float *grad, const float *y, const float *moment, const float *w,
                        const float *sigma, long stride, long n, long radius, float *grad_sigma) {
  sixteen_at_a_time(n, [&](long x, auto left) {
    Lanes mean_square = {};
    for (long j = 1; j <= radius; ++j) mean_square += 2.0f * j * j * load(w + j * stride + x, left);
    const Lanes s = load(sigma + x, left);
    const Lanes slope = (load(moment + x, left) - mean_square * load(y + x, left)) / (s * s * s);
    store(load(grad_sigma + x, left) + load(grad + x, left) * slope, grad_sigma + x, left);
  });
}

// Adds w_j g to the rows (or planes) j before and j after: what `mix` read, it writes.
void spread(const float *grad, const float *w, long stride, long n, long radius,
            const std::vector<float *> &before, const std::vector<float *> &after) {
  sixteen_at_a_time(n, [&](long x, auto left) {
    const Lanes g = load(grad + x, left);
    for (long j = 0; j <= radius; ++j) {
      const Lanes part = load(w + j * stride + x, left) * g;
      if (before[j]) store(load(before[j] + x, left) + part, before[j] + x, left);
      if (after[j] && j) store(load(after[j] + x, left) + part, after[j] + x, left);
    }
  });
}

// The same along a row: out(x) = sum_j (w_j g)(x - j) + (w_j g)(x + j). `products` holds a row for
// every j, with `radius` zeros at both ends.
void spread_along(const Filter &filter, const float *grad, const float *w, float *products,
                  float *out) {
  const long n = filter.shape.width, radius = filter.radius, padded = n + 2 * radius;
  for (long j = 0; j <= radius; ++j) {
    float *to = products + j * padded + radius;
    const float *wj = w + j * filter.shape.plane();
    for (long x = 0; x < n; ++x) to[x] = wj[x] * grad[x];
  }
  sixteen_at_a_time(n, [&](long x, auto left) {
    Lanes sum = load(products + radius + x, left);
    for (long j = 1; j <= radius; ++j) {
      const float *from = products + j * padded + radius + x;
      sum += load(from - j, left) + load(from + j, left);
    }
    store(sum, out + x, left);
  });
  for (long j = 1; j <= radius && filter.border; ++j) {  // what went beyond the ends
    const float *from = products + j * padded + radius;
    for (long i = 0; i < std::min(j, n); ++i) {
      out[0] += from[i];
      out[n - 1] += from[n - 1 - i];
    }
  }
}

// Turns the gradient of one filtered volume into that of the volume, in place, and adds to that of
// sigma. One pass over the planes; those whose sums are not complete wait in a ring.
void smooth_backward(const Filter &filter, const float *image, const float *sigma, float *grad,
                     float *grad_sigma) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, height = shape.height;
  const long depth = shape.depth, radius = filter.radius, places = 2 * radius + 1;
  std::vector<float> w((radius + 1) * plane), zeros(filter.border ? width : plane);
  std::vector<float> across(plane), across_moment(plane), row_moment(width), inner(width);
  std::vector<float> buffer(width + 2 * radius), filtered(width), moment(width);
  std::vector<float> products((radius + 1) * (width + 2 * radius)), by_across(plane);
  std::vector<float> ring(filter.across ? places * plane : 0);
  Taps taps(radius);
  std::vector<float *> before(radius + 1), after(radius + 1);

  for (long d = 0; d < depth; ++d) {
    float *g = grad + d * plane;
    const float *s = sigma + d * plane, *mixed = image + d * plane;
    float *by_sigma = grad_sigma + d * plane;
    filter.weights(s, plane, w.data());
    if (filter.across) {
      for (long j = 0; j <= radius; ++j) {
        taps.before[j] = filter.at(image, d - j, depth, plane, zeros.data());
        taps.after[j] = filter.at(image, d + j, depth, plane, zeros.data());
      }
      filter.mix(taps, w.data(), plane, plane, across.data(), across_moment.data());
      mixed = across.data();
    }
    std::fill(by_across.begin(), by_across.end(), 0.0f);
    for (long h = 0; h < height; ++h) {
      const long here = h * width;
      filter.rows_around(mixed, h, zeros.data(), taps);
      filter.mix(taps, &w[here], plane, width, &buffer[radius], row_moment.data());
      filter.row_around(buffer.data(), taps);
      filter.mix(taps, &w[here], plane, width, filtered.data(), moment.data());
      add_sigma_gradient(g + here, filtered.data(), moment.data(), &w[here], s + here, plane, width,
                         radius, by_sigma + here);
      spread_along(filter, g + here, &w[here], products.data(), inner.data());
      add_sigma_gradient(inner.data(), &buffer[radius], row_moment.data(), &w[here], s + here, plane,
                         width, radius, by_sigma + here);
      for (long j = 0; j <= radius; ++j) {
        const bool above = h - j >= 0, below = h + j < height;
        const long top = clamp(h - j, height), bottom = clamp(h + j, height);
        before[j] = above || filter.border ? &by_across[top * width] : nullptr;
        after[j] = below || filter.border ? &by_across[bottom * width] : nullptr;
      }
      spread(inner.data(), &w[here], plane, width, radius, before, after);
    }
    if (!filter.across) {
      std::copy(by_across.begin(), by_across.end(), g);
      continue;
    }
    add_sigma_gradient(by_across.data(), across.data(), across_moment.data(), w.data(), s, plane,
                       plane, radius, by_sigma);
    for (long i = d == 0 ? 0 : d + radius; i <= d + radius; ++i) {
      float *fresh = &ring[i % places * plane];
      std::fill(fresh, fresh + plane, 0.0f);
    }
    for (long j = 0; j <= radius; ++j) {
      const bool above = d - j >= 0, below = d + j < depth;
      const long top = clamp(d - j, depth), bottom = clamp(d + j, depth);
      before[j] = above || filter.border ? &ring[top % places * plane] : nullptr;
      after[j] = below || filter.border ? &ring[bottom % places * plane] : nullptr;
    }
    spread(by_across.data(), w.data(), plane, plane, radius, before, after);
    for (long i = d - radius; i <= (d + 1 < depth ? d - radius : d); ++i) {
      if (i < 0) continue;
      const float *done = &ring[i % places * plane];
      std::copy(done, done + plane, grad + i * plane);
    }
  }
}

template <class T>
void smooth(T *image, const float *sigma, const Shape *shape, long across, long radius, long border,
            long threads) {
  const Filter filter{*shape, radius, border != 0, across != 0};
  const long volumes = shape->batch * shape->channels, depth = shape->depth;
  const long plane = shape->plane(), voxels = shape->voxels();
  // A volume is cut into slabs only where there are too few volumes for the threads.
  const long wanted = volumes >= 4 * threads ? 1 : (2 * threads + volumes - 1) / volumes;
  const long thick = std::max(1L, (depth + wanted - 1) / wanted);
  const long slabs = (depth + thick - 1) / thick;
  std::vector<Slab> all(volumes * slabs);
  parallel(volumes * slabs, threads, [&](long item, long) {
    const T *volume = image + item / slabs * voxels;
    Slab &slab = all[item];
    slab.first = item % slabs * thick;
    slab.last = std::min(depth, slab.first + thick);
    if (!filter.across || slabs == 1) return;
    const long from = std::max(0L, slab.first - radius), to = std::min(depth, slab.last + radius);
    slab.before.resize((slab.first - from) * plane);
    convert(volume + from * plane, slab.before.size(), slab.before.data());
    slab.after.resize((to - slab.last) * plane);
    convert(volume + slab.last * plane, slab.after.size(), slab.after.data());
  });
  parallel(volumes * slabs, threads, [&](long item, long) {
    const long volume = item / slabs;
    smooth_slab(filter, image + volume * voxels, sigma + volume / shape->channels * voxels,
                all[item]);
  });
}

template <class T>
void smooth_backward_all(const T *image, const float *sigma, float *grad, float *grad_sigma,
                         const Shape *shape, long across, long radius, long border, long threads) {
  const Filter filter{*shape, radius, border != 0, across != 0};
  const long channels = shape->channels, voxels = shape->voxels();
  threads = std::max(1L, std::min(threads, channels));
  std::vector<std::vector<float>> sums(threads);
  for (long b = 0; b < shape->batch; ++b) {
    for (auto &sum : sums) sum.assign(voxels, 0.0f);
    parallel(channels, threads, [&](long c, long thread) {
      const long start = (b * channels + c) * voxels;
      std::vector<float> wide(std::is_same<T, float>() ? 0 : voxels);
      convert(image + start, wide.size(), wide.data());
      const float *volume = wide.data();
      if constexpr (std::is_same<T, float>()) volume = image + start;
      smooth_backward(filter, volume, sigma + b * voxels, grad + start, sums[thread].data());
    });
    for (const auto &sum : sums) {
      for (long i = 0; i < voxels; ++i) grad_sigma[b * voxels + i] += sum[i];
    }
  }
}

}  // namespace

extern "C" void voxelopt_smooth(void *image, const float *sigma, long kept, const Shape *shape,
                                long across, long radius, long border, long threads) {
  by_type(kept, [&](auto *null) {
    smooth(static_cast<decltype(null)>(image), sigma, shape, across, radius, border, threads);
  });
}

// `grad` becomes the gradient of the image, in place; adds to grad_sigma, thread by thread.
extern "C" void voxelopt_smooth_backward(const void *image, const float *sigma, float *grad,
                                         float *grad_sigma, long kept, const Shape *shape,
                                         long across, long radius, long border, long threads) {
  by_type(kept, [&](auto *null) {
    smooth_backward_all(static_cast<decltype(null)>(const_cast<void *>(image)), sigma, grad,
                        grad_sigma, shape, across, radius, border, threads);
  });
}
