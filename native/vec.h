// Vectors of floats for one instruction set. JETTISON_ISA_NAME (scalar, avx2, avx512) is defined by the
// build for each copy of a kernel file; everything lives in jettison::JETTISON_ISA_NAME, so the copies
// never mix. `W` lanes; the loads and stores that take a count touch only that many floats.
// The functions stand in a namespace of their own, so that a kernel may be called `add` too.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernel.h"

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)
#include <immintrin.h>
#endif

#define JT_INLINE static inline __attribute__((always_inline, unused))

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

#if defined(JETTISON_AVX512)

constexpr Isa kIsa = Isa::avx512;
constexpr int W = 16;
constexpr int kRegisters = 32;
using f32v = __m512;

JT_INLINE __mmask16 first(int64_t n) { return (__mmask16)((1u << n) - 1u); }
JT_INLINE f32v zero() { return _mm512_setzero_ps(); }
JT_INLINE f32v set1(float x) { return _mm512_set1_ps(x); }
JT_INLINE f32v load(const float* p) { return _mm512_loadu_ps(p); }
JT_INLINE f32v load_first(const float* p, int64_t n) { return n >= W ? load(p) : _mm512_maskz_loadu_ps(first(n), p); }
JT_INLINE void store(float* p, f32v v) { _mm512_storeu_ps(p, v); }
JT_INLINE void store_first(float* p, f32v v, int64_t n) {
  if (n >= W) store(p, v);
  else _mm512_mask_storeu_ps(p, first(n), v);
}
JT_INLINE f32v fma(f32v a, f32v b, f32v c) { return _mm512_fmadd_ps(a, b, c); }
JT_INLINE f32v add(f32v a, f32v b) { return _mm512_add_ps(a, b); }
JT_INLINE f32v sub(f32v a, f32v b) { return _mm512_sub_ps(a, b); }
JT_INLINE f32v mul(f32v a, f32v b) { return _mm512_mul_ps(a, b); }
JT_INLINE f32v div(f32v a, f32v b) { return _mm512_div_ps(a, b); }
JT_INLINE f32v max(f32v a, f32v b) { return _mm512_max_ps(a, b); }
JT_INLINE f32v min(f32v a, f32v b) { return _mm512_min_ps(a, b); }
JT_INLINE f32v floor(f32v a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
JT_INLINE f32v pow2(f32v n) { return _mm512_scalef_ps(set1(1.0f), n); }  // n whole, -126 … 127
// lane i takes v[index[i]], index below W
JT_INLINE f32v permute(const uint8_t* index, f32v v) {
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)index)), v);
}
JT_INLINE f32v permute(const int32_t* index, f32v v) { return _mm512_permutexvar_ps(_mm512_loadu_si512(index), v); }
JT_INLINE float sum(f32v v) { return _mm512_reduce_add_ps(v); }

#elif defined(JETTISON_AVX2)

constexpr Isa kIsa = Isa::avx2;
constexpr int W = 8;
constexpr int kRegisters = 16;
using f32v = __m256;

JT_INLINE __m256i first(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
JT_INLINE f32v zero() { return _mm256_setzero_ps(); }
JT_INLINE f32v set1(float x) { return _mm256_set1_ps(x); }
JT_INLINE f32v load(const float* p) { return _mm256_loadu_ps(p); }
JT_INLINE f32v load_first(const float* p, int64_t n) { return n >= W ? load(p) : _mm256_maskload_ps(p, first(n)); }
JT_INLINE void store(float* p, f32v v) { _mm256_storeu_ps(p, v); }
JT_INLINE void store_first(float* p, f32v v, int64_t n) {
  if (n >= W) store(p, v);
  else _mm256_maskstore_ps(p, first(n), v);
}
JT_INLINE f32v fma(f32v a, f32v b, f32v c) { return _mm256_fmadd_ps(a, b, c); }
JT_INLINE f32v add(f32v a, f32v b) { return _mm256_add_ps(a, b); }
JT_INLINE f32v sub(f32v a, f32v b) { return _mm256_sub_ps(a, b); }
JT_INLINE f32v mul(f32v a, f32v b) { return _mm256_mul_ps(a, b); }
JT_INLINE f32v div(f32v a, f32v b) { return _mm256_div_ps(a, b); }
JT_INLINE f32v max(f32v a, f32v b) { return _mm256_max_ps(a, b); }
JT_INLINE f32v min(f32v a, f32v b) { return _mm256_min_ps(a, b); }
JT_INLINE f32v floor(f32v a) { return _mm256_floor_ps(a); }
JT_INLINE f32v pow2(f32v n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
JT_INLINE f32v permute(const uint8_t* index, f32v v) {
  return _mm256_permutevar8x32_ps(v, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)index)));
}
JT_INLINE f32v permute(const int32_t* index, f32v v) { return _mm256_permutevar8x32_ps(v, _mm256_loadu_si256((const __m256i*)index)); }
constexpr int kLane = 4;
JT_INLINE f32v load_lane(const float* p) { return _mm256_broadcast_ps((const __m128*)p); }
JT_INLINE f32v permute_lane(const uint8_t* index, f32v v) {
  return _mm256_permutevar_ps(v, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)index)));
}
JT_INLINE f32v permute_lane(const int32_t* index, f32v v) { return _mm256_permutevar_ps(v, _mm256_loadu_si256((const __m256i*)index)); }
JT_INLINE float sum(f32v v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

#else  // scalar: four floats as the compiler's own vectors, any processor

constexpr Isa kIsa = Isa::scalar;
constexpr int W = 4;
constexpr int kRegisters = 16;
typedef float f32v __attribute__((vector_size(4 * sizeof(float))));

#define JT_LANES(expr)                       \
  f32v o;                                    \
  for (int i = 0; i < W; ++i) o[i] = (expr); \
  return o
JT_INLINE f32v set1(float x) { return f32v{x, x, x, x}; }
JT_INLINE f32v zero() { return f32v{}; }
JT_INLINE f32v load(const float* p) {
  f32v o;
  std::memcpy(&o, p, sizeof o);
  return o;
}
JT_INLINE f32v load_first(const float* p, int64_t n) {
  if (n >= W) return load(p);
  JT_LANES(i < n ? p[i] : 0.0f);
}
JT_INLINE void store(float* p, f32v v) { std::memcpy(p, &v, sizeof v); }
JT_INLINE void store_first(float* p, f32v v, int64_t n) {
  if (n >= W) return store(p, v);
  for (int i = 0; i < W && i < n; ++i) p[i] = v[i];
}
JT_INLINE f32v fma(f32v a, f32v b, f32v c) { return a * b + c; }
JT_INLINE f32v add(f32v a, f32v b) { return a + b; }
JT_INLINE f32v sub(f32v a, f32v b) { return a - b; }
JT_INLINE f32v mul(f32v a, f32v b) { return a * b; }
JT_INLINE f32v div(f32v a, f32v b) { return a / b; }
// like maxps and minps: the second operand when one is NaN
JT_INLINE f32v max(f32v a, f32v b) { return a > b ? a : b; }
JT_INLINE f32v min(f32v a, f32v b) { return a < b ? a : b; }
JT_INLINE f32v floor(f32v a) { JT_LANES(::floorf(a[i])); }
JT_INLINE f32v pow2(f32v n) {
  f32v o;
  for (int i = 0; i < W; ++i) {
    const int32_t bits = n[i] >= -126 ? ((int32_t)n[i] + 127) << 23 : 0;  // 0 for NaN too
    std::memcpy((char*)&o + 4 * i, &bits, 4);
  }
  return o;
}
JT_INLINE f32v permute(const uint8_t* index, f32v v) { JT_LANES(v[index[i]]); }
JT_INLINE f32v permute(const int32_t* index, f32v v) { JT_LANES(v[index[i]]); }
JT_INLINE float sum(f32v v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#undef JT_LANES

#endif

// kLane floats, repeated over the register, and a permute of them: index below kLane. On AVX2 it costs a third of `permute`, which crosses
// the halves of the register (Zen 3: 0.5 and 1.3 cycles; on Intel's both are one uop). Elsewhere a lane is all of the register.
#if !defined(JETTISON_AVX2)
constexpr int kLane = W;
JT_INLINE f32v load_lane(const float* p) { return load(p); }
template <class Index>
JT_INLINE f32v permute_lane(const Index* index, f32v v) {
  return permute(index, v);
}
#endif

// Where a vector stays that the compiler must not compute or load anew.
#if !defined(__x86_64__) || defined(JETTISON_EMULATED)
#define JT_REGISTER "+m"
#elif defined(JETTISON_AVX512)
#define JT_REGISTER "+v"
#else
#define JT_REGISTER "+x"
#endif

// acc + a·b in the register of acc. GCC, left to choose, copies sums in every round of a loop and keeps one of them in memory.
JT_INLINE f32v accumulate(f32v acc, f32v a, f32v b) {
#if (defined(JETTISON_AVX512) || defined(JETTISON_AVX2)) && !defined(JETTISON_EMULATED)
  __asm__("vfmadd231ps %2, %1, %0" : JT_REGISTER(acc) : "v"(a), "v"(b));
  return acc;
#else
  return fma(a, b, acc);
#endif
}

// v, loaded once: else the compiler may load it again for every use, and loads are the scarcer resource.
JT_INLINE f32v hold(f32v v) {
#if defined(__x86_64__)
  __asm__("" : JT_REGISTER(v));
#endif
  return v;
}

// e^x, relative error below 3e-7, |x| ≤ 87. x = n·ln2 + f, |f| ≤ ln2/2, Taylor to f^6.
JT_INLINE f32v exp_within(f32v x) {
  const f32v n = floor(fma(x, set1(1.44269504f), set1(0.5f)));
  f32v f = fma(n, set1(-0.693359375f), x);
  f = fma(n, set1(2.12194440e-4f), f);
  f32v y = set1(1.0f / 720);
  y = fma(y, f, set1(1.0f / 120));
  y = fma(y, f, set1(1.0f / 24));
  y = fma(y, f, set1(1.0f / 6));
  y = fma(y, f, set1(0.5f));
  y = fma(y, f, set1(1.0f));
  y = fma(y, f, set1(1.0f));
  return mul(y, pow2(n));
}

JT_INLINE f32v exp(f32v x) { return exp_within(min(set1(87.0f), max(set1(-87.0f), x))); }  // saturates

JT_INLINE f32v sigmoid(f32v x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), x)))); }

// x · P(x²) / Q(x²), a rational minimax fit on |x| ≤ 7.9, ±1 outside; relative error below 5e-7, for small x too.
JT_INLINE f32v tanh(f32v x) {
  x = min(set1(7.90531111f), max(set1(-7.90531111f), x));
  const f32v u = mul(x, x);
  f32v p = set1(-2.76076847742355e-16f);
  p = fma(p, u, set1(2.00018790482477e-13f));
  p = fma(p, u, set1(-8.60467152213735e-11f));
  p = fma(p, u, set1(5.12229709037114e-08f));
  p = fma(p, u, set1(1.48572235717979e-05f));
  p = fma(p, u, set1(6.37261928875436e-04f));
  p = fma(p, u, set1(4.89352455891786e-03f));
  f32v q = set1(1.19825839466702e-06f);
  q = fma(q, u, set1(1.18534705686654e-04f));
  q = fma(q, u, set1(2.26843463243900e-03f));
  q = fma(q, u, set1(4.89352518554385e-03f));
  return div(mul(x, p), q);
}

// x·Φ(x) = max(0, x) − |x|·Φ(−|x|), Φ with an absolute error below 3e-7 (Abramowitz & Stegun 7.1.26, half of each coefficient).
// Tails below 1e-35 become 0: numbers that a float can only hold denormalised take the processor a hundred cycles each.
JT_INLINE f32v gelu(f32v x) {
  const f32v near = min(set1(12.7f), max(x, sub(zero(), x)));  // |x|, no further than Φ goes
  const f32v t = div(set1(1.0f), fma(near, set1(0.3275911f * 0.70710678f), set1(1.0f)));
  f32v y = set1(0.5307027145f);
  y = fma(y, t, set1(-0.7265760135f));
  y = fma(y, t, set1(0.7107068705f));
  y = fma(y, t, set1(-0.142248368f));
  y = fma(y, t, set1(0.127414796f));
  const f32v tail = mul(mul(y, t), exp_within(mul(near, mul(near, set1(-0.5f)))));
  return sub(max(zero(), x), mul(near, max(zero(), sub(tail, set1(1e-35f)))));
}

// A NaN stays visible: max and min give their second operand when one is NaN.
JT_INLINE f32v activate(Act act, float alpha, f32v x) {
  switch (act) {
    case Act::none:
      return x;
    case Act::relu:
      return max(zero(), x);  // the second operand survives: NaN stays NaN
    case Act::relu6:
      return min(set1(6.0f), max(zero(), x));
    case Act::silu:
      return mul(x, sigmoid(x));
    case Act::hardsigmoid:
      return min(set1(1.0f), max(zero(), fma(x, set1(1.0f / 6), set1(0.5f))));
    case Act::hardswish:
      return mul(x, min(set1(1.0f), max(zero(), fma(x, set1(1.0f / 6), set1(0.5f)))));
    case Act::gelu:
      return gelu(x);
    case Act::gelu_tanh: {
      const f32v inner = mul(mul(x, set1(0.79788456f)), fma(mul(x, x), set1(0.044715f), set1(1.0f)));
      return mul(x, sigmoid(add(inner, inner)));
    }
    case Act::sigmoid:
      return sigmoid(x);
    case Act::tanh:
      return tanh(x);
    case Act::leaky_relu:
      return fma(min(zero(), x), set1(alpha), max(zero(), x));
  }
  return x;
}

}  // namespace vec
using namespace vec;
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
