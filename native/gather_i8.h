// Gather by byte permute: what nm_i8 and grouped_i8 share.
//
// A window is kWindow consecutive u8 channels of a pixel at one stop (64 on AVX-512, 16 elsewhere). Every output
// channel names the ones it wants; four of them at a time go through
//
//   acc[pixel][W outputs] += dot(gather(index, window[pixel]), weights)
//
// Index and weights, an entry, are loaded once for all PB pixels of a tile.
//
//   of a block: counts (stops·windows, one byte each: entries of W outputs) | per window, count, vector: indices, i8q
#pragma once
#include "conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kEntry = kIndexBytes + kQuadBytes;

// Output channel `lane` of an entry takes input `index` of the window as its j-th of four.
JT_INLINE void put_kept(uint8_t* entry, int64_t lane, int64_t j, int64_t index, int8_t weight) {
  put_index(entry, (int)lane, (int)j, (uint8_t)index);
  put_weight(entry + kIndexBytes, (int)lane, (int)j, weight);
}

// The window `at` inputs from where the table says, with its `q` entries, at least one; returns where the next entry is.
// Reads past the last input of a pixel; no index of a weight points there.
template <int Vectors, int PB, int OB>
JT_INLINE const uint8_t* gather_window(i32v (&acc)[PB][OB], const uint8_t* const* table, int64_t at, const uint8_t* e, int64_t q) {
  window_t x[PB];
  times<PB>([&](auto p) JT_FLAT { x[p] = load_window(table[p] + at); });
  do {
    times<OB>([&](auto o) JT_FLAT {
      const uint8_t* entry = e + o * kEntry;
      const i8q weight = load_quad(entry + kIndexBytes);
      times<PB>([&](auto p) JT_FLAT { acc[p][o] = dot(acc[p][o], gather(entry, x[p]), weight); });
    });
    e += Vectors * kEntry;
  } while (--q);
  return e;
}

// PB pixels × OB vectors of the block's `Vectors`; `windows` at each stop, from input `channel` on.
// The loops need no test before their first round: it would cost a copy of all sums.
template <int Vectors, int Most, int PB, int OB>
JT_INLINE void gather_tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t windows, int64_t channel,
                           int64_t pixel, const uint8_t* const* table) {
  i32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t *e = b.weights, *counts = b.counts;
  do {
    const int64_t past = channel + windows * kWindow;
    int64_t i = channel;
    do e = gather_window<Vectors, PB, OB>(acc, table, i, e, *counts++);
    while ((i += kWindow) != past);
    table += Most;
  } while (--stops);
  finish_i8<PB, OB>(a, end, b, acc, pixel);
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
