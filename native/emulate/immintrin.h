// AVX-512 in software, for testing its kernels on a processor without it (`make emulate`): slow, to the last bit the same.
// SIMDe has most of it; what it lacks stands here. Found before the compiler's own header of this name.
#pragma once
#include_next <immintrin.h>

#if defined(JETTISON_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

// A vector as an array of its lanes.
template <typename T, typename V>
struct Lanes {
  static constexpr int kCount = sizeof(V) / sizeof(T);
  T lane[kCount];
  Lanes() = default;
  explicit Lanes(V v) { std::memcpy(lane, &v, sizeof v); }
  V vector() const {
    V v;
    std::memcpy(&v, lane, sizeof v);
    return v;
  }
};

template <typename T, typename V, typename Of>
inline V each(Of of) {
  Lanes<T, V> y;
  for (int i = 0; i < y.kCount; ++i) y.lane[i] = of(i);
  return y.vector();
}

// Lanes whose bit is not set are neither read nor written.
template <typename T, typename V>
inline V load(V otherwise, uint64_t mask, const void* from) {
  const Lanes<T, V> old(otherwise);
  return each<T, V>([&](int i) {
    T x = old.lane[i];
    if (mask >> i & 1) std::memcpy(&x, (const T*)from + i, sizeof x);
    return x;
  });
}

template <typename T, typename V>
inline void store(void* to, uint64_t mask, V v) {
  const Lanes<T, V> x(v);
  for (int i = 0; i < x.kCount; ++i) {
    if (mask >> i & 1) std::memcpy((T*)to + i, &x.lane[i], sizeof(T));
  }
}

template <typename To, typename VTo, typename From, typename VFrom>
inline VTo convert(VFrom v) {
  const Lanes<From, VFrom> x(v);
  return each<To, VTo>([&](int i) { return (To)x.lane[i]; });
}

template <typename V>
inline V gather(V otherwise, uint64_t mask, Lanes<int32_t, V> index, const void* base, int scale) {
  const Lanes<float, V> old(otherwise);
  return each<float, V>([&](int i) {
    float x = old.lane[i];
    if (mask >> i & 1) std::memcpy(&x, (const char*)base + (int64_t)index.lane[i] * scale, sizeof x);
    return x;
  });
}

inline __mmask16 less_u32(__m512i a, __m512i b) {
  const Lanes<uint32_t, __m512i> x(a), y(b);
  __mmask16 m = 0;
  for (int i = 0; i < 16; ++i) m |= (__mmask16)(x.lane[i] < y.lane[i]) << i;
  return m;
}

inline __m512i rounded(__m512 v) {
  const Lanes<float, __m512> x(v);
  return each<int32_t, __m512i>([&](int i) {  // to nearest, ties to even; what has no int32 becomes the least
    return x.lane[i] >= -0x1p31f && x.lane[i] < 0x1p31f ? (int32_t)std::nearbyintf(x.lane[i]) : INT32_MIN;
  });
}

template <int kHow>
inline __m512 floors(__m512 v) {
  static_assert(kHow == (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), "no other rounding is needed yet");
  const Lanes<float, __m512> x(v);
  return each<float, __m512>([&](int i) { return std::floor(x.lane[i]); });
}

inline float sum(__m512 v) {  // in the order of GCC's own: halves, quarters, pairs
  const Lanes<float, __m512> x(v);
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = x.lane[i + 8] + x.lane[i];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i + 4] + half[i];
  return (quarter[2] + quarter[0]) + (quarter[3] + quarter[1]);
}

inline __m512 shuffle_quarters(__m512 a, __m512 b, int which) {
  const Lanes<float, __m512> x(a), y(b);
  return each<float, __m512>([&](int i) {
    const int quarter = which >> (i / 4 * 2) & 3;
    return (i < 8 ? x : y).lane[4 * quarter + i % 4];
  });
}

inline __m512 extended(__m256 v) {
  Lanes<float, __m512> y{};
  std::memcpy(y.lane, &v, sizeof v);
  return y.vector();
}

}  // namespace emulated

#define _mm512_cmplt_epu32_mask(a, b) emulated::less_u32(a, b)
#define _mm512_cvtepi16_epi32(a) emulated::convert<int32_t, __m512i, int16_t, __m256i>(a)
#define _mm512_cvtepu8_epi32(a) emulated::convert<int32_t, __m512i, uint8_t, __m128i>(a)
#define _mm512_cvtepi32_epi8(a) emulated::convert<int8_t, __m128i, int32_t, __m512i>(a)
#define _mm512_cvtepi32_ps(a) emulated::convert<float, __m512, int32_t, __m512i>(a)
#define _mm512_cvtepu32_epi64(a) emulated::convert<int64_t, __m512i, uint32_t, __m256i>(a)
#define _mm512_cvtps_epi32(a) emulated::rounded(a)
#define _mm512_i32gather_ps(index, base, scale) \
  emulated::gather(_mm512_setzero_ps(), 0xffff, emulated::Lanes<int32_t, __m512>((__m512)(index)), base, scale)
#define _mm512_mask_i32gather_ps(old, m, index, base, scale) \
  emulated::gather(old, m, emulated::Lanes<int32_t, __m512>((__m512)(index)), base, scale)
#define _mm512_mask_loadu_epi8(old, m, p) emulated::load<int8_t, __m512i>(old, m, p)
#define _mm512_maskz_loadu_epi8(m, p) emulated::load<int8_t, __m512i>(_mm512_setzero_si512(), m, p)
#define _mm_maskz_loadu_epi8(m, p) emulated::load<int8_t, __m128i>(_mm_setzero_si128(), m, p)
#define _mm512_maskz_loadu_epi32(m, p) emulated::load<int32_t, __m512i>(_mm512_setzero_si512(), m, p)
#define _mm512_maskz_loadu_ps(m, p) emulated::load<float, __m512>(_mm512_setzero_ps(), m, p)
#define _mm256_maskz_loadu_ps(m, p) emulated::load<float, __m256>(_mm256_setzero_ps(), m, p)
#define _mm512_mask_storeu_epi8(p, m, v) emulated::store<int8_t, __m512i>(p, m, v)
#define _mm256_mask_storeu_epi8(p, m, v) emulated::store<int8_t, __m256i>(p, m, v)
#define _mm_mask_storeu_epi8(p, m, v) emulated::store<int8_t, __m128i>(p, m, v)
#define _mm512_mask_storeu_ps(p, m, v) emulated::store<float, __m512>(p, m, v)
#define _mm512_mask_cvtepi32_storeu_epi8(p, m, v) emulated::store<int8_t, __m128i>(p, m, _mm512_cvtepi32_epi8(v))
// SIMDe 0.7.4 rounds to halves.
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(v, how) emulated::floors<how>(v)
#define _mm512_reduce_add_ps(v) emulated::sum(v)
#define _mm512_shuffle_f32x4(a, b, which) emulated::shuffle_quarters(a, b, which)
#define _mm512_zextps256_ps512(v) emulated::extended(v)
#endif
