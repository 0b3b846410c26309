// What lookup_tiles.h needs of an instruction set: a lane for each of W pixels.
#pragma once
#include "vec.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)

#if defined(JETTISON_AVX512)

using i32x = __m512i;
using Mask = __mmask16;

JT_INLINE i32x broadcast(int32_t x) { return _mm512_set1_epi32(x); }
JT_INLINE i32x both(i32x a, i32x b) { return _mm512_and_si512(a, b); }
JT_INLINE i32x either(i32x a, i32x b) { return _mm512_or_si512(a, b); }
JT_INLINE i32x differ(i32x a, i32x b) { return _mm512_xor_si512(a, b); }
JT_INLINE i32x times_each(i32x a, int32_t b) { return _mm512_mullo_epi32(a, broadcast(b)); }
JT_INLINE void store_lanes(int32_t* to, i32x v) { _mm512_storeu_si512(to, v); }
JT_INLINE Mask equal(i32x a, i32x b) { return _mm512_cmpeq_epi32_mask(a, b); }
JT_INLINE Mask above(f32v a, f32v b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
JT_INLINE i32x bits_where(Mask m, int32_t bits) { return _mm512_maskz_set1_epi32(m, bits); }
JT_INLINE f32v choose(Mask m, f32v yes, f32v no) { return _mm512_mask_mov_ps(no, m, yes); }
template <int kBit>
JT_INLINE Mask bit_set(i32x v) {
  return _mm512_test_epi32_mask(v, broadcast(1 << kBit));
}

// table[i], i < 2^kBits
template <int kBits>
JT_INLINE f32v find(const float* table, i32x i) {
  if constexpr (kBits < 4) return _mm512_permutexvar_ps(i, _mm512_maskz_loadu_ps(first(1 << kBits), table));
  else if constexpr (kBits == 4) return _mm512_permutexvar_ps(i, load(table));
  else if constexpr (kBits == 5) return _mm512_permutex2var_ps(load(table), i, load(table + W));
  else return _mm512_i32gather_ps(i, table, 4);
}

#else

using i32x = __m256i;
using Mask = __m256i;  // ones or zeros in every lane

JT_INLINE i32x broadcast(int32_t x) { return _mm256_set1_epi32(x); }
JT_INLINE i32x both(i32x a, i32x b) { return _mm256_and_si256(a, b); }
JT_INLINE i32x either(i32x a, i32x b) { return _mm256_or_si256(a, b); }
JT_INLINE i32x differ(i32x a, i32x b) { return _mm256_xor_si256(a, b); }
JT_INLINE i32x times_each(i32x a, int32_t b) { return _mm256_mullo_epi32(a, broadcast(b)); }
JT_INLINE void store_lanes(int32_t* to, i32x v) { _mm256_storeu_si256((__m256i*)to, v); }
JT_INLINE Mask equal(i32x a, i32x b) { return _mm256_cmpeq_epi32(a, b); }
JT_INLINE Mask above(f32v a, f32v b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
JT_INLINE i32x bits_where(Mask m, int32_t bits) { return both(m, broadcast(bits)); }
JT_INLINE f32v choose(Mask m, f32v yes, f32v no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m)); }
template <int kBit>
JT_INLINE Mask bit_set(i32x v) {  // for `choose`, which reads the highest bit
  return _mm256_slli_epi32(v, 31 - kBit);
}

// table[i], i < 2^kBits
template <int kBits>
JT_INLINE f32v find(const float* table, i32x i) {
  if constexpr (kBits < 3) return _mm256_permutevar8x32_ps(_mm256_maskload_ps(table, first(1 << kBits)), i);
  else if constexpr (kBits == 3) return _mm256_permutevar8x32_ps(load(table), i);
  else if constexpr (kBits < 6)
    return choose(bit_set<kBits - 1>(i), find<kBits - 1>(table + (1 << (kBits - 1)), i), find<kBits - 1>(table, i));
  else return _mm256_i32gather_ps(table, i, 4);
}

#endif

struct Tile {
  int64_t pixel, live, run;
  Mask mask;
  const int32_t* starts;
};

// A tree's thresholds.
template <int kLevels>
struct Thresholds {
  const float* all;

  explicit Thresholds(const float* p) : all(p) {}

  // Those of a level where `before` is answered.
  template <int kLevel>
  f32v at(i32x before) const {
    return find<kLevel>(all + (1 << kLevel) - 1, before);
  }

  // The answer of a level: its bit, and nothing else.
  template <int kLevel>
  i32x answer(f32v x, i32x before) const {
    return bits_where(above(x, at<kLevel>(before)), 1 << kLevel);
  }
};

#if defined(JETTISON_AVX512)

// What the tile's pixels find in their image at `from`.
JT_INLINE f32v inputs(const Tile& tile, const float* from) {
  if (tile.run == W) return _mm512_maskz_loadu_ps(tile.mask, from + tile.starts[0]);
  if (tile.run == 1) return _mm512_mask_i32gather_ps(zero(), tile.mask, _mm512_maskz_loadu_epi32(tile.mask, tile.starts), from, 4);
  const __m256 lower = _mm256_maskz_loadu_ps((__mmask8)tile.mask, from + tile.starts[0]);
  if (tile.live <= 8) return _mm512_zextps256_ps512(lower);
  return _mm512_insertf32x8(_mm512_castps256_ps512(lower), _mm256_maskz_loadu_ps((__mmask8)(tile.mask >> 8), from + tile.starts[8]), 1);
}

JT_INLINE void add_inputs(const Tile& tile, float* to, f32v x) {
  if (tile.run == 1) {
    float each[W];
    store(each, x);
    for (int64_t p = 0; p < tile.live; ++p) to[tile.starts[p]] += each[p];
    return;
  }
  for (int64_t p = 0; p < tile.live; p += tile.run) {
    const __mmask16 some = (__mmask16)(tile.mask & (0xffffu >> (W - tile.run) << p));
    float* const at = to + tile.starts[p] - p;
    _mm512_mask_storeu_ps(at, some, add(_mm512_maskz_loadu_ps(some, at), x));
  }
}

JT_INLINE void store_codes(uint16_t* to, const Tile& tile, i32x code) { _mm512_mask_cvtepi32_storeu_epi16(to, tile.mask, code); }

JT_INLINE i32x load_codes(const uint16_t* from, const Tile& tile) {
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(tile.mask, from));
}

// Lane i: the sum of x[i].
JT_INLINE f32v sums_of(const f32v (&x)[W]) {
  f32v a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) a[i] = add(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  const auto pairs = [](f32v p, f32v q, bool upper) {
    const __m512d x = _mm512_castps_pd(p), y = _mm512_castps_pd(q);
    return _mm512_castpd_ps(upper ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  };
  for (int i = 0; i < 4; ++i) b[i] = add(pairs(a[2 * i], a[2 * i + 1], false), pairs(a[2 * i], a[2 * i + 1], true));
  for (int i = 0; i < 2; ++i)
    c[i] = add(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  return add(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

#else

// What the tile's pixels find in their image at `from`.
JT_INLINE f32v inputs(const Tile& tile, const float* from) {
  if (tile.run == W) return tile.live == W ? load(from + tile.starts[0]) : _mm256_maskload_ps(from + tile.starts[0], tile.mask);
  if (tile.run == 1)
    return _mm256_mask_i32gather_ps(zero(), from, _mm256_maskload_epi32(tile.starts, tile.mask), _mm256_castsi256_ps(tile.mask), 4);
  const __m128 lower = _mm_maskload_ps(from + tile.starts[0], _mm256_castsi256_si128(tile.mask));
  if (tile.live <= 4) return _mm256_zextps128_ps256(lower);
  return _mm256_insertf128_ps(_mm256_castps128_ps256(lower), _mm_maskload_ps(from + tile.starts[4], _mm256_extracti128_si256(tile.mask, 1)),
                              1);
}

JT_INLINE void add_inputs(const Tile& tile, float* to, f32v x) {
  if (tile.run == W && tile.live == W) return store(to + tile.starts[0], add(load(to + tile.starts[0]), x));
  float each[W];
  store(each, x);
  for (int64_t p = 0; p < tile.live; ++p) to[tile.starts[p]] += each[p];
}

JT_INLINE void store_codes(uint16_t* to, const Tile& tile, i32x code) {
  int32_t each[W];
  store_lanes(each, code);
  for (int64_t p = 0; p < tile.live; ++p) to[p] = (uint16_t)each[p];
}

JT_INLINE i32x load_codes(const uint16_t* from, const Tile& tile) {
  uint16_t each[W] = {};
  std::memcpy(each, from, tile.live * sizeof(uint16_t));
  return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)each));
}

// Lane i: the sum of x[i].
JT_INLINE f32v sums_of(const f32v (&x)[W]) {
  const f32v a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
  const f32v b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
  return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

#endif

#endif

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
