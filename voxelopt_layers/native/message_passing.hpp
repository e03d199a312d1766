// The adaptive Gaussian of ../message_passing.py along one axis: what forward and backward share.
//
// Planes along D are filtered one after another: across planes, then along H and W within the
// plane. Weights are made plane by plane from two numbers of each voxel, which costs less than
// reading them, or than making them from sigma.
#pragma once

#include "common.hpp"

namespace {

// Rows (or planes) j before and j after the one to be filtered, which is number 0 of both.
template <class Pointer> struct Around {
  std::vector<Pointer> before, after;
  explicit Around(long radius) : before(radius + 1), after(radius + 1) {}
};
using Taps = Around<const float *>;

// RADIUS is the filter's, or 0 where that is known at run time alone.
template <long RADIUS> struct Filter {
  Shape shape;
  long any_radius;
  bool border, across;  // across: along D too
  long radius() const { return RADIUS ? RADIUS : any_radius; }
  // Of a row with room for `radius` voxels more on both sides.
  long margin() const { return whole_lines(radius()); }
  long padded() const { return whole_lines(shape.width) + 2 * margin(); }

  // What the weights of n voxels are made of: q = exp(-1 / (2 sigma^2)), whose power j^2 is that of
  // tap j, and the weight of the centre, by which they sum to 1. (q^(j^2) is q^((j - 1)^2) times
  // q^(2 j - 1).)
  void powers(const float *sigma, long n, float *q, float *centre) const {
    sixteen_at_a_time(n, [&](long x, auto left) {
      const Lanes s = load(sigma + x, left), first = exp(-0.5f / (s * s)), square = first * first;
      Lanes tap = fill(1.0f), ratio = first, sum = tap;
      for (long j = 1; j <= radius(); ++j) {
        tap *= ratio;
        ratio *= square;
        sum += 2 * tap;
      }
      store(first, q + x, left);
      store(1.0f / sum, centre + x, left);
    });
  }

  // w[j * n] for taps 0 to radius; where `squares`, sum_j j^2 w_j over the taps on both sides too.
  template <bool SQUARES = false>
  void weights(const float *q, const float *centre, long n, float *w,
               float *squares = nullptr) const {
    sixteen_at_a_time(n, [&](long x, auto left) {
      const Lanes first = load(q + x, left), square = first * first;
      Lanes tap = load(centre + x, left), ratio = first, sum = {};
      store(tap, w + x, left);
      for (long j = 1; j <= radius(); ++j) {
        tap *= ratio;
        ratio *= square;
        if (SQUARES) sum += float(2 * j * j) * tap;
        store(tap, w + j * n + x, left);
      }
      if (SQUARES) store(sum, squares + x, left);
    });
  }

  // out = sum_j w_j (before_j + after_j); `moment`, where wanted, is the same with j^2 w_j.
  template <bool MOMENT = false, class T>
  void mix(const Taps &taps, const float *w, long stride, long n, T *out,
           float *moment = nullptr) const {
    sixteen_at_a_time(n, [&](long x, auto left) {
      Lanes sum = load(w + x, left) * load(taps.before[0] + x, left), squares = {};
      for (long j = 1; j <= radius(); ++j) {
        const Lanes both = load(taps.before[j] + x, left) + load(taps.after[j] + x, left);
        const Lanes part = load(w + j * stride + x, left) * both;
        sum += part;
        if (MOMENT) squares += float(j * j) * part;
      }
      store(sum, out + x, left);
      if (MOMENT) store(squares, moment + x, left);
    });
  }

  // The rows (or planes) around number i of n, each `size` long; beyond the ends the last of them
  // or, where those count as 0, `outside`.
  template <class Pointer>
  void around(Pointer rows, long i, long n, long size, Pointer outside,
              Around<Pointer> &found) const {
    auto at = [&](long k) {
      return !border && (k < 0 || k >= n) ? outside : rows + clamp(k, n) * size;
    };
    for (long j = 0; j <= radius(); ++j) {
      found.before[j] = at(i - j);
      found.after[j] = at(i + j);
    }
  }

  // Continues a row on both sides; its taps lie beside it.
  void row_around(float *row, Taps &taps) const {
    const long width = shape.width;
    std::fill(row - radius(), row, border ? row[0] : 0.0f);
    std::fill(row + width, row + width + radius(), border ? row[width - 1] : 0.0f);
    for (long j = 0; j <= radius(); ++j) {
      taps.before[j] = row - j;
      taps.after[j] = row + j;
    }
  }
};

// Some planes of one volume, with the `radius` planes before and after them as they were: in place,
// another thread may have overwritten those.
struct Slab {
  long volume, first, last;
  Buffer before, after;

  // Plane i, at most `radius` planes before or after.
  const float *outside(long i, long size) const {
    return i < first ? &before[before.size() - (first - i) * size] : &after[(i - last) * size];
  }
};

// `powers` of all voxels of one sample.
struct Powers {
  Room q, centre;
  template <long RADIUS>
  Powers(const Filter<RADIUS> &filter, const float *sigma, long threads)
      : q(filter.shape.voxels()), centre(filter.shape.voxels()) {
    const long plane = filter.shape.plane();
    parallel(filter.shape.depth, threads, [&](long d, long) {
      filter.powers(sigma + d * plane, plane, q.at + d * plane, centre.at + d * plane);
    });
  }
};

// All volumes of one sample in slabs: cut only where there are too few volumes for the threads.
template <long RADIUS, class T>
std::vector<Slab> cut(const Filter<RADIUS> &filter, const T *volumes, long threads) {
  const Shape &shape = filter.shape;
  const long count = shape.channels, depth = shape.depth, plane = shape.plane();
  const long wanted = count >= 4 * threads ? 1 : (2 * threads + count - 1) / count;
  const long thick = std::max(1L, (depth + wanted - 1) / wanted);
  const long each = (depth + thick - 1) / thick;
  std::vector<Slab> slabs(count * each);
  parallel(count * each, threads, [&](long item, long) {
    const T *volume = volumes + item / each * shape.voxels();
    Slab &slab = slabs[item];
    slab.volume = item / each;
    slab.first = item % each * thick;
    slab.last = std::min(depth, slab.first + thick);
    if (!filter.across || each == 1) return;
    const long from = std::max(0L, slab.first - filter.radius());
    const long to = std::min(depth, slab.last + filter.radius());
    slab.before.resize((slab.first - from) * plane);
    convert(volume + from * plane, slab.before.size(), slab.before.data());
    slab.after.resize((to - slab.last) * plane);
    convert(volume + slab.last * plane, slab.after.size(), slab.after.data());
  });
  return slabs;
}

// Calls work with the filter; the usual radius is a constant in it.
template <class Work>
void by_radius(const Shape &shape, long radius, bool border, bool across, const Work &work) {
  if (radius == 3) {
    work(Filter<3>{shape, radius, border, across});
  } else {
    work(Filter<0>{shape, radius, border, across});
  }
}

}  // namespace
