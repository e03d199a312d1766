// The adaptive Gaussian, forward; in place or not.

#include "message_passing.hpp"

namespace {

template <long RADIUS>
void smooth_slab(const Filter<RADIUS> &filter, const Kept *volume, Kept *out, const Powers &powers,
                 const Slab &slab) {
  const Shape &shape = filter.shape;
  const long plane = shape.plane(), width = shape.width, height = shape.height;
  const long radius = filter.radius(), places = 2 * radius + 1, kept = radius + 1;
  // Planes around the one at hand, as they were before filtering, and the weights of some rows: a
  // row is filtered along H as soon as those after it are filtered across planes.
  Buffer ring(filter.across ? places * plane : 0), w(kept * kept * width);
  Buffer mixed(plane), padded(filter.padded()), zeros(filter.border ? 0 : plane);
  float *row = &padded[filter.margin()];
  Taps taps(radius), planes(radius);
  auto original = [&](long i) -> const float * {
    if (i < 0 || i >= shape.depth) {
      if (!filter.border) return zeros.data();
      i = clamp(i, shape.depth);
    }
    const bool inside = i >= slab.first && i < slab.last;
    return inside ? &ring[i % places * plane] : slab.outside(i, plane);
  };
  auto weights_of = [&](long h) { return &w[h % kept * kept * width]; };
  long next = slab.first;  // to come into the ring
  for (long d = slab.first; d < slab.last; ++d) {
    for (; filter.across && next < std::min(slab.last, d + radius + 1); ++next) {
      convert(volume + next * plane, plane, &ring[next % places * plane]);
    }
    if (!filter.across) convert(volume + d * plane, plane, mixed.data());
    for (long j = 0; j <= radius && filter.across; ++j) {
      planes.before[j] = original(d - j);
      planes.after[j] = original(d + j);
    }
    for (long ahead = 0; ahead < height + radius; ++ahead) {
      if (ahead < height) {
        const long here = ahead * width;
        filter.weights(&powers.q.at[d * plane + here], &powers.centre.at[d * plane + here], width,
                       weights_of(ahead));
        for (long j = 0; j <= radius && filter.across; ++j) {
          taps.before[j] = planes.before[j] + here;
          taps.after[j] = planes.after[j] + here;
        }
        if (filter.across) filter.mix(taps, weights_of(ahead), width, width, &mixed[here]);
      }
      const long h = ahead - radius;
      if (h < 0) continue;
      filter.template around<const float *>(mixed.data(), h, height, width, zeros.data(), taps);
      filter.mix(taps, weights_of(h), width, width, row);
      filter.row_around(row, taps);
      filter.mix(taps, weights_of(h), width, width, out + d * plane + h * width);
    }
  }
}

// All volumes of one sample.
template <long RADIUS>
void smooth(const Filter<RADIUS> &filter, const Kept *image, Kept *out, const float *sigma,
            long threads) {
  const std::vector<Slab> slabs = cut(filter, image, threads);
  const Powers powers(filter, sigma, threads);
  parallel(slabs.size(), threads, [&](long item, long) {
    const long start = slabs[item].volume * filter.shape.voxels();
    smooth_slab(filter, image + start, out + start, powers, slabs[item]);
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
