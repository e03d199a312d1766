// The entropy of ../entropy.py, forward and backward, in blocks of voxels that stay in cache.

#include "common.hpp"

namespace {

constexpr long BLOCK = 256;

// (min C - C) / beta of one block: the logarithms of the probabilities, but for the log of their
// sum. Offsets are BLOCK apart.
void exponents(const Kept *cost, long voxels, long offsets, long n, float beta, float *out) {
  float least[BLOCK];
  std::fill(least, least + BLOCK, INFINITY);
  for (long o = 0; o < offsets; ++o) {
    sixteen_at_a_time(n, [&](long i, auto left) {
      const Lanes c = load(cost + o * voxels + i, left);
      store(smaller(c, load(least + i)), least + i);
      store(c, out + o * BLOCK + i);
    });
  }
  const float scale = 1 / beta;
  for (long o = 0; o < offsets; ++o) {
    float *exponent = out + o * BLOCK;
    for (long i = 0; i < n; ++i) exponent[i] = (least[i] - exponent[i]) * scale;
  }
}

// Of sixteen voxels: log sum_o exp, and the sums of q and of q log q, q being the probabilities
// raised to the floor.
struct Sums {
  Lanes log_z, total, weighted;
  Sums(const float *exponent, long offsets, float log_floor, bool has_floor) {
    Lanes z = {};
    weighted = z;
    for (long o = 0; o < offsets; ++o) {
      const Lanes l = load(exponent + o * BLOCK), e = exp(l);
      z += e;
      weighted += e * l;
    }
    log_z = log(z);
    total = fill(1.0f);
    weighted = weighted / z - log_z;
    if (!has_floor) return;
    total = weighted = Lanes{};
    for (long o = 0; o < offsets; ++o) {
      const Lanes raised = larger(load(exponent + o * BLOCK) - log_z, fill(log_floor));
      const Lanes q = exp(raised);
      total += q;
      weighted += q * raised;
    }
  }
};

void entropy_of(const Kept *cost, float *entropy, const Shape *shape, const float *beta,
                float log_floor, long has_floor, long threads) {
  const long voxels = shape->voxels(), offsets = shape->channels;
  const long blocks = (voxels + BLOCK - 1) / BLOCK;
  parallel(shape->batch * blocks, threads, [&](long item, long) {
    static thread_local Buffer exponent;
    exponent.resize(offsets * BLOCK);
    const long b = item / blocks, x = item % blocks * BLOCK, n = std::min(BLOCK, voxels - x);
    exponents(cost + b * offsets * voxels + x, voxels, offsets, n, *beta, exponent.data());
    for (long i = 0; i < n; i += LANES) {
      const Sums s(exponent.data() + i, offsets, log_floor, has_floor);
      const Lanes value = log(s.total) - s.weighted / s.total;
      store(larger(Lanes{}, value), entropy + b * voxels + x + i, n - i);
    }
  });
}

void entropy_backward(const Kept *cost, const float *grad, Kept *grad_cost, float *grad_beta,
                      const Shape *shape, const float *beta, float log_floor, long has_floor,
                      bool add, long threads) {
  const long voxels = shape->voxels(), offsets = shape->channels;
  const long blocks = (voxels + BLOCK - 1) / BLOCK;
  std::vector<double> parts(shape->batch * blocks);
  parallel(shape->batch * blocks, threads, [&](long item, long) {
    static thread_local Buffer exponent;
    exponent.resize(offsets * BLOCK);
    const long b = item / blocks, x = item % blocks * BLOCK, n = std::min(BLOCK, voxels - x);
    exponents(cost + b * offsets * voxels + x, voxels, offsets, n, *beta, exponent.data());
    double part = 0;
    for (long i = 0; i < n; i += LANES) {
      float *l = exponent.data() + i;
      const Sums s(l, offsets, log_floor, has_floor);
      const Lanes g = load(grad + b * voxels + x + i, n - i);
      const Lanes mean = s.weighted / s.total, scale = g / s.total;
      // By log q of those above the floor, then by -C / beta through the softmax. The costs of a
      // voxel matter up to a common value, so the exponents stand for -C / beta.
      auto slope = [&](const Lanes &log_p, const Lanes &p) {
        const Lanes all = p * scale * (mean - log_p), none = {};
        return has_floor ? (log_p > log_floor ? all : none) : all;
      };
      Lanes all = {}, by_beta = {};
      for (long o = 0; has_floor && o < offsets; ++o) {
        const Lanes log_p = load(l + o * BLOCK) - s.log_z;
        all += slope(log_p, exp(log_p));
      }
      for (long o = 0; o < offsets; ++o) {
        const Lanes e = load(l + o * BLOCK), log_p = e - s.log_z, p = exp(log_p);
        const Lanes change = (p * all - slope(log_p, p)) / *beta;
        by_beta += change * e;
        store(change, l + o * BLOCK);
      }
      for (long k = 0; k < std::min(LANES, n - i); ++k) part += by_beta[k];
    }
    parts[item] = part;
    Kept *out = grad_cost + b * offsets * voxels + x;
    for (long o = 0; o < offsets; ++o) {
      sixteen_at_a_time(n, [&](long i, auto left) {
        Kept *to = out + o * voxels + i;
        const Lanes change = load(exponent.data() + o * BLOCK + i, left);
        store(add ? load(to, left) + change : change, to, left);
      });
    }
  });
  double sum = 0;
  for (double part : parts) sum += part;
  *grad_beta = float(sum);
}

}  // namespace

extern "C" void voxelopt_entropy(const Kept *cost, float *entropy, const Shape *shape,
                                 const float *beta, float log_floor, long has_floor,
                                 long threads) {
  entropy_of(cost, entropy, shape, beta, log_floor, has_floor, threads);
}

// Writes grad_cost, or adds to it; grad_beta (one value) is summed in the order of the blocks.
extern "C" void voxelopt_entropy_backward(const Kept *cost, const float *grad, Kept *grad_cost,
                                          float *grad_beta, const Shape *shape, const float *beta,
                                          float log_floor, long has_floor, long add,
                                          long threads) {
  entropy_backward(cost, grad, grad_cost, grad_beta, shape, beta, log_floor, has_floor, add != 0,
                   threads);
}
