// Gather by byte permute: what nm_i8 and grouped_i8 share.
//
// A window is kWindow consecutive u8 channels of a pixel at one tap (64 on AVX-512, 16 elsewhere). Every output
// channel names the ones it wants; four of them at a time go through
//
//   acc[pixel][W outputs] += dot(gather(index, window[pixel]), weights)
//
// Index and weights, an entry, are loaded once for all PB pixels of a tile.
//
//   of a block: counts (r·s·windows, one byte each: entries of W outputs) | per window, count, vector: 4·W indices, i8q
#pragma once
#include "conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kEntry = 4 * W + kQuadBytes;

// Output channel `lane` of an entry takes input `index` of the window as its j-th of four.
JT_INLINE void put_kept(uint8_t* entry, int64_t lane, int64_t j, int64_t index, int8_t weight) {
  entry[lane * 4 + j] = (uint8_t)index;
  put_weight(entry + 4 * W, (int)lane, (int)j, weight);
}

// All windows of one tap. Reads past the last channel of the last window; no index of a weight points there.
template <int Vectors, int PB, int OB>
JT_INLINE const uint8_t* gather_tap(i32v (&acc)[PB][OB], const uint8_t* const (&in)[PB], const uint8_t* e, const uint8_t* counts,
                                    int64_t windows) {
  for (int64_t i = 0; i < windows; ++i) {
    window_t x[PB];
    for (int p = 0; p < PB; ++p) x[p] = load_window(in[p] + i * kWindow);
    for (int64_t q = counts[i]; q > 0; --q) {
      for (int o = 0; o < OB; ++o) {
        const uint8_t* entry = e + o * kEntry;
        const i8q weight = load_quad(entry + 4 * W);
        for (int p = 0; p < PB; ++p) acc[p][o] = dot(acc[p][o], gather(entry, x[p]), weight);
      }
      e += Vectors * kEntry;
    }
  }
  return e;
}

// PB pixels × OB vectors of the block's `Vectors`; `per_tap` windows from b.image's first channel on.
template <int Vectors, int PB, int OB>
void gather_tile(const Problem& a, const BlockI8& b, int64_t per_tap, int64_t pixel) {
  Tile<uint8_t, PB> t;
  locate(a, b.image, pixel, &t);
  i32v acc[PB][OB];
  for (int o = 0; o < OB; ++o) {
    const i32v bias = load_i32(b.bias + o * W);
    for (int p = 0; p < PB; ++p) acc[p][o] = bias;
  }
  const uint8_t *e = b.weights, *counts = b.counts;
  const uint8_t* in[PB];
  for (int64_t r = 0; r < a.r; ++r)
    for (int64_t s = 0; s < a.s; ++s) {
      tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.padding, in);
      e = gather_tap<Vectors, PB, OB>(acc, in, e, counts, per_tap);
      counts += per_tap;
    }
  finish_i8<PB, OB>(a, b, acc, pixel);
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
