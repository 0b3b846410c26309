// Four kernel rows side by side: the vectors of depthwise_i8.
//
// Of one input column, up to four rows of 4·L channels are read and their bytes interleaved, so that the four
// bytes of a channel make one quad and one dot product does four rows at once:
//
//   a0 a1 a2 …  b0 b1 b2 …  c0 c1 c2 …  d0 d1 d2 …   →   a0 b0 c0 d0  a1 b1 c1 d1 …
//
// Unpacking works inside each 16 bytes. So lane i of sum vector v (0 … 3) is channel i/4·16 + v·4 + i%4, and packing
// the sums the same way puts the channels back in order: no permute on either side. Half h is the vectors 2h, 2h + 1.
// in_order: what is not packed to bytes, four vectors of one pixel, in order of its channels.
#pragma once
#include "vec_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

JT_INLINE int64_t interleaved_channel(int64_t vector, int64_t lane) { return lane / 4 * 16 + vector * 4 + lane % 4; }

#if defined(JETTISON_AVX512)

struct Zmm {
  static constexpr int kLanes = 16;
  static constexpr int kWeightBytes = 64;
  using Bytes = __m512i;
  using Sums = __m512i;
  using Quad = __m512i;
  using Weight = __m512i;
  JT_INLINE Bytes load(const void* p) { return _mm512_loadu_si512(p); }
  JT_INLINE void store_sums(int32_t* p, Sums v) { _mm512_storeu_si512(p, v); }
  JT_INLINE Weight weight(const uint8_t* p) { return _mm512_loadu_si512(p); }
  JT_INLINE void put(uint8_t* p, int lane, int row, int8_t w) { ((int8_t*)p)[lane * 4 + row] = w; }
  JT_INLINE Sums dot(Sums acc, Quad x, Weight w) { return _mm512_dpbusd_epi32(acc, x, w); }
  JT_INLINE void in_order(const int32_t* sums, int32_t* channels) {
    __m512i v[4];
    for (int i = 0; i < 4; ++i) v[i] = load(sums + i * kLanes);
    for (int i = 0; i < 2; ++i) {
      const __m512i a = i ? _mm512_shuffle_i32x4(v[0], v[1], 0xee) : _mm512_shuffle_i32x4(v[0], v[1], 0x44);
      const __m512i b = i ? _mm512_shuffle_i32x4(v[2], v[3], 0xee) : _mm512_shuffle_i32x4(v[2], v[3], 0x44);
      store_sums(channels + 2 * i * kLanes, _mm512_shuffle_i32x4(a, b, 0x88));
      store_sums(channels + (2 * i + 1) * kLanes, _mm512_shuffle_i32x4(a, b, 0xdd));
    }
  }
  template <int Half>
  JT_INLINE void quads(const Bytes (&x)[4], Quad (&q)[2]) {
    const __m512i ab = Half ? _mm512_unpackhi_epi8(x[0], x[1]) : _mm512_unpacklo_epi8(x[0], x[1]);
    const __m512i cd = Half ? _mm512_unpackhi_epi8(x[2], x[3]) : _mm512_unpacklo_epi8(x[2], x[3]);
    q[0] = _mm512_unpacklo_epi16(ab, cd);
    q[1] = _mm512_unpackhi_epi16(ab, cd);
  }
  // rint(sums · multiplier) as int16, saturated
  JT_INLINE Sums scaled(Sums v, const float* multiplier) {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_loadu_ps(multiplier)), _mm512_set1_ps(kLarge)));
  }
  JT_INLINE Bytes words(Sums a, Sums b, const float* multiplier) {
    return _mm512_packs_epi32(scaled(a, multiplier), scaled(b, multiplier + kLanes));
  }
  JT_INLINE void store(uint8_t* p, Bytes lower, Bytes upper, int zero, int low, int high, int64_t n) {
    const __m512i z = _mm512_set1_epi16((short)zero);
    const __m512i q = _mm512_packus_epi16(_mm512_adds_epi16(lower, z), _mm512_adds_epi16(upper, z));
    store_bytes_first(p, _mm512_min_epu8(_mm512_max_epu8(q, _mm512_set1_epi8((char)low)), _mm512_set1_epi8((char)high)), n);
  }
};

#endif

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)

struct Ymm {
  static constexpr int kLanes = 8;
  using Bytes = __m256i;
  using Sums = __m256i;
#if defined(JETTISON_AVX512)
  static constexpr int kWeightBytes = 32;
  using Quad = __m256i;
  using Weight = __m256i;
  JT_INLINE Quad quad(__m256i x) { return x; }
  JT_INLINE Weight weight(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  JT_INLINE void put(uint8_t* p, int lane, int row, int8_t w) { ((int8_t*)p)[lane * 4 + row] = w; }
  JT_INLINE Sums dot(Sums acc, Quad x, Weight w) { return _mm256_dpbusd_epi32(acc, x, w); }
  JT_INLINE void store_first(uint8_t* p, __m256i v, int64_t n) {
    _mm256_mask_storeu_epi8(p, n >= 32 ? ~(__mmask32)0 : (__mmask32)((1u << n) - 1), v);
  }
#else
  static constexpr int kWeightBytes = kQuadBytes;
  using Quad = u8q;
  using Weight = i8q;
  JT_INLINE Quad quad(__m256i x) { return split(x); }
  JT_INLINE Weight weight(const uint8_t* p) { return load_quad(p); }
  JT_INLINE void put(uint8_t* p, int lane, int row, int8_t w) { put_weight(p, lane, row, w); }
  JT_INLINE Sums dot(Sums acc, Quad x, Weight w) { return vec::dot(acc, x, w); }
  JT_INLINE void store_first(uint8_t* p, __m256i v, int64_t n) { store_bytes_first(p, v, n); }
#endif
  JT_INLINE Bytes load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
  JT_INLINE void store_sums(int32_t* p, Sums v) { _mm256_storeu_si256((__m256i*)p, v); }
  JT_INLINE void in_order(const int32_t* sums, int32_t* channels) {
    for (int i = 0; i < 2; ++i) {
      const __m256i a = load(sums + 2 * i * kLanes), b = load(sums + (2 * i + 1) * kLanes);
      store_sums(channels + i * kLanes, _mm256_permute2x128_si256(a, b, 0x20));
      store_sums(channels + (i + 2) * kLanes, _mm256_permute2x128_si256(a, b, 0x31));
    }
  }
  template <int Half>
  JT_INLINE void quads(const Bytes (&x)[4], Quad (&q)[2]) {
    const __m256i ab = Half ? _mm256_unpackhi_epi8(x[0], x[1]) : _mm256_unpacklo_epi8(x[0], x[1]);
    const __m256i cd = Half ? _mm256_unpackhi_epi8(x[2], x[3]) : _mm256_unpacklo_epi8(x[2], x[3]);
    q[0] = quad(_mm256_unpacklo_epi16(ab, cd));
    q[1] = quad(_mm256_unpackhi_epi16(ab, cd));
  }
  JT_INLINE Sums scaled(Sums v, const float* multiplier) {
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(v), _mm256_loadu_ps(multiplier)), _mm256_set1_ps(kLarge)));
  }
  JT_INLINE Bytes words(Sums a, Sums b, const float* multiplier) {
    return _mm256_packs_epi32(scaled(a, multiplier), scaled(b, multiplier + kLanes));
  }
  JT_INLINE void store(uint8_t* p, Bytes lower, Bytes upper, int zero, int low, int high, int64_t n) {
    const __m256i z = _mm256_set1_epi16((short)zero);
    const __m256i q = _mm256_packus_epi16(_mm256_adds_epi16(lower, z), _mm256_adds_epi16(upper, z));
    store_first(p, _mm256_min_epu8(_mm256_max_epu8(q, _mm256_set1_epi8((char)low)), _mm256_set1_epi8((char)high)), n);
  }
};

#else

struct Plain {
  static constexpr int kLanes = 4;
  static constexpr int kWeightBytes = kQuadBytes;
  struct Bytes {  // 16 bytes, or 8 words
    uint8_t v[16];
    int16_t word[8];
  };
  using Sums = i32v;
  using Quad = u8q;
  using Weight = i8q;
  JT_INLINE Bytes load(const uint8_t* p) {
    Bytes o;
    std::memcpy(o.v, p, sizeof o.v);
    return o;
  }
  JT_INLINE Sums load(const int32_t* p) { return load_i32(p); }
  JT_INLINE void store_sums(int32_t* p, Sums v) { std::memcpy(p, &v, sizeof v); }
  JT_INLINE Weight weight(const uint8_t* p) { return load_quad(p); }
  JT_INLINE void put(uint8_t* p, int lane, int row, int8_t w) { put_weight(p, lane, row, w); }
  JT_INLINE Sums dot(Sums acc, Quad x, Weight w) { return vec::dot(acc, x, w); }
  JT_INLINE void in_order(const int32_t* sums, int32_t* channels) {
    for (int i = 0; i < 4 * kLanes; ++i) channels[interleaved_channel(i / kLanes, i % kLanes)] = sums[i];
  }
  template <int Half>
  JT_INLINE void quads(const Bytes (&x)[4], Quad (&q)[2]) {
    for (int i = 0; i < 8; ++i)
      for (int row = 0; row < 4; ++row) q[i / 4].v[i % 4 * 4 + row] = x[row].v[Half * 8 + i];
  }
  JT_INLINE Bytes words(Sums a, Sums b, const float* multiplier) {
    Bytes o;
    for (int i = 0; i < 8; ++i) {
      const float t = (float)(i < 4 ? a[i % 4] : b[i % 4]) * multiplier[i];
      o.word[i] = (int16_t)::nearbyintf(t < -32768.0f ? -32768.0f : t > 32767.0f ? 32767.0f : t);
    }
    return o;
  }
  JT_INLINE void store(uint8_t* p, const Bytes& lower, const Bytes& upper, int zero, int low, int high, int64_t n) {
    for (int i = 0; i < 16 && i < n; ++i) {
      const int q = (i < 8 ? lower : upper).word[i % 8] + zero;
      p[i] = (uint8_t)(q < low ? low : q > high ? high : q);
    }
  }
};

#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
