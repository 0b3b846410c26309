// Loops over consecutive elements, and what the kernels that only move data share.
//
// A kernel that only moves data does the same to float32 and to u8: its `run` is a template over the element, and
// its file defines two kernels, NAME and NAME_u8. Arithmetic on u8 follows quantized.py.
#pragma once
#include "jobs.h"
#include "vec_i8.h"

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

// out[i] = requantize(f(i)) for i < n. f(i) gives the real numbers at i, W of them.
template <class F>
JT_INLINE void each_u8(int64_t n, const Requantize& to, uint8_t* out, F f) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store_u8_first(out + i, requantize(to, f(i)), W);
  if (i < n) store_u8_first(out + i, requantize(to, f(i)), n - i);
}

// Cycles of `act` per vector beyond memory: e^x and a division.
JT_INLINE double act_cycles(Act act) { return is_clamp(act) || act == Act::leaky_relu ? 1 : 24; }

// Without a call: rows of channels are often shorter than a call of memcpy is worth.
template <class T>
JT_INLINE void copy(T* to, const T* from, int64_t n) {
  uint8_t* out = (uint8_t*)to;
  const uint8_t* in = (const uint8_t*)from;
  const int64_t bytes = n * (int64_t)sizeof(T);
  int64_t i = 0;
  for (; i + 4 * W <= bytes; i += 4 * W) store_bytes(out + i, load_bytes(in + i));
  if (i < bytes) copy_few(out + i, in + i, bytes - i);
}

JT_INLINE void fill(float* out, float value, int64_t n) {
  const f32v v = set1(value);
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, v);
  if (i < n) store_first(out + i, v, n - i);
}

JT_INLINE void fill(uint8_t* out, uint8_t value, int64_t n) { std::memset(out, value, (size_t)n); }

// Product of the dimensions [from, to) of a shape.
JT_INLINE int64_t product(const Shape& s, int64_t from, int64_t to) {
  int64_t v = 1;
  for (int64_t i = from; i < to; ++i) v *= s.d[i];
  return v;
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
