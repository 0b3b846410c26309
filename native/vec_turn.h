// Rows and columns turned for look-up: vectors of sums as squares, and bytes of kRows pixels by 16 channels.
#pragma once
#include "vec_lut.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

#if defined(JETTISON_AVX512)

// x[i] lane j becomes x[j] lane i.
JT_INLINE void transpose(i32v (&x)[16]) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]), y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; ++j) {
      y[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0x88);
      y[i + j + 4] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; ++j) {
    x[j] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88);
    x[j + 8] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd);
  }
}

#elif defined(JETTISON_AVX2)

JT_INLINE void transpose(i32v (&x)[8]) {
  __m256i y[8];
  for (int i = 0; i < 8; i += 2) y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]), y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm256_unpacklo_epi64(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = _mm256_unpackhi_epi64(y[i + j], y[i + j + 2]);
    }
  for (int j = 0; j < 4; ++j) y[j] = x[j], y[j + 4] = x[j + 4];
  for (int j = 0; j < 4; ++j) {
    x[j] = _mm256_permute2x128_si256(y[j], y[j + 4], 0x20);
    x[j + 4] = _mm256_permute2x128_si256(y[j], y[j + 4], 0x31);
  }
}

#else

JT_INLINE void transpose(i32v (&x)[4]) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < i; ++j) {
      const int32_t t = x[i][j];
      x[i][j] = x[j][i], x[j][i] = t;
    }
}

#endif

// Pointers to rows that lie evenly: as an array of them, without loading any.
struct EvenRows {
  const uint8_t* first;
  int64_t stride;
  const uint8_t* operator[](int64_t row) const { return first + row * stride; }
};

JT_INLINE const uint8_t* const* from_row(const uint8_t* const* rows, int64_t row) { return rows + row; }
JT_INLINE EvenRows from_row(const EvenRows& rows, int64_t row) { return {rows[row], rows.stride}; }

// Bytes of kRows rows and 16 channels turned: `rows` point to 16 channels each, `columns` hold kRows bytes of one channel each.
// Four rounds of interleaving the first half with the second, inside each 16 bytes, are the transpose of 16 × 16.
#if defined(JETTISON_AVX512)

JT_INLINE void interleave(const __m512i (&x)[16], __m512i (&y)[16]) {
  for (int i = 0; i < 8; ++i) y[2 * i] = _mm512_unpacklo_epi8(x[i], x[i + 8]), y[2 * i + 1] = _mm512_unpackhi_epi8(x[i], x[i + 8]);
}

JT_INLINE void turn(__m512i (&x)[16]) {
  __m512i y[16];
  interleave(x, y), interleave(y, x), interleave(x, y), interleave(y, x);
}

template <class Rows>
JT_INLINE void rows_to_columns(const Rows& rows, int64_t channel, uint8_t* columns, int64_t stride) {
  __m512i x[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const auto row = [&](int lane) { return _mm_loadu_si128((const __m128i*)(rows[16 * lane + i] + channel)); };
    x[i] = _mm512_castsi128_si512(row(0));
    x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x00f0, row(1));
    x[i] = _mm512_mask_broadcast_i32x4(x[i], 0x0f00, row(2));
    x[i] = _mm512_mask_broadcast_i32x4(x[i], 0xf000, row(3));
  }
  turn(x);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(columns + i * stride, x[i]);
}

// store(row, its 16 channels) for every row.
template <class Store>
JT_INLINE void columns_to_rows(const uint8_t* columns, const Store& store) {
  __m512i x[16];
  for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(columns + i * kRows);
  turn(x);
  for (int i = 0; i < 16; ++i) {
    store(i, _mm512_castsi512_si128(x[i]));
    store(16 + i, _mm512_extracti32x4_epi32(x[i], 1));
    store(32 + i, _mm512_extracti32x4_epi32(x[i], 2));
    store(48 + i, _mm512_extracti32x4_epi32(x[i], 3));
  }
}

#elif defined(JETTISON_AVX2)

JT_INLINE void interleave(const __m256i (&x)[16], __m256i (&y)[16]) {
  for (int i = 0; i < 8; ++i) y[2 * i] = _mm256_unpacklo_epi8(x[i], x[i + 8]), y[2 * i + 1] = _mm256_unpackhi_epi8(x[i], x[i + 8]);
}

template <class Rows>
JT_INLINE void rows_to_columns(const Rows& rows, int64_t channel, uint8_t* columns, int64_t stride) {
  __m256i x[16], y[16];
  for (int i = 0; i < 16; ++i) {
    const auto row = [&](int lane) { return _mm_loadu_si128((const __m128i*)(rows[16 * lane + i] + channel)); };
    x[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(row(0)), row(1), 1);
  }
  interleave(x, y), interleave(y, x), interleave(x, y), interleave(y, x);
  for (int i = 0; i < 16; ++i) _mm256_storeu_si256((__m256i*)(columns + i * stride), x[i]);
}

#else

template <class Rows>
JT_INLINE void rows_to_columns(const Rows& rows, int64_t channel, uint8_t* columns, int64_t stride) {
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 16; ++j) columns[j * stride + i] = rows[i][channel + j];
}

#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
