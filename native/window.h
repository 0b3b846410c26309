// Reduction of a window of an image over its pixels, channel by channel: what pools and means share.
//
//   out[ch] = scale · fold over y in rows, x in columns of image[y][x][ch]
//
// Up to four vectors of channels run along the window together. A sum is taken per row first: long sums
// of float32 then lose no more than short ones.
#pragma once
#include "elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

struct Maximum {
  static constexpr bool by_row = false;
  JT_INLINE f32v start() { return set1(-INFINITY); }
  JT_INLINE f32v fold(f32v a, f32v b) { return max(a, b); }
  JT_INLINE f32v finish(f32v v, f32v) { return v; }
};

struct Sum {
  static constexpr bool by_row = true;
  JT_INLINE f32v start() { return zero(); }
  JT_INLINE f32v fold(f32v a, f32v b) { return add(a, b); }
  JT_INLINE f32v finish(f32v v, f32v scale) { return mul(v, scale); }
};

struct Window {
  const float* image;  // at the first row, column and channel of the window
  int64_t rows, columns;
  int64_t row, column;  // floats from one to the next
};

// V vectors of channels; the last holds `left` − (V − 1)·W of them if that is less than W.
template <class F, int V>
JT_INLINE void fold_vectors(const Window& w, int64_t first, f32v scale, int64_t left, float* out) {
  f32v total[V];
  for (int v = 0; v < V; ++v) total[v] = F::start();
  for (int64_t y = 0; y < w.rows; ++y) {
    const float* at = w.image + y * w.row + first;
    f32v line[V];
    for (int v = 0; v < V; ++v) line[v] = F::by_row ? F::start() : total[v];
    for (int64_t x = 0; x < w.columns; ++x, at += w.column)
      for (int v = 0; v < V; ++v) line[v] = F::fold(line[v], load_first(at + v * W, left - v * W));
    for (int v = 0; v < V; ++v) total[v] = F::by_row ? F::fold(total[v], line[v]) : line[v];
  }
  for (int v = 0; v < V; ++v) store_first(out + first + v * W, F::finish(total[v], scale), left - v * W);
}

// out[channel] for `channels` of the window.
template <class F>
JT_INLINE void fold_window(const Window& w, Range channels, float scale, float* out) {
  const f32v s = set1(scale);
  int64_t i = channels.begin;
  for (; i + 4 * W <= channels.end; i += 4 * W) fold_vectors<F, 4>(w, i, s, 4 * W, out);
  for (; i + W <= channels.end; i += W) fold_vectors<F, 1>(w, i, s, W, out);
  if (i < channels.end) fold_vectors<F, 1>(w, i, s, channels.end - i, out);
}

// The part inside [0, size) of the window of `taps` that starts at `start`.
JT_INLINE Range clip(int64_t start, int64_t taps, int64_t size) { return {max64(start, 0), min64(start + taps, size)}; }

JT_INLINE Window window_of(const float* image, Range y, Range x, int64_t w, int64_t c) {
  return {image + (y.begin * w + x.begin) * c, max64(y.end - y.begin, 0), max64(x.end - x.begin, 0), w * c, c};
}

// A pool's output rows times vectors of channels times taps.
JT_INLINE double pool_cycles(const Problem& a) { return (double)a.n * a.p * a.q * (10 + (double)ceil_div(a.c, W) * (a.r * a.s + 2)); }

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
