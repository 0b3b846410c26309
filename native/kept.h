// Walking over the kept weights of an N:M layer, window by window: what the packing of nm and nm_i8 share.
//
// `values` (k, r, s, c/m·n) and `positions` (their places inside the groups of m) come from formats/nm.py. Groups lie one
// after the other through all channels of a tap and all taps of a kernel row, so a stop (conv.h) is a row of groups.
#pragma once
#include "conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// The most one output channel can keep in a window of `width` of `channels` inputs: every group that touches it, full.
JT_INLINE int64_t most_per_window(int64_t channels, int64_t width, int64_t n, int64_t m) {
  const int64_t groups = width % m == 0 ? width / m : m % width == 0 ? 1 : (width + m - 2) / m + 1;
  return min64(min64(groups * n, width), channels);
}

// Calls use(input inside the window, value), in order of input, for every kept weight of output channel o
// in one window of one stop that is not zero.
template <class T, class Use>
JT_INLINE void each_kept(const Walk& w, const Constants& c, int64_t o, int64_t stop, int64_t window, int64_t width, Use use) {
  const int64_t per_stop = w.length / c.m * c.n, row = (o * w.stops + stop) * per_stop;
  const T* values = (const T*)c.find("values") + row;
  const uint8_t* positions = (const uint8_t*)c.find("positions") + row;
  const int64_t from = window * width, to = min64(from + width, w.length);
  for (int64_t i = from / c.m * c.n; i < per_stop && i / c.n * c.m < to; ++i) {
    const int64_t input = i / c.n * c.m + positions[i];
    if (input >= from && input < to && values[i] != 0) use(input - from, values[i]);
  }
}

// The kept weights of one output channel in one window, in the order in which entries take them.
template <class T>
struct KeptList {
  int64_t count = 0;
  uint8_t index[128];  // inside the window
  T value[128];

  void add(int64_t i, T v) { index[count] = (uint8_t)i, value[count++] = v; }
};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
