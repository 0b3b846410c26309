// Looking up int8 tables by rows, what lut_rows and pixel_lut share: a code finds the entries of neighbouring output channels side by
// side, one load for kWords look-ups, however many entries a table has. Bytes are added up in 16 bits, which hold 256.
//
//   tables: [block of kWide channels][codebook][K][channels of the block, filled up to kWords], in the order of `place`
#pragma once
#include "conv_i8.h"
#include "vec_lut.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kWide = 4 * W;
constexpr int kTogether = 4;     // pixels: their sums stay in registers
constexpr int64_t kExact = 256;  // codebooks whose bytes 16 bits can add up

// Channels of a block, filled up.
JT_INLINE int64_t row_bytes(const Problem& a, int64_t block) { return ceil_div(vectors_of(a, block, kWide), 2) * kWords; }

// entries: C·K
JT_INLINE int64_t block_bytes(int64_t entries) { return entries * kWide; }  // but for the last

JT_INLINE int64_t table_rows_bytes(const Problem& a, int64_t entries) {
  const int64_t last = ceil_div(a.k, kWide) - 1;
  return last * block_bytes(entries) + entries * row_bytes(a, last);
}

// to holds zeros.
JT_INLINE void pack_table_rows(const Problem& a, const Constants& c, int64_t entries, uint8_t* to) {
  const uint8_t* tables = (const uint8_t*)c.find("tables");
  for (int64_t o = 0; o < a.k; ++o) {
    const Place at = place(a, o, kWide);
    const int64_t bytes = row_bytes(a, at.block);
    uint8_t* column = to + at.block * block_bytes(entries) + at.vector * W + at.lane;
    for (int64_t i = 0; i < entries; ++i) column[i * bytes] = tables[o * entries + i];
  }
}

// The sums of kTogether pixels and OB vectors of channels. code(i, p): of codebook i and pixel p.
template <int OB, class Code>
JT_INLINE void look_up_pixels(const uint8_t* tables, int64_t codebooks, int64_t levels, const int32_t* bias, i32v (&acc)[kTogether][OB],
                              const Code& code) {
  constexpr int kUnits = (OB + 1) / 2;
  const int64_t table_bytes = (int64_t)kUnits * kWords << levels;
  start(bias, acc);
  for (int64_t first = 0; first < codebooks; first += kExact) {
    i16v sums[kTogether][kUnits] = {};
    const int64_t end = min64(codebooks, first + kExact);
    const uint8_t* table = tables + first * table_bytes;
    for (int64_t i = first; i < end; ++i, table += table_bytes)
      times<kTogether>([&](auto p) JT_FLAT {
        const uint8_t* row = table + code(i, p) * (kUnits * kWords);
        times<kUnits>([&](auto u) JT_FLAT { sums[p][u] = add_words(sums[p][u], load_words(row + u * kWords)); });
      });
    times<kTogether>([&](auto p) JT_FLAT { times<OB>([&](auto o) JT_FLAT { acc[p][o] = add(acc[p][o], widen<o % 2>(sums[p][o / 2])); }); });
  }
}

// Output of kTogether sums; pixel[p] < 0: none.
template <int OB>
JT_INLINE void finish_pixels(const Problem& a, const EpilogueI8& end, const BlockI8& b, i32v (&acc)[kTogether][OB], const int32_t* pixel) {
  if (pixel[0] >= 0 && pixel[kTogether - 1] == pixel[0] + kTogether - 1) {
    finish_i8(a, end, b, acc, pixel[0]);
    return;
  }
  for (int p = 0; p < kTogether; ++p) {
    if (pixel[p] < 0) continue;
    i32v one[1][OB];
    for (int o = 0; o < OB; ++o) one[0][o] = acc[p][o];
    finish_i8(a, end, b, one, pixel[p]);
  }
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
