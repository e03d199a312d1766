// The adaptive Gaussian, forward; in place or not.

#include "message_passing.hpp"

namespace {

template <long RADIUS>
void smooth_slab(const Filter<RADIUS> &filter, const Kept *volume, Kept *out, const float *sigma,
                 const Slab &slab) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, radius = filter.radius();
  // Planes around the one at hand, as they were before filtering.
  const long places = 2 * radius + 1;
  Buffer w((radius + 1) * plane), mixed(plane), ring(filter.across ? places * plane : 0);
  Buffer padded(filter.padded()), zeros(filter.border ? 0 : plane);
  float *row = &padded[filter.margin()];
  Taps taps(radius);
  auto original = [&](long i) -> const float * {
    if (i < 0 || i >= shape.depth) {
      if (!filter.border) return zeros.data();
      i = clamp(i, shape.depth);
    }
    const bool inside = i >= slab.first && i < slab.last;
    return inside ? &ring[i % places * plane] : slab.outside(i, plane);
  };
  long next = slab.first;  // to come into the ring
  for (long d = slab.first; d < slab.last; ++d) {
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
      convert(volume + d * plane, plane, mixed.data());
    }
    for (long h = 0; h < shape.height; ++h) {
      filter.template around<const float *>(mixed.data(), h, shape.height, width, zeros.data(),
                                            taps);
      filter.mix(taps, &w[h * width], plane, width, row);
      filter.row_around(row, taps);
      filter.mix(taps, &w[h * width], plane, width, out + d * plane + h * width);
    }
  }
}

// All volumes of one sample.
template <long RADIUS>
void smooth(const Filter<RADIUS> &filter, const Kept *image, Kept *out, const float *sigma,
            long threads) {
  const std::vector<Slab> slabs = cut(filter, image, threads);
  parallel(slabs.size(), threads, [&](long item, long) {
    const long start = slabs[item].volume * filter.shape.voxels();
    smooth_slab(filter, image + start, out + start, sigma, slabs[item]);
  });
}

}  // namespace

// `out` may be the image itself.
extern "C" void voxelopt_smooth(const Kept *image, const float *sigma, Kept *out,
                                const Shape *shape, long across, long radius, long border,
                                long threads) {
  const long voxels = shape->voxels();
  for (long b = 0; b < shape->batch; ++b) {
    const long start = b * shape->channels * voxels;
    by_radius(*shape, radius, border, across, [&](const auto &filter) {
      smooth(filter, image + start, out + start, sigma + b * voxels, threads);
    });
  }
}
