// Channels picked out of rows of many, for look-up where a kernel has one tap: trees ask for some of them only, and turning a row's
// other bytes would be for nothing. AVX-512 does it with byte permutes; elsewhere nothing is picked.
#pragma once
#include <vector>

#include "jobs.h"
#include "vec_lut.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

#if defined(JETTISON_AVX512)

// 64 channels that are asked for, out of at most four vectors of a row of many.
constexpr int kMostVectors = 4;
struct Picks {
  uint8_t places[64];  // in the first two vectors, or in the last two
  uint64_t later;      // which are in the last two
  int64_t first, vectors;
};

template <int kVectors, class Rows>
JT_INLINE void pick_from(const Picks& p, const Rows& rows, uint8_t* out, int64_t stride) {
  const __m512i places = _mm512_loadu_si512(p.places);
  const __mmask64 later = p.later;
  for (int row = 0; row < kRows; ++row) {
    const auto vector = [&](int i) { return _mm512_loadu_si512(rows[row] + 64 * (p.first + i)); };
    __m512i x = kVectors == 1 ? _mm512_permutexvar_epi8(places, vector(0)) : _mm512_permutex2var_epi8(vector(0), places, vector(1));
    if (kVectors == 3) x = _mm512_mask_permutexvar_epi8(x, later, places, vector(2));
    if (kVectors == 4) x = _mm512_mask_blend_epi8(later, x, _mm512_permutex2var_epi8(vector(2), places, vector(3)));
    _mm512_storeu_si512(out + row * stride, x);
  }
}

// Of every row.
template <class Rows>
JT_INLINE void pick(const Picks& p, const Rows& rows, uint8_t* out, int64_t stride) {
  if (p.vectors == 1) pick_from<1>(p, rows, out, stride);
  else if (p.vectors == 2) pick_from<2>(p, rows, out, stride);
  else if (p.vectors == 3) pick_from<3>(p, rows, out, stride);
  else pick_from<4>(p, rows, out, stride);
}

constexpr double kPickedShare = 0.7;  // of the channels: with more, picking takes longer than it saves

JT_INLINE int64_t picks_bytes(int64_t channels) { return channels % 64 ? 0 : channels / 64 * (int64_t)sizeof(Picks); }

// How many channels are picked, their order in `order`; 0: all are taken.
JT_INLINE int64_t pack_picks(int64_t channels, const int32_t* splits, int64_t count, Picks* picks, std::vector<int32_t>* order) {
  if (!picks_bytes(channels)) return 0;
  order->assign(channels, -1);
  for (int64_t i = 0; i < count; ++i) (*order)[splits[i]] = 0;
  int32_t picked = 0;
  for (int64_t channel = 0; channel < channels; ++channel) {
    int32_t& to = (*order)[channel];
    if (to < 0) continue;
    to = picked++;
    Picks& p = picks[to / 64];
    if (to % 64 == 0) p.first = channel / 64;
    p.vectors = channel / 64 + 1 - p.first;
    if (p.vectors > kMostVectors) return 0;
    p.places[to % 64] = (uint8_t)((channel - 64 * p.first) % 128);
    p.later |= (uint64_t)(p.vectors > 2) << to % 64;
  }
  return picked > channels * kPickedShare ? 0 : picked;
}

// The picked channels of kRows pixels; `to`: a row of whole vectors for each.
template <class Rows>
JT_INLINE void pick_rows(const Picks* picks, int64_t picked, const Rows& pixels, uint8_t* to) {
  const int64_t vectors = ceil_div(picked, 64);
  for (int64_t i = 0; i < vectors; ++i) pick(picks[i], pixels, to + 64 * i, 64 * vectors);
}

#else

struct Picks {};
JT_INLINE int64_t picks_bytes(int64_t) { return 0; }
JT_INLINE int64_t pack_picks(int64_t, const int32_t*, int64_t, Picks*, std::vector<int32_t>*) { return 0; }
template <class Rows>
JT_INLINE void pick_rows(const Picks*, int64_t, const Rows&, uint8_t*) {}
#endif

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
