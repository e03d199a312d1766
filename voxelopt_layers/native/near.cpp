// Linear sampling at x + u(x) where no voxel moves by more than one: displacement.cpp's results,
// made of the 3^d neighbours that lie beside each other in memory rather than gathered.
//
// The weights of the neighbours along an axis are max(-u, 0), 1 - |u| and max(u, 0).

#include "common.hpp"

namespace {

// AXES is 3, or 2 of an image: a volume of one slice.
template <long AXES> struct Near {
  Shape shape;
  bool border;

  // Along one axis, where `at` is the place of each voxel and n the length of the axis.
  struct Weights {
    Lanes w[3], slope[3];
    Weights() : w{Lanes{}, fill(1.0f), Lanes{}}, slope{} {}
    Weights(const Lanes &u, const Lanes &at, long n, bool border) {
      const Lanes none = {}, one = fill(1.0f);
      w[0] = larger(-u, none);
      w[1] = 1.0f - magnitude(u);
      w[2] = larger(u, none);
      // Beyond the ends nothing changes with the coordinate.
      const float reach = border ? 0.0f : 1.0f, top = float(n - 1);
      const Lanes x = at + u;
      const Lanes moves = x > -reach ? (x < top + reach ? one : none) : none;
      slope[0] = u < 0 ? -moves : none;
      slope[1] = u < 0 ? moves : -moves;
      slope[2] = u < 0 ? none : moves;
      // What would go beyond an end stays with the last voxel, or counts as 0.
      const Lanes below = at > 0 ? none : w[0], above = at < top ? none : w[2];
      w[0] -= below;
      w[2] -= above;
      if (border) {
        w[1] += below + above;
      } else {
        slope[0] = at > 0 ? slope[0] : none;
        slope[2] = at < top ? slope[2] : none;
      }
    }
  };

  // The weights of the voxels from (d, h, x) on.
  template <class Count>
  void weights(const float *u, long d, long h, long x, Count n, Weights *out) const {
    const long voxels = shape.voxels();
    const float *last = u + (AXES - 1) * voxels + d * shape.plane() + h * shape.width + x;
    const Lanes steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    out[2] = Weights(load(last, n), steps + float(x), shape.width, border);
    out[1] = Weights(load(last - voxels, n), fill(float(h)), shape.height, border);
    if (AXES == 3) out[0] = Weights(load(last - 2 * voxels, n), fill(float(d)), shape.depth, border);
  }

  // Copies the rows around (d, h) with one voxel more at both ends: nine of them, or three of an
  // image. Beyond the volume rows repeat; where they should be 0 their weights are.
  void load_rows(const float *volume, long d, long h, float *rows) const {
    const long width = shape.width;
    for (long dz = AXES == 3 ? -1 : 0; dz <= (AXES == 3 ? 1 : 0); ++dz) {
      for (long dy = -1; dy <= 1; ++dy) {
        const float *from = volume + clamp(d + dz, shape.depth) * shape.plane() +
                            clamp(h + dy, shape.height) * width;
        float *to = rows + ((dz + 1) * 3 + dy + 1) * padded() + LANES;
        std::copy(from, from + width, to);
        to[-1] = from[0];
        to[width] = from[width - 1];
      }
    }
  }

  // Adds to the rows around (d, h) what each voxel sends to its neighbours before, at and after it,
  // `sent` in three rows each, 0 on both sides.
  void add_rows(const float *sent, long d, long h, float *volume) const {
    for (long z = first; z < last; ++z) {
      for (long y = 0; y < 3; ++y) {
        const long to_d = d + z - 1, to_h = h + y - 1;
        if (to_d < 0 || to_d >= shape.depth || to_h < 0 || to_h >= shape.height) continue;
        const float *before = sent + 3 * (z * 3 + y) * padded() + LANES;
        const float *at = before + padded(), *after = at + padded();
        float *to = volume + to_d * shape.plane() + to_h * shape.width;
        sixteen_at_a_time(shape.width, [&](long i, auto left) {
          const Lanes beside = load(before + i + 1, left) + load(after + i - 1, left);
          store(load(to + i, left) + load(at + i, left) + beside, to + i, left);
        });
      }
    }
  }

  // Rows start and end with a cache line for the voxel beyond.
  long padded() const { return whole_lines(shape.width) + 2 * LANES; }
  static constexpr long first = AXES == 3 ? 0 : 1, last = AXES == 3 ? 3 : 2;  // planes of rows
};

template <long AXES>
void warp_near(const Near<AXES> &near, const float *image, const float *displacement, float *out,
               bool add, long threads) {
  const Shape &shape = near.shape;
  const long voxels = shape.voxels(), width = shape.width, channels = shape.channels;
  const long lines = shape.depth * shape.height;
  parallel(shape.batch * lines, threads, [&](long item, long) {
    static thread_local Buffer rows;
    rows.resize(channels * 9 * near.padded());
    const long b = item / lines, d = item % lines / shape.height, h = item % shape.height;
    const float *u = displacement + b * AXES * voxels;
    for (long c = 0; c < channels; ++c) {
      near.load_rows(image + (b * channels + c) * voxels, d, h, &rows[c * 9 * near.padded()]);
    }
    sixteen_at_a_time(width, [&](long x, auto left) {
      typename Near<AXES>::Weights w[3];
      near.weights(u, d, h, x, left, w);
      for (long c = 0; c < channels; ++c) {
        const long here = item % lines * width + x;
        Lanes sum = add ? load(u + c * voxels + here, left) : Lanes{};
        for (long z = near.first; z < near.last; ++z) {
          for (long y = 0; y < 3; ++y) {
            const float *row = &rows[((c * 3 + z) * 3 + y) * near.padded() + LANES + x];
            const Lanes along = w[2].w[0] * load(row - 1) + w[2].w[1] * load(row) +
                                w[2].w[2] * load(row + 1);
            sum += w[0].w[z] * w[1].w[y] * along;
          }
        }
        store(sum, out + (b * channels + c) * voxels + here, left);
      }
    });
  });
}

// Slabs whose rows meet are never at work together: first those of even number, then those of odd.
template <long AXES>
void warp_near_backward(const Near<AXES> &near, const float *image, const float *displacement,
                        const float *grad, float *grad_image, float *grad_displacement,
                        long threads) {
  const Shape &shape = near.shape;
  const long voxels = shape.voxels(), width = shape.width, channels = shape.channels;
  const long length = AXES == 3 ? shape.depth : shape.height;
  const long thick = std::max(2L, (length + 4 * threads - 1) / (4 * threads));
  const long slabs = (length + thick - 1) / thick, padded = near.padded();

  // One channel after the other: what a row sends to the nine around it stays in the cache then.
  auto line = [&](long b, long d, long h, float *rows, float *sent) {
    const float *u = displacement + b * AXES * voxels;
    const long start = d * shape.plane() + h * width;
    for (long c = 0; c < channels; ++c) {
      const long volume = (b * channels + c) * voxels;
      near.load_rows(image + volume, d, h, rows);
      sixteen_at_a_time(width, [&](long x, auto left) {
        typename Near<AXES>::Weights w[3];
        near.weights(u, d, h, x, left, w);
        Lanes change[3] = {};
        const Lanes g = load(grad + volume + start + x, left);
        for (long z = near.first; z < near.last; ++z) {
          Lanes along_h = {}, slope_h = {}, slope_w = {};
          const Lanes share_z = g * w[0].w[z];
          for (long y = 0; y < 3; ++y) {
            const long row = (z * 3 + y) * padded;
            const float *values = rows + row + LANES + x;
            float *to = sent + 3 * row + LANES + x;
            const Lanes before = load(values - 1), at = load(values), after = load(values + 1);
            const Lanes share = share_z * w[1].w[y];
            store(share * w[2].w[0], to);
            store(share * w[2].w[1], to + padded);
            store(share * w[2].w[2], to + 2 * padded);
            const Lanes along = w[2].w[0] * before + w[2].w[1] * at + w[2].w[2] * after;
            along_h += w[1].w[y] * along;
            slope_h += w[1].slope[y] * along;
            slope_w += w[1].w[y] * (w[2].slope[0] * before + w[2].slope[1] * at +
                                    w[2].slope[2] * after);
          }
          change[2] += share_z * slope_w;
          change[1] += share_z * slope_h;
          change[0] += g * w[0].slope[z] * along_h;
        }
        for (long axis = 0; axis < AXES && grad_displacement; ++axis) {
          float *to = grad_displacement + (b * AXES + axis) * voxels + start + x;
          store(load(to, left) + change[3 - AXES + axis], to, left);
        }
      });
      if (grad_image) near.add_rows(sent, d, h, grad_image + volume);
    }
  };

  for (long odd = 0; odd < 2; ++odd) {
    const long half = (slabs + 1 - odd) / 2;
    parallel(shape.batch * half, threads, [&](long item, long) {
      Buffer rows(9 * padded), sent(27 * padded);
      const long b = item / half, from = (2 * (item % half) + odd) * thick;
      for (long i = from; i < std::min(length, from + thick); ++i) {
        for (long h = 0; h < (AXES == 3 ? shape.height : 1); ++h) {
          line(b, AXES == 3 ? i : 0, AXES == 3 ? h : i, rows.data(), sent.data());
        }
      }
    });
  }
}

// Calls work with a constant of 3, or 2 of an image.
template <class Work> void by_axes(long axes, const Work &work) {
  if (axes == 3) {
    work(std::integral_constant<long, 3>());
  } else {
    work(std::integral_constant<long, 2>());
  }
}

}  // namespace

// The largest |u| of a displacement, infinite where any is no number.
extern "C" float voxelopt_reach(const float *displacement, const Shape *shape, long threads) {
  const long plane = shape->plane(), planes = shape->batch * shape->channels * shape->depth;
  std::vector<float> most(planes);
  parallel(planes, threads, [&](long item, long) {
    Lanes largest = {}, nothing = {};  // the latter stays 0 unless u is NaN or infinite
    for (long i = 0; i < plane; i += LANES) {
      const Lanes u = load(displacement + item * plane + i, plane - i);
      largest = larger(magnitude(u), largest);
      nothing += u - u;
    }
    for (long i = 0; i < LANES; ++i) {
      most[item] = std::max(most[item], nothing[i] == 0 ? largest[i] : INFINITY);
    }
  });
  return *std::max_element(most.begin(), most.end());
}

// out = warped image (+ displacement, where `add`).
extern "C" void voxelopt_warp_near(const float *image, const float *displacement, float *out,
                                   const Shape *shape, long axes, long border, long add,
                                   long threads) {
  by_axes(axes, [&](auto n) {
    warp_near(Near<n>{*shape, border != 0}, image, displacement, out, add != 0, threads);
  });
}

// Adds to grad_image and grad_displacement; either may be null, and both the same.
extern "C" void voxelopt_warp_near_backward(const float *image, const float *displacement,
                                            const float *grad, float *grad_image,
                                            float *grad_displacement, const Shape *shape, long axes,
                                            long border, long threads) {
  by_axes(axes, [&](auto n) {
    warp_near_backward(Near<n>{*shape, border != 0}, image, displacement, grad, grad_image,
                       grad_displacement, threads);
  });
}
