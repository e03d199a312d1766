// Cost volumes in half of the memory: float16 where VOXELOPT_KEPT is 1, bfloat16 where it is 2.
// Arithmetic is that of float all the same.
#pragma once

struct Kept { uint16_t bits; };
typedef uint16_t ShortLanes __attribute__((vector_size(32)));
typedef uint32_t UnsignedLanes __attribute__((vector_size(64)));

#if VOXELOPT_KEPT == 2
inline Lanes widen(const ShortLanes &x) {
  return Lanes(__builtin_convertvector(x, UnsignedLanes) << 16);
}

inline ShortLanes narrow(const Lanes &x) {
  const UnsignedLanes bits = UnsignedLanes(x);  // to nearest, ties to even
  const UnsignedLanes rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return __builtin_convertvector(x == x ? rounded : (bits >> 16 | 0x40), ShortLanes);
}

#elif defined(__AVX512F__)
inline Lanes widen(const ShortLanes &x) {
  return Lanes(_mm512_cvtph_ps(__m256i(x)));
}

inline ShortLanes narrow(const Lanes &x) {
  return ShortLanes(_mm512_cvtps_ph(__m512(x), _MM_FROUND_TO_NEAREST_INT));
}
#else
#if defined(__F16C__)
inline float widen_one(uint16_t x) { return _cvtsh_ss(x); }
inline uint16_t narrow_one(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
inline float widen_one(uint16_t x) {
  __fp16 half;
  std::memcpy(&half, &x, sizeof half);
  return half;
}
inline uint16_t narrow_one(float x) {
  const __fp16 half = x;
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
#else
inline float widen_one(uint16_t x) {
  const int exponent = x >> 10 & 31, mantissa = x & 1023;
  float value = std::ldexp(float(exponent ? mantissa + 1024 : mantissa), std::max(exponent, 1) - 25);
  if (exponent == 31) value = mantissa ? NAN : INFINITY;
  return x >> 15 ? -value : value;
}
inline uint16_t narrow_one(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (x == 0) return sign;
  if (!(std::fabs(x) < 65520)) return sign | (x == x ? 0x7c00 : 0x7e00);
  int exponent;
  std::frexp(x, &exponent);
  const int scale = std::max(exponent, -13);  // at least that of the smallest normal number
  const int units = int(std::nearbyint(std::ldexp(std::fabs(x), 11 - scale)));
  return sign | (units + ((scale + 13) << 10));
}
#endif
inline Lanes widen(const ShortLanes &x) {
  Lanes wide;
  for (long i = 0; i < LANES; ++i) wide[i] = widen_one(x[i]);
  return wide;
}

inline ShortLanes narrow(const Lanes &x) {
  ShortLanes half;
  for (long i = 0; i < LANES; ++i) half[i] = narrow_one(x[i]);
  return half;
}
#endif

inline ShortLanes bits_of_some(const Kept *from, long n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return ShortLanes(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), from));
#else
  ShortLanes x = {};
  std::memcpy(&x, from, n * sizeof(Kept));
  return x;
#endif
}

inline void keep_some(const ShortLanes &x, Kept *to, long n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(to, __mmask16((1u << n) - 1), __m256i(x));
#else
  std::memcpy(to, &x, n * sizeof(Kept));
#endif
}

inline __attribute__((always_inline)) Lanes load(const Kept *from, long n = LANES) {
  if (n < LANES) return widen(bits_of_some(from, n));
  ShortLanes x;
  std::memcpy(&x, from, sizeof x);
  return widen(x);
}

inline __attribute__((always_inline)) void store(const Lanes &x, Kept *to, long n = LANES) {
  const ShortLanes half = narrow(x);
  if (n < LANES) return keep_some(half, to, n);
  std::memcpy(to, &half, sizeof half);
}
