// Hash trees for one instruction set: kRows rows (pixels) side by side, one byte each, thresholds found in registers.
//
// A level's thresholds are shuffled into place by the answers so far; where they are more than a shuffle takes, the answers of the later
// levels choose between several; of the deepest levels, whose thresholds are too many for that, each row loads its own. Thresholds of a
// tree are packed as in vec_lut.h: level l, at least 16 bytes, from tree_bytes(l) on.
#pragma once
#include "levels.h"
#include "vec_lut.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

// Is the mean of two bytes of a pixel larger than a threshold; flip: 255 turns the second into its complement.
struct Question {
  int32_t first, second, flip;
};

#if defined(JETTISON_AVX512)

using Answer = __mmask64;

JT_INLINE __m512i ask(const uint8_t* planes, const Question& q) {
  const __m512i one = _mm512_loadu_si512(planes + q.first * kRows), other = _mm512_loadu_si512(planes + q.second * kRows);
  return _mm512_avg_epu8(one, _mm512_xor_si512(other, _mm512_set1_epi8((char)q.flip)));
}

// code: the first seven answers.
template <int kLevel>
JT_INLINE __m512i threshold_of(const uint8_t* of, __m512i code, const Answer* answers) {
  if constexpr (kLevel <= 7) return thresholds(of, kLevel, code);
  else
    return _mm512_mask_blend_epi8(answers[kLevel - 1], threshold_of<kLevel - 1>(of, code, answers),
                                  threshold_of<kLevel - 1>(of + (1 << (kLevel - 1)), code, answers));
}

JT_INLINE Answer larger(__m512i a, __m512i b) { return _mm512_cmpgt_epu8_mask(a, b); }

JT_INLINE __m512i with_bit(__m512i code, Answer yes, int bit) {
  return _mm512_mask_add_epi8(code, yes, code, _mm512_set1_epi8((char)(1 << bit)));
}

constexpr int kShuffled = 7;  // answers that one shuffle takes

using Octets = __m512i;
JT_INLINE Octets no_octets() { return _mm512_setzero_si512(); }
JT_INLINE void store_octets(uint8_t* to, Octets v) { _mm512_store_si512(to, v); }

JT_INLINE void store_codes(uint16_t* to, Octets lower, Octets upper) {
  for (int half = 0; half < 2; ++half) {
    const __m256i low = half ? _mm512_extracti64x4_epi64(lower, 1) : _mm512_castsi512_si256(lower);
    const __m256i high = half ? _mm512_extracti64x4_epi64(upper, 1) : _mm512_castsi512_si256(upper);
    const __m512i words = _mm512_or_si512(_mm512_cvtepu8_epi16(low), _mm512_slli_epi16(_mm512_cvtepu8_epi16(high), 8));
    _mm512_storeu_si512(to + 32 * half, words);
  }
}

#elif defined(JETTISON_AVX2)

using Answer = __m256i;

JT_INLINE __m256i ask(const uint8_t* planes, const Question& q) {
  const __m256i one = _mm256_loadu_si256((const __m256i*)(planes + q.first * kRows));
  const __m256i other = _mm256_loadu_si256((const __m256i*)(planes + q.second * kRows));
  return _mm256_avg_epu8(one, _mm256_xor_si256(other, _mm256_set1_epi8((char)q.flip)));
}

// code: the first four answers.
template <int kLevel>
JT_INLINE __m256i threshold_of(const uint8_t* of, __m256i code, const Answer* answers) {
  if constexpr (kLevel <= 4) return _mm256_shuffle_epi8(table_of(of), code);
  else
    return _mm256_blendv_epi8(threshold_of<kLevel - 1>(of, code, answers),
                              threshold_of<kLevel - 1>(of + (1 << (kLevel - 1)), code, answers), answers[kLevel - 1]);
}

JT_INLINE Answer larger(__m256i a, __m256i b) {
  return _mm256_xor_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(a, b), a), _mm256_set1_epi8(-1));
}

JT_INLINE __m256i with_bit(__m256i code, Answer yes, int bit) {
  return _mm256_or_si256(code, _mm256_and_si256(yes, _mm256_set1_epi8((char)(1 << bit))));
}

constexpr int kShuffled = 4;

using Octets = __m256i;
JT_INLINE Octets no_octets() { return _mm256_setzero_si256(); }
JT_INLINE void store_octets(uint8_t* to, Octets v) { _mm256_store_si256((__m256i*)to, v); }

JT_INLINE void store_codes(uint16_t* to, Octets lower, Octets upper) {
  for (int half = 0; half < 2; ++half) {
    const __m128i low = half ? _mm256_extracti128_si256(lower, 1) : _mm256_castsi256_si128(lower);
    const __m128i high = half ? _mm256_extracti128_si256(upper, 1) : _mm256_castsi256_si128(upper);
    const __m256i words = _mm256_or_si256(_mm256_cvtepu8_epi16(low), _mm256_slli_epi16(_mm256_cvtepu8_epi16(high), 8));
    _mm256_storeu_si256((__m256i*)(to + 16 * half), words);
  }
}

#endif

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)

constexpr int kInRegisters = 12;  // levels

// Leaves of kRows rows in one tree. asked(level): the bytes that are compared with thresholds of that level.
template <class Asked>
JT_INLINE void walk(const Asked& asked, const uint8_t* tree, int64_t levels, uint16_t* codes) {
  Answer answers[kInRegisters];
  Octets shuffled = no_octets(), lower = no_octets(), upper = no_octets();
  times<kInRegisters>([&](auto l) JT_FLAT {
    constexpr int level = decltype(l)::value;
    if (level >= levels) return;
    answers[level] = larger(asked(level), threshold_of<level>(tree + tree_bytes(level), shuffled, answers));
    if constexpr (level < kShuffled) shuffled = with_bit(shuffled, answers[level], level);
    if constexpr (level < 8) lower = with_bit(lower, answers[level], level);
    else upper = with_bit(upper, answers[level], level - 8);
  });
  store_codes(codes, lower, upper);
  for (int64_t level = kInRegisters; level < levels; ++level) {
    alignas(64) uint8_t x[kRows];
    store_octets(x, asked(level));
    answer_rows(x, tree, (int)level, codes);
  }
}

#else

JT_INLINE RowBytes ask(const uint8_t* planes, const Question& q) {
  const uint8_t *one = planes + q.first * kRows, *other = planes + q.second * kRows;
  RowBytes mean;
  for (int i = 0; i < kRows; ++i) mean.row[i] = (uint8_t)((one[i] + (other[i] ^ q.flip) + 1) >> 1);
  return mean;
}

template <class Asked>
JT_INLINE void walk(const Asked& asked, const uint8_t* tree, int64_t levels, uint16_t* codes) {
  for (int i = 0; i < kRows; ++i) codes[i] = 0;
  for (int level = 0; level < levels; ++level) answer_rows(asked(level).row, tree, level, codes);
}

#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
