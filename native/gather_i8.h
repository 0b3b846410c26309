// Gather by byte permute: what nm_i8 and grouped_i8 share.
//
// A window is kWindow consecutive u8 channels of a pixel at one stop (64 on AVX-512, 16 elsewhere). Every output
// channel names the ones it wants; four of them at a time go through
//
//   acc[pixel][W outputs] += dot_pairs(gather(index, window[pixel]), weights)
//
// Index and weights, an entry, are loaded once for all PB pixels of a tile. Neighbours of the four must fit (pair_fits):
// any two of the window's weights may be neighbours, so on AVX2 a large one gets a small one, or one of the other sign.
//
// What does not fit takes an entry more. (Entries of two 16-bit weights instead, always exact, were no faster.)
//
//   of a block: counts (stops·windows, one byte each: entries of W outputs) | per window, count, vector: indices, weights
//   AVX2:       a list of steps, one for an entry (steps_i8.h)
#pragma once
#include "kept.h"
#include "steps_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kEntry = 2 * kPairsBytes;
constexpr int64_t kAhead = 2048;  // bytes: entries are fetched so early. The first tile meets them in the last cache or beyond
constexpr int64_t kEntryHolds = kSaturates ? 2 : 4;  // at least as many weights of one output channel, whatever they are

// Neighbours that fit. The largest weight goes with the smallest, which in most windows has the other sign; if even that
// does not fit, the larger one goes with a zero.
JT_INLINE void pair_up(KeptList<int8_t>& kept) {
  if (!kSaturates) return;
  for (int64_t i = 1; i < kept.count; ++i)  // sort by weight
    for (int64_t j = i; j > 0 && kept.value[j] < kept.value[j - 1]; --j) {
      const uint8_t index = kept.index[j];
      const int8_t value = kept.value[j];
      kept.index[j] = kept.index[j - 1], kept.value[j] = kept.value[j - 1];
      kept.index[j - 1] = index, kept.value[j - 1] = value;
    }
  const KeptList<int8_t> from = kept;
  int64_t low = 0, high = from.count - 1;
  kept.count = 0;
  while (low <= high) {
    const bool pair = low < high && pair_fits(from.value[low], from.value[high]);
    const bool take_low = pair || -from.value[low] > from.value[high], take_high = pair || !take_low;
    if (take_low) kept.add(from.index[low], from.value[low]), ++low;
    if (take_high) kept.add(from.index[high], from.value[high]), --high;
    if (!pair) kept.add(0, 0);
  }
}

// Writes what `outputs` outputs of a block keep in one window: entries for `vectors` vectors. place(o): where output o goes.
// Returns how many: the fullest output decides, at least one.
template <class PlaceOf>
int64_t put_window(KeptList<int8_t>* kept, int64_t outputs, int64_t vectors, uint8_t* entries, const PlaceOf& place) {
  int64_t most = 1;
  for (int64_t o = 0; o < outputs; ++o) {
    const Place at = place(o);
    pair_up(kept[o]);
    for (int64_t i = 0; i < kept[o].count; ++i) {
      uint8_t* entry = entries + (i / 4 * vectors + at.vector) * kEntry;
      entry[at.lane * 4 + i % 4] = kept[o].index[i];
      put_pairs(entry + kPairsBytes, (int)at.lane, (int)(i % 4), kept[o].value[i]);
    }
    most = max64(most, ceil_div(kept[o].count, 4));
  }
  return most;
}

// The window `at` inputs from where the table says, with its `q` entries, at least one; returns where the next entry is. Fetches
// what lies `ahead` bytes behind an entry into the cache of level Level.
// Reads past the last input of a pixel; no index of a weight points there.
template <int Vectors, int Level, int PB, int OB>
JT_INLINE const uint8_t* gather_window(i32v (&acc)[PB][OB], const uint8_t* const* table, int64_t at, const uint8_t* e, int64_t q,
                                       int64_t ahead) {
  constexpr bool kHeld = kRegisters == 32;  // else the windows of a tile would not stay in registers
  window_t x[PB];
  if constexpr (kHeld) times<PB>([&](auto p) JT_FLAT { x[p] = load_window(table[p] + at); });
  do {
    if constexpr (!kHeld) __asm__("" : "+r"(at));  // loads them for every entry
    times<OB>([&](auto o) JT_FLAT {
      const uint8_t* entry = e + o * kEntry;
      const i8p weight = load_pairs(entry + kPairsBytes);
      times<PB>([&](auto p) JT_FLAT {
        if constexpr (!kHeld) x[p] = load_window(table[p] + at);
        acc[p][o] = dot_pairs(acc[p][o], gather(entry, x[p]), weight);
      });
    });
    if constexpr (kHeld) times<Vectors * kEntry / 64>([&](auto line) JT_FLAT { __builtin_prefetch(e + ahead + line * 64, 0, 4 - Level); });
    e += Vectors * kEntry;
  } while (--q);
  return e;
}

// PB pixels × OB vectors of the block's `Vectors`.
// The loops need no test before their first round: it would cost a copy of all sums.
template <int Vectors, int Most, int PB, int OB>
JT_INLINE void gather_tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t pixel,
                           const uint8_t* const* table) {
  static_assert(!kSaturates || Vectors == 1, "an entry of a list is one vector");
  if constexpr (kSaturates) return listed_tile<true, Most, PB>(a, end, b, stops, pixel, table);
  i32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t *e = b.weights, *counts = b.counts;
  const int64_t channel = b.channel, past = channel + b.windows * kWindow;
  do {
    int64_t i = channel;
    do e = gather_window<Vectors, 1>(acc, table, i, e, *counts++, kAhead);
    while ((i += kWindow) != past);
    table += Most;
  } while (--stops);
  finish_i8<PB, OB>(a, end, b, acc, pixel);
}

// Bytes of what says how entries go through stops and windows: counts, or on AVX2 a list. entries: of all stops, at most.
JT_INLINE int64_t guide_bytes(int64_t stops, int64_t windows, int64_t entries) {
  return kSaturates ? list_bytes(stops, entries) : align64(stops * windows);
}

// Writes guide and entries of one block. put(stop, window, to): writes the entries of a window, returns how many.
// most: entries of a stop. channel: input where the first window begins.
template <class Put>
void put_windows(int64_t stops, int64_t windows, int64_t channel, int64_t vectors, int64_t most, uint8_t* guide, uint8_t* entries,
                 const Put& put) {
  if (kSaturates) {
    StepList<true> to(stops, most, guide, entries);
    for (int64_t stop = 0; stop < stops; ++stop, to.end_stop())
      for (int64_t i = 0; i < windows; ++i) to.add(channel + i * kWindow, put(stop, i, to.entry()));
    return;
  }
  for (int64_t step = 0; step < stops * windows; ++step) {
    guide[step] = (uint8_t)put(step / windows, step % windows, entries);
    entries += guide[step] * vectors * kEntry;
  }
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
