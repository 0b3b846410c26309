// Gather by permute in float32: what nm and block share; gather_i8.h is its like for int8.
//
// A window is W consecutive channels of a pixel at one tap. Every output channel names the one it wants, W of them at once:
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

// `windows` windows that follow one another, counts[i] entries of each of `Vectors` vectors. Reads up to W − 1 floats past the
// last channel; no index of a weight points there.
template <int Vectors, int PB, int OB>
JT_INLINE const uint8_t* gather_tap(f32v (&acc)[PB][OB], const float* const (&in)[PB], const uint8_t* e, const uint8_t* counts,
                                    int64_t windows) {
  for (int64_t i = 0; i < windows; ++i) {
    f32v x[PB];
    for (int p = 0; p < PB; ++p) x[p] = load(in[p] + i * W);
    for (int64_t q = counts[i]; q > 0; --q) {
      for (int o = 0; o < OB; ++o) {
        const uint8_t* entry = e + o * kEntry;
        const f32v value = load((const float*)(entry + W));
        for (int p = 0; p < PB; ++p) acc[p][o] = fma(permute(entry, x[p]), value, acc[p][o]);
      }
      e += Vectors * kEntry;
    }
  }
  return e;
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
