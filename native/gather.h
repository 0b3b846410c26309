// Gather by permute in float32: what nm and block share; gather_i8.h is its like for int8.
//
// A window is W or kLane consecutive inputs of a pixel at one stop (conv.h). Every output channel names the one it wants, W of them at once:
//
//   acc[pixel][W outputs] += permute(index, window[pixel]) · value
//
// Windows of kLane are for groups that do not cross them: AVX2 permutes inside a lane for less. Others would fill more of them unevenly.
// Index and value, an entry, are loaded once for all PB pixels of a tile.
#pragma once
#include "conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// Index: int32_t as the permute wants it, or uint8_t, which fetches less but is widened on the port that the permutes wait for.
// Measured with 8 entries a window, a fifth slower where entries come from the first-level cache; with one a window, faster.
template <class Index>
constexpr int64_t kEntry = W * sizeof(Index) + W * 4;  // bytes: indices, values

// Output channel `lane` of an entry takes input `index` of the window.
template <class Index>
JT_INLINE void put_kept(uint8_t* entry, int64_t lane, int64_t index, float value) {
  ((Index*)entry)[lane] = (Index)index;
  std::memcpy(entry + W * sizeof(Index) + lane * 4, &value, 4);
}

JT_INLINE int64_t window_for(int64_t m) { return kLane % m == 0 ? kLane : W; }

// Modelled cycles of a permute and a multiply-add.
JT_INLINE double gather_cycles(int64_t window) { return kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::scalar ? 8.0 : window == W ? 1.5 : 1.0; }

// The window `at` inputs from where the table says, with its `q` entries, at least one; returns where the next entry is.
// Reads up to W − 1 floats past the last input of a pixel; no index of a weight points there.
template <class Index, int Window, int Vectors, int PB, int OB>
JT_INLINE const uint8_t* gather_window(f32v (&acc)[PB][OB], const float* const* table, int64_t at, const uint8_t* e, int64_t q) {
  f32v x[PB];
  times<PB>([&](auto p) JT_FLAT {
    if constexpr (Window == W) x[p] = load(table[p] + at);
    else x[p] = load_lane(table[p] + at);
  });
  do {
    times<OB>([&](auto o) JT_FLAT {
      const uint8_t* entry = e + o * kEntry<Index>;
      const f32v value = load((const float*)(entry + W * sizeof(Index)));
      times<PB>([&](auto p) JT_FLAT {
        if constexpr (Window == W) acc[p][o] = accumulate(acc[p][o], permute((const Index*)entry, x[p]), value);
        else acc[p][o] = accumulate(acc[p][o], permute_lane((const Index*)entry, x[p]), value);
      });
    });
    e += Vectors * kEntry<Index>;
  } while (--q);
  return e;
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
