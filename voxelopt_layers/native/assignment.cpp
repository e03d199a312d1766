// The v-step of ../assignment.py, forward and backward, in blocks of voxels that stay in cache.

#include "common.hpp"

namespace {

constexpr long BLOCK = 256;
enum Mode { SOFT, HARD_MEAN, HARD_SUM };

// Three coordinates of each offset, in the order of the d axes; an image has d = 2, and a third
// coordinate that is always 0.
struct Offsets {
  long d, count;
  std::vector<float> o, square;
  Offsets(long d, long radius) : d(d) {
    const long side = 2 * radius + 1;
    count = d == 2 ? side * side : side * side * side;
    for (long i = 0; i < count; ++i) {
      float sum = 0;
      o.resize(3 * i + 3);
      for (long n = d - 1, stride = n == 2 ? side * side : side; n >= 0; --n, stride /= side) {
        const float value = float(i / stride % side - radius);
        o[3 * i + d - 1 - n] = value;
        sum += value * value;
      }
      square.push_back(sum);
    }
  }
};

// C + coupling (|o|^2 - 2 u.o) of one block, offsets BLOCK apart, and its minimum over them. One
// offset after another: memory likes few long runs better than many short ones.
void energies(const Kept *cost, const float *u, long voxels, const Offsets &offsets, long n,
              float coupling, float *energy, float *least) {
  alignas(Lanes) float at[3][BLOCK] = {};
  for (long axis = 0; u && axis < offsets.d; ++axis) {
    for (long i = 0; i < n; ++i) at[axis][i] = -2 * coupling * u[axis * voxels + i];
  }
  std::fill(least, least + BLOCK, INFINITY);
  for (long k = 0; k < offsets.count; ++k) {
    const Kept *c = cost + k * voxels;
    const float *o = &offsets.o[k * 3];
    const float constant = coupling * offsets.square[k];
    sixteen_at_a_time(n, [&](long i, auto left) {
      const Lanes e = load(c + i, left) + constant + o[0] * load(at[0] + i) +
                      o[1] * load(at[1] + i) + o[2] * load(at[2] + i);
      store(smaller(e, load(least + i)), least + i);
      store(e, energy + k * BLOCK + i);
      __builtin_prefetch(c + BLOCK + i);  // the next block
    });
  }
}

// Of sixteen voxels: weights of the offsets (not normalised), one over their sum, their mean.
struct Weights {
  Lanes v[3] = {}, reciprocal;
  Weights(float *energy, const Lanes &least, const Offsets &offsets, Mode mode, float temperature,
          float rounding) {
    Lanes z = {};
    const float scale = 1 / temperature;
    for (long k = 0; k < offsets.count; ++k) {
      const Lanes e = load(energy + k * BLOCK);
      const Lanes one = fill(1.0f), none = {};
      const Lanes w = mode == SOFT ? exp((least - e) * scale) : e <= least + rounding ? one : none;
      const float *o = &offsets.o[k * 3];
      z += w;
      v[0] += o[0] * w;
      v[1] += o[1] * w;
      v[2] += o[2] * w;
      store(w, energy + k * BLOCK);
    }
    reciprocal = mode == HARD_SUM ? fill(1.0f) : 1.0f / z;
    for (Lanes &axis : v) axis *= reciprocal;
  }
};

void assign(const Kept *cost, const float *smooth, float *out, const Shape *shape, long d, long radius,
            long mode, const float *coupling, const float *temperature, const float *rounding,
            long threads) {
  const Offsets offsets(d, radius);
  const long voxels = shape->voxels(), blocks = (voxels + BLOCK - 1) / BLOCK;
  parallel(shape->batch * blocks, threads, [&](long item, long) {
    static thread_local Buffer energy;
    energy.resize(offsets.count * BLOCK);
    const long b = item / blocks, x = item % blocks * BLOCK, n = std::min(BLOCK, voxels - x);
    const float *u = smooth ? smooth + b * d * voxels + x : nullptr;
    float *to = out + b * d * voxels + x, least[BLOCK];
    energies(cost + b * offsets.count * voxels + x, u, voxels, offsets, n, *coupling,
             energy.data(), least);
    for (long i = 0; i < n; i += LANES) {
      const Weights w(energy.data() + i, load(least + i), offsets, Mode(mode), *temperature,
                      rounding[b]);
      for (long axis = 0; axis < d; ++axis) store(w.v[axis], to + axis * voxels + i, n - i);
    }
  });
}

void assign_backward(const Kept *cost, const float *smooth, const float *grad, float *grad_cost,
                     float *grad_smooth, float *grad_scalars, const Shape *shape, long d,
                     long radius, const float *coupling, const float *temperature, long first,
                     long threads) {
  const Offsets offsets(d, radius);
  const long voxels = shape->voxels(), blocks = (voxels + BLOCK - 1) / BLOCK;
  std::vector<double> parts(2 * shape->batch * blocks);
  parallel(shape->batch * blocks, threads, [&](long item, long) {
    static thread_local Buffer energy;
    energy.resize(offsets.count * BLOCK);
    const long b = item / blocks, x = item % blocks * BLOCK, n = std::min(BLOCK, voxels - x);
    const float *u = smooth ? smooth + b * d * voxels + x : nullptr;
    float least[BLOCK];
    energies(cost + b * offsets.count * voxels + x, u, voxels, offsets, n, *coupling,
             energy.data(), least);
    double by_coupling = 0, by_temperature = 0;
    for (long i = 0; i < n; i += LANES) {
      const long here = std::min(LANES, n - i);
      const Weights weights(energy.data() + i, load(least + i), offsets, SOFT, *temperature, 0);
      Lanes g[3] = {}, gu[3] = {}, along = {}, squares = {}, entropy = {};
      for (long axis = 0; axis < d; ++axis) {
        g[axis] = load(grad + (b * d + axis) * voxels + x + i, here);
        along += g[axis] * weights.v[axis];
      }
      const Lanes scale = -weights.reciprocal / *temperature;
      for (long k = 0; k < offsets.count; ++k) {
        // By the energy of offset k: its weight times how far g.o lies from the mean of g.o.
        const float *o = &offsets.o[k * 3];
        const Lanes w = load(energy.data() + k * BLOCK + i);
        const Lanes a = w * scale * (o[0] * g[0] + o[1] * g[1] + o[2] * g[2] - along);
        gu[0] += o[0] * a;
        gu[1] += o[1] * a;
        gu[2] += o[2] * a;
        squares += offsets.square[k] * a;
        // log w is (least - energy) / T, and energies matter up to a common value.
        if (grad_scalars) entropy += a * log(larger(w, fill(1e-37f)));
        store(a, energy.data() + k * BLOCK + i);
      }
      for (long axis = 0; axis < d; ++axis) {
        const long at = (b * d + axis) * voxels + x + i;
        if (smooth) squares -= 2 * load(smooth + at, here) * gu[axis];
        store(gu[axis] * (smooth ? -2 * *coupling : 0.0f), grad_smooth + at, here);
      }
      for (long k = 0; k < here; ++k) {
        by_coupling += squares[k];
        by_temperature += entropy[k];
      }
    }
    parts[2 * item] = by_coupling;
    parts[2 * item + 1] = by_temperature;
    for (long k = 0; k < offsets.count; ++k) {
      const float *a = energy.data() + k * BLOCK;
      float *to = grad_cost + (b * offsets.count + k) * voxels + x;
      if (first) {
        std::copy(a, a + n, to);
      } else {
        for (long i = 0; i < n; ++i) to[i] += a[i];
      }
    }
  });
  double sums[2] = {0, 0};
  if (!grad_scalars) return;
  for (size_t i = 0; i < parts.size(); ++i) sums[i % 2] += parts[i];
  grad_scalars[0] += float(sums[0]);
  grad_scalars[1] += float(sums[1]);
}

}  // namespace

// `smooth` may be null: u is 0. `rounding` has one value per sample.
extern "C" void voxelopt_assign(const Kept *cost, const float *smooth, float *out,
                                const Shape *shape, long d, long radius, long mode,
                                const float *coupling, const float *temperature,
                                const float *rounding, long threads) {
  assign(cost, smooth, out, shape, d, radius, mode, coupling, temperature, rounding, threads);
}

// Gradient of the soft assignment: adds to grad_cost (or writes it, where `first`), writes
// grad_smooth, and, unless null, adds to grad_scalars, those of coupling and temperature, block by
// block.
extern "C" void voxelopt_assign_backward(const Kept *cost, const float *smooth, const float *grad,
                                         float *grad_cost, float *grad_smooth, float *grad_scalars,
                                         const Shape *shape, long d, long radius,
                                         const float *coupling, const float *temperature,
                                         long first, long threads) {
  assign_backward(cost, smooth, grad, grad_cost, grad_smooth, grad_scalars, shape, d, radius,
                  coupling, temperature, first, threads);
}
