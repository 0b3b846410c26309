// Gather by permute in float32: what nm and block share; gather_i8.h is its like for int8.
//
// A window is W consecutive inputs of a pixel at one stop (conv.h). Every output channel names the one it wants, W of them at once:
//
//   acc[pixel][W outputs] += permute(index, window[pixel]) · value
//
// Index and value, an entry, are loaded once for all PB pixels of a tile.
#pragma once
#include "conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kEntry = W + W * 4;  // bytes: indices, values

// Output channel `lane` of an entry takes input `index` of the window.
JT_INLINE void put_kept(uint8_t* entry, int64_t lane, int64_t index, float value) {
  entry[lane] = (uint8_t)index;
  std::memcpy(entry + W + lane * 4, &value, 4);
}

// The window `at` inputs from where the table says, with its `q` entries, at least one; returns where the next entry is.
// Reads up to W − 1 floats past the last input of a pixel; no index of a weight points there.
template <int Vectors, int PB, int OB>
JT_INLINE const uint8_t* gather_window(f32v (&acc)[PB][OB], const float* const* table, int64_t at, const uint8_t* e, int64_t q) {
  f32v x[PB];
  times<PB>([&](auto p) JT_FLAT { x[p] = load(table[p] + at); });
  do {
    times<OB>([&](auto o) JT_FLAT {
      const uint8_t* entry = e + o * kEntry;
      const f32v value = load((const float*)(entry + W));
      times<PB>([&](auto p) JT_FLAT { acc[p][o] = fma(permute(entry, x[p]), value, acc[p][o]); });
    });
    e += Vectors * kEntry;
  } while (--q);
  return e;
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
