// Table look-up for one instruction set: kRows rows (output pixels) side by side, one byte each.
//
//   encode     kStep codebooks: the leaves of all rows in their hash trees, as look_up reads them → codes
//   look_up    kOutputs output channels: sums of the tables' entries over all codebooks           → end(channel, int32 sums)
//
// look_up finds entries in registers: tables have K = 2^kLevels entries, kLevels = 4, 5 or 6.
//
// Without the byte permute 16 entries are one register and `vpshufb` looks up one codebook; of two or four registers the upper
// bits of the code choose. Sums of bytes are then taken in 16 bits, exactly: A += v and O += v >> 8 as words hold all bytes and
// the odd ones; the even ones are A − (O << 8). Bytes are unsigned for it (entry + 128, taken back through the bias), so 256 of
// them fit.
//
// AVX-512 looks up four codebooks at once: `vpermb` takes 64 bytes as four tables of 16 and a code with 16·j added as an index;
// the four bytes of a row stand together, so `vpdpbusd` with ones adds them to the row's sum. Two instructions for 64
// look-ups where words take four. Four tables of 32 are the two operands of `vpermi2b`: as fast. Of 64, two such find the lower
// and the upper two codebooks. Bringing four codebooks' bytes together leaves the rows in another order: `row_of`.
#pragma once
#include "conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

constexpr int kOutputs = 4;  // of one look_up

// Packed thresholds of a codebook: 2^level bytes for each level, but at least 16. Level l begins at tree_bytes(l).
constexpr int tree_bytes(int levels) { return levels < 5 ? 16 * levels : 48 + (1 << levels); }

// Where a tree finds one of its inputs: a plane, the slot of the tile's first row in it, and which `Taken` holds for it.
struct Split {
  int32_t plane, slot, taken;
};

// Words: 16 bits, twice as many to a vector as `W`. widen<0> and widen<1>: the lower and the upper half of them.
constexpr int kWords = 2 * W;

#if defined(JETTISON_AVX512)
constexpr int kRows = 64;
constexpr int kStep = 4;
constexpr int kEntryOffset = 0;  // added to every entry

using Taken = __mmask64;

using i16v = __m512i;
JT_INLINE i16v load_words(const uint8_t* bytes) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)bytes)); }
JT_INLINE i16v add_words(i16v a, i16v b) { return _mm512_add_epi16(a, b); }
template <int kHalf>
JT_INLINE i32v widen(i16v v) {
  return _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(v, kHalf));
}
#elif defined(JETTISON_AVX2)
constexpr int kRows = 32;
constexpr int kStep = 1;
constexpr int kEntryOffset = 128;

using Taken = __m256i;  // a byte of ones or zeros for every row

using i16v = __m256i;
JT_INLINE i16v load_words(const uint8_t* bytes) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)bytes)); }
JT_INLINE i16v add_words(i16v a, i16v b) { return _mm256_add_epi16(a, b); }
template <int kHalf>
JT_INLINE i32v widen(i16v v) {
  return _mm256_cvtepi16_epi32(_mm256_extracti128_si256(v, kHalf));
}
#else
constexpr int kRows = 16;
constexpr int kStep = 1;
constexpr int kEntryOffset = 0;

struct Taken {
  bool row[kRows];
};

typedef int16_t i16v __attribute__((vector_size(16)));
JT_INLINE i16v load_words(const uint8_t* bytes) {
  typedef int8_t i8v __attribute__((vector_size(8)));
  i8v v;
  std::memcpy(&v, bytes, sizeof v);
  return __builtin_convertvector(v, i16v);
}
JT_INLINE i16v add_words(i16v a, i16v b) { return a + b; }
template <int kHalf>
JT_INLINE i32v widen(i16v v) {
  return i32v{v[4 * kHalf], v[4 * kHalf + 1], v[4 * kHalf + 2], v[4 * kHalf + 3]};
}
#endif

// The answers of one level: each row's byte against the threshold of the node that its code has come to.
template <class Code>
JT_INLINE void answer_rows(const uint8_t* x, const uint8_t* tree, int level, Code* codes) {
  const uint8_t* const of = tree + tree_bytes(level);
  for (int i = 0; i < kRows; ++i) codes[i] = (Code)(codes[i] | (x[i] > of[codes[i]]) << level);
}

#if !defined(JETTISON_AVX512)
// Sums of one output channel.
using Sums = int32_t[kRows];

JT_INLINE void store_sums(int32_t* to, const Sums& sums) { std::memcpy(to, sums, sizeof sums); }
#endif

// Planes of u8, `stride` bytes from one to the next. Rows that are not taken read `zero`.
struct PlaneBytes {
  const uint8_t* first;
  int64_t stride;
  const Taken* taken;
  uint8_t zero;
  const uint8_t* at(const Split& s) const { return first + s.plane * stride + s.slot; }
};

#if defined(JETTISON_AVX512)

// The rows with column + shift in 0 … pitch − 1.
JT_INLINE Taken taken(const int32_t* column, int32_t shift, int32_t pitch) {
  Taken rows = 0;
  for (int i = 0; i < kRows; i += W) {
    const __m512i x = add(load_i32(column + i), set1_i32(shift));
    rows |= (Taken)_mm512_cmplt_epu32_mask(x, set1_i32(pitch)) << i;
  }
  return rows;
}

JT_INLINE __m512i inputs(const PlaneBytes& planes, const Split& s) {
  return _mm512_mask_loadu_epi8(_mm512_set1_epi8((char)planes.zero), planes.taken[s.taken], planes.at(s));
}

JT_INLINE int64_t row_of(int64_t slot) { return slot % 16 / 4 * 16 + slot / 16 * 4 + slot % 4; }

JT_INLINE __m512i table_of(const uint8_t* p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p)); }

// Every row's threshold of one level, of 2^level.
JT_INLINE __m512i thresholds(const uint8_t* of, int level, __m512i code) {
  if (level < 5) return _mm512_shuffle_epi8(table_of(of), code);
  if (level < 6) return _mm512_permutexvar_epi8(code, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)of)));
  if (level < 7) return _mm512_permutexvar_epi8(code, _mm512_loadu_si512(of));
  return _mm512_permutex2var_epi8(_mm512_loadu_si512(of), code, _mm512_loadu_si512(of + 64));
}

template <int kLevels>
JT_INLINE __m512i leaves(const PlaneBytes& planes, const Split* splits, const uint8_t* tree) {
  __m512i code = _mm512_setzero_si512();
  for (int level = 0; level < kLevels; ++level) {
    const __m512i threshold = thresholds(tree + tree_bytes(level), level, code);
    const __mmask64 right = _mm512_cmpgt_epu8_mask(inputs(planes, splits[level]), threshold);
    code = _mm512_mask_add_epi8(code, right, code, _mm512_set1_epi8((char)(1 << level)));
  }
  return code;
}

template <int kLevels>
JT_INLINE void encode(const PlaneBytes& planes, const Split* splits, const uint8_t* trees, uint8_t* codes) {
  __m512i x[4];
  for (int j = 0; j < 4; ++j) {
    const __m512i leaf = leaves<kLevels>(planes, splits + j * kLevels, trees + j * tree_bytes(kLevels));
    x[j] = _mm512_or_si512(leaf, _mm512_set1_epi8((char)(j << kLevels)));
  }
  const __m512i ab = _mm512_unpacklo_epi8(x[0], x[1]), AB = _mm512_unpackhi_epi8(x[0], x[1]);
  const __m512i cd = _mm512_unpacklo_epi8(x[2], x[3]), CD = _mm512_unpackhi_epi8(x[2], x[3]);
  _mm512_storeu_si512(codes, _mm512_unpacklo_epi16(ab, cd));
  _mm512_storeu_si512(codes + 64, _mm512_unpackhi_epi16(ab, cd));
  _mm512_storeu_si512(codes + 128, _mm512_unpacklo_epi16(AB, CD));
  _mm512_storeu_si512(codes + 192, _mm512_unpackhi_epi16(AB, CD));
}

// The tables of four codebooks, and what codes find in them.
template <int kLevels>
struct Tables;

template <>
struct Tables<4> {
  __m512i all;
  explicit Tables(const uint8_t* p) : all(_mm512_loadu_si512(p)) {}
  __m512i at(__m512i code) const { return _mm512_permutexvar_epi8(code, all); }
};

template <>
struct Tables<5> {
  __m512i lower, upper;
  explicit Tables(const uint8_t* p) : lower(_mm512_loadu_si512(p)), upper(_mm512_loadu_si512(p + 64)) {}
  __m512i at(__m512i code) const { return _mm512_permutex2var_epi8(lower, code, upper); }
};

template <>
struct Tables<6> {
  Tables<5> lower, upper;
  explicit Tables(const uint8_t* p) : lower(p), upper(p + 128) {}
  __m512i at(__m512i code) const {  // the index is seven bits
    return _mm512_mask_blend_epi8(0xcccccccccccccccc, lower.at(code), upper.at(code));
  }
};

// Sums of one output channel, in the order of `row_of`.
using Sums = i32v[4];

JT_INLINE void store_sums(int32_t* to, const Sums& sums) {
  for (int g = 0; g < 4; ++g) _mm512_storeu_si512(to + g * 16, sums[g]);
}

template <int kLevels, class End>
JT_INLINE void look_up(const uint8_t* codes, const uint8_t* tables, int64_t steps, const int32_t* bias, const End& end) {
  const u8q ones = _mm512_set1_epi8(1);
  Sums acc[kOutputs];
  for (int o = 0; o < kOutputs; ++o)
    for (int g = 0; g < 4; ++g) acc[o][g] = _mm512_set1_epi32(bias[o]);
  for (int64_t i = 0; i < steps; ++i, codes += 256) {
    __m512i code[4];
    for (int g = 0; g < 4; ++g) code[g] = _mm512_loadu_si512(codes + 64 * g);
    for (int o = 0; o < kOutputs; ++o, tables += 4 << kLevels) {
      const Tables<kLevels> table(tables);
      for (int g = 0; g < 4; ++g) acc[o][g] = dot(acc[o][g], ones, table.at(code[g]));
    }
  }
  for (int o = 0; o < kOutputs; ++o) end(o, acc[o]);
}

// Rows of one output channel as bytes, in their order: requantize(float32(sum)·multiplier + float32(r − zero)·ratio), quantized.py.
// Packing inside each 16 bytes undoes the order of `row_of`.
template <bool Residual>
JT_INLINE u8v requantize_rows(const EpilogueI8& e, const Sums& sums, float multiplier, const uint8_t* residual) {
  i32v x[4];
  if (Residual) {
    const __m512i r = _mm512_loadu_si512(residual), none = _mm512_setzero_si512();
    const __m512i lower = _mm512_unpacklo_epi8(r, none), upper = _mm512_unpackhi_epi8(r, none);
    x[0] = _mm512_unpacklo_epi16(lower, none), x[1] = _mm512_unpackhi_epi16(lower, none);
    x[2] = _mm512_unpacklo_epi16(upper, none), x[3] = _mm512_unpackhi_epi16(upper, none);
  }
  for (int g = 0; g < 4; ++g) {
    f32v t = mul(to_float(sums[g]), set1(multiplier));
    if (Residual) t = add(t, mul(to_float(sub(x[g], e.residual_zero)), e.ratio));
    x[g] = round_below(t);
  }
  return pack_bytes(x, e.bytes);
}

#elif defined(JETTISON_AVX2)

JT_INLINE Taken taken(const int32_t* column, int32_t shift, int32_t pitch) {
  uint8_t rows[kRows];
  for (int i = 0; i < kRows; ++i) rows[i] = (uint32_t)(column[i] + shift) < (uint32_t)pitch ? 0xff : 0;
  return _mm256_loadu_si256((const __m256i*)rows);
}

JT_INLINE __m256i inputs(const PlaneBytes& planes, const Split& s) {
  const __m256i x = _mm256_loadu_si256((const __m256i*)planes.at(s));
  return _mm256_blendv_epi8(_mm256_set1_epi8((char)planes.zero), x, planes.taken[s.taken]);
}

JT_INLINE int64_t row_of(int64_t slot) { return slot % 16 * 2 + slot / 16; }

JT_INLINE __m256i table_of(const uint8_t* p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p)); }

// Codes, and which of the registers of a table each chooses: bits 4, 5, 6 as the highest bit of a byte.
template <int kLevels>
struct Codes {
  __m256i code, choice[3];
  explicit Codes(__m256i c) : code(c) {
    if (kLevels > 4) code = _mm256_and_si256(c, _mm256_set1_epi8(15));
    for (int i = 0; i < 3; ++i) choice[i] = _mm256_slli_epi16(c, 3 - i);
  }
  template <int kOf = kLevels>
  __m256i at(const uint8_t* table) const {
    if constexpr (kOf <= 4) return _mm256_shuffle_epi8(table_of(table), code);
    else return _mm256_blendv_epi8(at<kOf - 1>(table), at<kOf - 1>(table + (1 << (kOf - 1))), choice[kOf - 5]);
  }
};

template <int kLevels>
JT_INLINE void encode(const PlaneBytes& planes, const Split* splits, const uint8_t* tree, uint8_t* codes) {
  __m256i code = _mm256_setzero_si256();
  times<kLevels>([&](auto l) JT_FLAT {
    constexpr int level = decltype(l)::value;
    const __m256i threshold = Codes<(level < 4 ? 4 : level)>(code).at(tree + tree_bytes(level));
    const __m256i x = inputs(planes, splits[level]);
    const __m256i left = _mm256_cmpeq_epi8(_mm256_min_epu8(x, threshold), x);
    code = _mm256_add_epi8(code, _mm256_andnot_si256(left, _mm256_set1_epi8((char)(1 << level))));
  });
  _mm256_storeu_si256((__m256i*)codes, code);
}

JT_INLINE void widen(int32_t* sums, __m256i words) {
  const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)),
                high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1));
  __m256i* p = (__m256i*)sums;
  _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), low));
  _mm256_storeu_si256(p + 1, _mm256_add_epi32(_mm256_loadu_si256(p + 1), high));
}

template <int kLevels, class End>
JT_INLINE void look_up(const uint8_t* codes, const uint8_t* tables, int64_t steps, const int32_t* bias, const End& end) {
  Sums sums[kOutputs];
  for (int o = 0; o < kOutputs; ++o)
    for (int i = 0; i < kRows; ++i) sums[o][i] = bias[o];
  while (steps > 0) {
    __m256i all[kOutputs], odd[kOutputs];
    for (int o = 0; o < kOutputs; ++o) all[o] = odd[o] = _mm256_setzero_si256();
    const int64_t some = steps < 256 ? steps : 256;
    for (int64_t i = 0; i < some; ++i, codes += kRows) {
      const Codes<kLevels> code(_mm256_loadu_si256((const __m256i*)codes));
      for (int o = 0; o < kOutputs; ++o, tables += 1 << kLevels) {
        const __m256i v = code.at(tables);
        all[o] = _mm256_add_epi16(all[o], v);
        odd[o] = _mm256_add_epi16(odd[o], _mm256_srli_epi16(v, 8));
      }
    }
    for (int o = 0; o < kOutputs; ++o) {
      widen(sums[o], _mm256_sub_epi16(all[o], _mm256_slli_epi16(odd[o], 8)));
      widen(sums[o] + 16, odd[o]);
    }
    steps -= some;
  }
  for (int o = 0; o < kOutputs; ++o) end(o, sums[o]);
}

#else

JT_INLINE Taken taken(const int32_t* column, int32_t shift, int32_t pitch) {
  Taken t;
  for (int i = 0; i < kRows; ++i) t.row[i] = (uint32_t)(column[i] + shift) < (uint32_t)pitch;
  return t;
}

JT_INLINE int64_t row_of(int64_t slot) { return slot; }

// A byte for every row.
struct RowBytes {
  uint8_t row[kRows];
};

JT_INLINE RowBytes inputs(const PlaneBytes& planes, const Split& s) {
  RowBytes x;
  for (int i = 0; i < kRows; ++i) x.row[i] = planes.taken[s.taken].row[i] ? planes.at(s)[i] : planes.zero;
  return x;
}

template <int kLevels>
JT_INLINE void encode(const PlaneBytes& planes, const Split* splits, const uint8_t* tree, uint8_t* codes) {
  for (int i = 0; i < kRows; ++i) codes[i] = 0;
  for (int level = 0; level < kLevels; ++level) answer_rows(inputs(planes, splits[level]).row, tree, level, codes);
}

template <int kLevels, class End>
JT_INLINE void look_up(const uint8_t* codes, const uint8_t* tables, int64_t steps, const int32_t* bias, const End& end) {
  Sums sums[kOutputs];
  for (int o = 0; o < kOutputs; ++o)
    for (int i = 0; i < kRows; ++i) sums[o][i] = bias[o];
  for (int64_t step = 0; step < steps; ++step, codes += kRows)
    for (int o = 0; o < kOutputs; ++o, tables += 1 << kLevels)
      for (int i = 0; i < kRows; ++i) sums[o][i] += ((const int8_t*)tables)[codes[i]];
  for (int o = 0; o < kOutputs; ++o) end(o, sums[o]);
}

#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
