// Codes of trees of 16 leaves straight from rows of channels, where a kernel has one tap: nothing is turned. AVX-512 only.
//
// Sixteen codebooks ask 64 channels of a pixel, four levels of sixteen, which byte permutes bring into one vector. Those of four pixels
// make a vector of each level, and thresholds are blends of at most eight vectors that stay in registers.
#pragma once
#include "vec_lut.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

constexpr int kBunch = 16;           // codebooks
constexpr int kBunchLevels = 4;      // of their trees
constexpr int64_t kBunchWidth = 64;  // channels of a whole vector
constexpr int kMostSpanned = 4;      // vectors of a row that they ask

struct Bunch {
  uint8_t places[64];  // [level][codebook]: in the first two vectors, or in the last two
  uint8_t thresholds[(1 << kBunchLevels) - 1][kBunch];
  uint64_t later;  // which places are in the last two
  int64_t first, vectors;
};

JT_INLINE int64_t bunches(int64_t codebooks) { return ceil_div(codebooks, kBunch); }

#if defined(JETTISON_AVX512)

// False: they ask too far apart. to holds zeros.
JT_INLINE bool pack_bunches(int64_t channels, const int32_t* splits, const uint8_t* thresholds, int64_t codebooks, Bunch* to) {
  for (int64_t start = 0; start < codebooks; start += kBunch, ++to) {
    const int64_t some = min64(kBunch, codebooks - start);
    const int32_t* asked = splits + start * kBunchLevels;
    int64_t low = channels, high = 0;
    for (int64_t i = 0; i < some * kBunchLevels; ++i) low = min64(low, asked[i]), high = max64(high, asked[i]);
    to->first = low / kBunchWidth, to->vectors = high / kBunchWidth + 1 - to->first;
    if (to->vectors > kMostSpanned) return false;
    for (int64_t j = 0; j < some; ++j) {
      for (int level = 0; level < kBunchLevels; ++level) {
        const int64_t place = asked[j * kBunchLevels + level] - to->first * kBunchWidth;
        to->places[level * kBunch + j] = (uint8_t)(place % 128);
        to->later |= (uint64_t)(place >= 128) << (level * kBunch + j);
      }
      for (int i = 0; i < 15; ++i) to->thresholds[i][j] = thresholds[(start + j) * 15 + i];
    }
  }
  return true;
}

template <int kVectors>
JT_INLINE __m512i pick(const Bunch& b, __m512i places, const uint8_t* row) {
  const auto vector = [&](int i) { return _mm512_loadu_si512(row + kBunchWidth * (b.first + i)); };
  const __m512i x = kVectors == 1 ? _mm512_permutexvar_epi8(places, vector(0)) : _mm512_permutex2var_epi8(vector(0), places, vector(1));
  if (kVectors == 3) return _mm512_mask_permutexvar_epi8(x, b.later, places, vector(2));
  if (kVectors == 4) return _mm512_mask_blend_epi8(b.later, x, _mm512_permutex2var_epi8(vector(2), places, vector(3)));
  return x;
}

// Lane i of x[j] becomes lane j of x[i].
JT_INLINE void turn_lanes(__m512i (&x)[4]) {
  const __m512i a = _mm512_shuffle_i32x4(x[0], x[1], 0x44), b = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(x[0], x[1], 0xee), d = _mm512_shuffle_i32x4(x[2], x[3], 0xee);
  x[0] = _mm512_shuffle_i32x4(a, b, 0x88), x[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  x[2] = _mm512_shuffle_i32x4(c, d, 0x88), x[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

// Inside each lane: the i-th four bytes of x[j] become the j-th of x[i].
JT_INLINE void turn_fours(__m512i (&x)[4]) {
  const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpacklo_epi32(x[2], x[3]);
  const __m512i c = _mm512_unpackhi_epi32(x[0], x[1]), d = _mm512_unpackhi_epi32(x[2], x[3]);
  x[0] = _mm512_unpacklo_epi64(a, b), x[1] = _mm512_unpackhi_epi64(a, b);
  x[2] = _mm512_unpacklo_epi64(c, d), x[3] = _mm512_unpackhi_epi64(c, d);
}

// The codes of a bunch for kRows rows, `steps` ≤ 4 steps of them as `look_up` reads them.
template <int kVectors, class Rows>
JT_INLINE void encode_bunch(const Bunch& b, const Rows& rows, int64_t steps, uint8_t* codes) {
  const __m512i places = _mm512_loadu_si512(b.places), table = _mm512_set1_epi32(0x30201000);
  __m512i t[15];
  for (int i = 0; i < 15; ++i) t[i] = table_of(b.thresholds[i]);
  const auto bit = [](__m512i code, __mmask64 yes, int value) {
    return _mm512_mask_add_epi8(code, yes, code, _mm512_set1_epi8((char)value));
  };
  const auto either = [](__mmask64 yes, __m512i no, __m512i one) { return _mm512_mask_blend_epi8(yes, no, one); };
  for (int64_t g = 0; g < 4; ++g) {
    __m512i code[4];
    for (int q = 0; q < 4; ++q) {
      __m512i x[4];  // of rows 4g + q, and 16, 32 and 48 further on: `row_of`
      for (int p = 0; p < 4; ++p) x[p] = pick<kVectors>(b, places, rows[16 * p + 4 * g + q]);
      turn_lanes(x);
      const __mmask64 m0 = _mm512_cmpgt_epu8_mask(x[0], t[0]);
      const __mmask64 m1 = _mm512_cmpgt_epu8_mask(x[1], either(m0, t[1], t[2]));
      const __mmask64 m2 = _mm512_cmpgt_epu8_mask(x[2], either(m1, either(m0, t[3], t[4]), either(m0, t[5], t[6])));
      const __m512i lower = either(m1, either(m0, t[7], t[8]), either(m0, t[9], t[10]));
      const __m512i upper = either(m1, either(m0, t[11], t[12]), either(m0, t[13], t[14]));
      const __mmask64 m3 = _mm512_cmpgt_epu8_mask(x[3], either(m2, lower, upper));
      code[q] = bit(bit(bit(bit(table, m0, 1), m1, 2), m2, 4), m3, 8);
    }
    turn_fours(code);
    for (int64_t s = 0; s < steps; ++s) _mm512_storeu_si512(codes + s * kStep * kRows + g * 64, code[s]);
  }
}

// Codes of all codebooks for kRows rows.
template <class Rows>
JT_INLINE void encode_rows(const Bunch* b, int64_t codebooks, const Rows& rows, uint8_t* codes) {
  for (int64_t start = 0; start < codebooks; start += kBunch, ++b, codes += kBunch * kRows) {
    const int64_t steps = min64(kBunch / kStep, ceil_div(codebooks - start, kStep));
    (b->vectors == 1   ? encode_bunch<1, Rows>
     : b->vectors == 2 ? encode_bunch<2, Rows>
     : b->vectors == 3 ? encode_bunch<3, Rows>
                       : encode_bunch<4, Rows>)(*b, rows, steps, codes);
  }
}

#else

JT_INLINE bool pack_bunches(int64_t, const int32_t*, const uint8_t*, int64_t, Bunch*) { return false; }
template <class Rows>
JT_INLINE void encode_rows(const Bunch*, int64_t, const Rows&, uint8_t*) {}

#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
