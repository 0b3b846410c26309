// Loops over consecutive floats, and what the kernels that only move data share.
#pragma once
#include "jobs.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

JT_INLINE bool accept_all(const Problem&, const Constants&) { return true; }

JT_INLINE bool is_clamp(Act act) { return act == Act::none || act == Act::relu || act == Act::relu6; }

// out[i] = act(f(i)) for i < n. f(i, left) gives the vector at i, of which `left` lanes count.
// none, relu and relu6 are one clamp, two instructions without a branch.
template <class F>
JT_INLINE void each(int64_t n, Act act, float alpha, float* out, F f) {
  int64_t i = 0;
  if (is_clamp(act)) {
    const f32v low = set1(act == Act::none ? -INFINITY : 0.0f), high = set1(act == Act::relu6 ? 6.0f : INFINITY);
    for (; i + W <= n; i += W) store(out + i, min(high, max(low, f(i, W))));
    if (i < n) store_first(out + i, min(high, max(low, f(i, n - i))), n - i);
  } else {
    for (; i + W <= n; i += W) store(out + i, activate(act, alpha, f(i, W)));
    if (i < n) store_first(out + i, activate(act, alpha, f(i, n - i)), n - i);
  }
}

// Cycles of `act` per vector beyond memory: e^x and a division.
JT_INLINE double act_cycles(Act act) { return is_clamp(act) || act == Act::leaky_relu ? 1 : 24; }

// Without a call: rows of channels are often shorter than a call of memcpy is worth.
JT_INLINE void copy(float* out, const float* in, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, load(in + i));
  if (i < n) store_first(out + i, load_first(in + i, n - i), n - i);
}

JT_INLINE void fill(float* out, float value, int64_t n) {
  const f32v v = set1(value);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, v);
  if (i < n) store_first(out + i, v, n - i);
}

// Product of the dimensions [from, to) of a shape.
JT_INLINE int64_t product(const Shape& s, int64_t from, int64_t to) {
  int64_t v = 1;
  for (int64_t i = from; i < to; ++i) v *= s.d[i];
  return v;
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
