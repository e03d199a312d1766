// What the kernels share: threads, the shape of a volume, and arithmetic on sixteen voxels.
//
// Tensors are contiguous, (B, C, D, H, W); a 2-D image is a volume of one slice (D = 1) that is
// neither searched nor filtered along D. They are float32, but for cost volumes, which may be kept
// in half precision. Inner loops run along W.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__SSE__)
#include <immintrin.h>
#endif

struct Shape {
  long batch, channels, depth, height, width;
  long plane() const { return height * width; }
  long voxels() const { return depth * plane(); }
};

// While it lives, numbers too small for a full mantissa count as 0: weights that underflow would
// otherwise cost a hundred cycles each, and change nothing.
class FlushToZero {
#if defined(__SSE__)
  const unsigned before = _mm_getcsr();
public:
  FlushToZero() { _mm_setcsr(before | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  uint64_t before;
public:
  FlushToZero() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" : : "r"(before | (1ull << 24)));
  }
  ~FlushToZero() { asm volatile("msr fpcr, %0" : : "r"(before)); }
#else
public:
  FlushToZero() {}
#endif
};

// Calls work(item, thread) for every item. Which thread has which item depends on their numbers
// alone, so that sums kept per thread come out the same in every run.
template <class Work> void parallel(long items, long threads, const Work &work) {
  threads = std::max(1L, std::min(threads, items));
  auto share = [&](long thread) {
    const FlushToZero flush;
    for (long item = thread; item < items; item += threads) work(item, thread);
  };
  std::vector<std::thread> others;
  long started = 1;
  try {
    for (; started < threads; ++started) others.emplace_back(share, started);
  } catch (...) {  // no more threads to be had: their shares are done here
  }
  share(0);
  for (long missing = started; missing < threads; ++missing) share(missing);
  for (auto &other : others) other.join();
}

// Sixteen voxels at a time; compilers split them where registers are shorter.
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
constexpr long LANES = 16;

// Fewer than sixteen voxels, those left over at the end of a row. Copies of any other length are
// calls, which take longer than the rest of a short row.
#if defined(__AVX512F__)
inline Lanes load_some(const float *from, long n) {
  return Lanes(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), from));
}
inline void store_some(const Lanes &x, float *to, long n) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), __m512(x));
}
#else
inline Lanes load_some(const float *from, long n) {
  Lanes x = {};
  std::memcpy(&x, from, n * sizeof(float));
  return x;
}
inline void store_some(const Lanes &x, float *to, long n) {
  std::memcpy(to, &x, n * sizeof(float));
}
#endif

// The next n voxels, or all sixteen if n is more.
inline __attribute__((always_inline)) Lanes load(const float *from, long n = LANES) {
  if (n < LANES) return load_some(from, n);
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline __attribute__((always_inline)) void store(const Lanes &x, float *to, long n = LANES) {
  if (n < LANES) return store_some(x, to, n);
  std::memcpy(to, &x, sizeof x);
}

// Memory that starts on a cache line: sixteen voxels on one line cost half of what they do on two.
template <class T> struct OnLines {
  typedef T value_type;
  OnLines() = default;
  template <class U> OnLines(const OnLines<U> &) {}
  T *allocate(size_t n) {
    return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t(sizeof(Lanes))));
  }
  void deallocate(T *memory, size_t) {
    ::operator delete(memory, std::align_val_t(sizeof(Lanes)));
  }
  bool operator==(const OnLines &) const { return true; }
  bool operator!=(const OnLines &) const { return false; }
};
typedef std::vector<float, OnLines<float>> Buffer;

// The same, with no zeros written to it first.
struct Room {
  float *const at;
  explicit Room(long n) : at(OnLines<float>().allocate(n)) {}
  ~Room() { OnLines<float>().deallocate(at, 0); }
  Room(const Room &) = delete;
  Room &operator=(const Room &) = delete;
};

inline long whole_lines(long n) { return (n + LANES - 1) / LANES * LANES; }

// What a cost volume is kept in, in this library.
#if VOXELOPT_KEPT == 0
typedef float Kept;
#else
#include "half.hpp"
#endif

// body(x, n) for x = 0, 16, ...: n is a constant of 16, but for what is left at the end.
template <class Body> inline void sixteen_at_a_time(long count, const Body &body) {
  long x = 0;
  for (; x + LANES <= count; x += LANES) body(x, std::integral_constant<long, LANES>());
  if (x < count) body(x, count - x);
}

template <class From, class To> inline void convert(const From *from, long n, To *to) {
  sixteen_at_a_time(n, [&](long x, auto left) { store(load(from + x, left), to + x, left); });
}

inline Lanes fill(float x) { return x - Lanes{}; }
// NaN as the second argument is the result; as the first it is passed over.
inline Lanes larger(const Lanes &a, const Lanes &b) { return a > b ? a : b; }
inline Lanes smaller(const Lanes &a, const Lanes &b) { return a < b ? a : b; }
// Costs as this library can keep them: cut off at the largest number of float16.
inline Lanes keepable(const Lanes &cost) {
#if VOXELOPT_KEPT == 1
  return larger(fill(-65504.0f), smaller(fill(65504.0f), cost));
#else
  return cost;
#endif
}
inline Lanes magnitude(const Lanes &a) { return Lanes((IntLanes(a) & 0x7fffffff)); }

// exp for x <= 88: 2^n times a Taylor polynomial on half an octave either side of 0.
inline Lanes exp(const Lanes &exponent) {
  const Lanes x = larger(fill(-87.0f), exponent);
  const Lanes shifted = x * 1.44269504f + 12582912.0f;  // rounds, in the low bits
  const Lanes n = shifted - 12582912.0f;
  const Lanes r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Lanes p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * Lanes((IntLanes(shifted) + 127) << 23);
}

// log for normal x > 0: the series of 2 artanh((m - 1) / (m + 1)), m within half an octave of 1.
inline Lanes log(const Lanes &x) {
  const IntLanes bits = IntLanes(x), exponent = (bits - 0x3f3504f3) >> 23;
  const Lanes m = Lanes(bits - (exponent << 23)), s = (m - 1.0f) / (m + 1.0f), q = s * s;
  const Lanes series = 1.0f + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9))));
  return __builtin_convertvector(exponent, Lanes) * 0.69314718f + 2.0f * s * series;
}

inline double sum(const Lanes &x) {
  double total = 0;
  for (long i = 0; i < LANES; ++i) total += x[i];
  return total;
}

inline long clamp(long i, long n) { return std::max(0L, std::min(i, n - 1)); }
