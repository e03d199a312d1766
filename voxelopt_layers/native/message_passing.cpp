// The adaptive Gaussian, forward; in place or not.

#include "message_passing.hpp"

namespace {

// One slab of planes of one volume; where that is filtered in place by several threads, with the
// original planes beside it.
struct Slab {
  long first, last;
  Buffer before, after;
};

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
    if (i < slab.first) return &slab.before[(i - std::max(0L, slab.first - radius)) * plane];
    if (i >= slab.last) return &slab.after[(i - slab.last) * plane];
    return &ring[i % places * plane];
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
  const Shape &shape = filter.shape;
  const long volumes = shape.channels, depth = shape.depth, radius = filter.radius();
  const long plane = shape.plane(), voxels = shape.voxels();
  // A volume is cut into slabs only where there are too few volumes for the threads.
  const long wanted = volumes >= 4 * threads ? 1 : (2 * threads + volumes - 1) / volumes;
  const long thick = std::max(1L, (depth + wanted - 1) / wanted);
  const long slabs = (depth + thick - 1) / thick;
  std::vector<Slab> all(volumes * slabs);
  parallel(volumes * slabs, threads, [&](long item, long) {
    const Kept *volume = image + item / slabs * voxels;
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
    const long start = item / slabs * voxels;
    smooth_slab(filter, image + start, out + start, sigma, all[item]);
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
