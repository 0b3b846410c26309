// Reduction of a window of an image over its pixels, channel by channel: what pools and means share.
//
//   out[ch] = finish(fold over y in rows, x in columns of image[y][x][ch])
//
// A fold says how vectors of one element type are read, joined and written; up to four of them run along the
// window together. A sum of floats is taken per row first: long sums of float32 then lose no more than short ones.
#pragma once
#include "elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

struct Maximum {
  using T = float;
  using V = f32v;
  static constexpr int kLanes = W;
  static constexpr bool by_row = false;
  V start() const { return set1(-INFINITY); }
  V read(const T* p, int64_t n) const { return load_first(p, n); }
  V join(V a, V b) const { return max(a, b); }
  void write(T* p, V v, int64_t n) const { store_first(p, v, n); }
};

struct MaximumU8 {
  using T = uint8_t;
  using V = u8v;
  static constexpr int kLanes = 4 * W;
  static constexpr bool by_row = false;
  V start() const { return V{}; }
  V read(const T* p, int64_t) const { return load_bytes(p); }
  V join(V a, V b) const { return max_bytes(a, b); }
  void write(T* p, V v, int64_t n) const { store_bytes_first(p, v, n); }
};

// Σ x / count.
struct Sum {
  using T = float;
  using V = f32v;
  static constexpr int kLanes = W;
  static constexpr bool by_row = true;
  float scale;

  explicit Sum(const Problem&) : scale(1) {}
  void average(int64_t /*positions*/, int64_t count) { scale = 1.0f / (float)count; }
  V start() const { return zero(); }
  V read(const T* p, int64_t n) const { return load_first(p, n); }
  V join(V a, V b) const { return add(a, b); }
  void write(T* p, V v, int64_t n) const { store_first(p, mul(v, set1(scale)), n); }
  T one(double total) const { return (float)total * scale; }
};

// requantize(float32(Σ (q − z)) · (s_x / (count·s))), quantized.py, _average. `positions` of the window lie in the image.
struct SumU8 {
  using T = uint8_t;
  using V = i32v;
  static constexpr int kLanes = W;
  static constexpr bool by_row = false;
  const Problem& a;
  Requantize to;
  int32_t centre;
  float factor;

  explicit SumU8(const Problem& problem) : a(problem), to(requantize_to(problem.out_quantization, Act::none)), centre(0), factor(1) {}
  void average(int64_t positions, int64_t count) {
    centre = (int32_t)(-positions * a.in_quantization[0].zero);
    factor = (float)(a.in_quantization[0].scale / ((double)count * a.out_quantization.scale));
  }
  V start() const { return set1_i32(centre); }
  V read(const T* p, int64_t) const { return load_u8(p); }
  V join(V x, V y) const { return add(x, y); }
  void write(T* p, V v, int64_t n) const { store_u8_first(p, requantize(to, mul(to_float(v), set1(factor))), n); }
  T one(double total) const { return requantize_one(to, (float)(total + centre) * factor); }
};

// Sums of more bytes might not fit into int32.
constexpr int64_t kMostSummed = 1 << 23;

template <class T>
struct Window {
  const T* image;  // at the first row, column and channel of the window
  int64_t rows, columns;
  int64_t row, column;  // elements from one to the next
};

// N vectors of channels; the last holds `left` − (N − 1)·kLanes of them if that is less than kLanes.
template <int N, class F, class T>
JT_INLINE void fold_vectors(const F& f, const Window<T>& w, int64_t first, int64_t left, T* out) {
  constexpr int L = F::kLanes;
  typename F::V total[N];
  for (int v = 0; v < N; ++v) total[v] = f.start();
  for (int64_t y = 0; y < w.rows; ++y) {
    const T* at = w.image + y * w.row + first;
    typename F::V line[N];
    for (int v = 0; v < N; ++v) line[v] = F::by_row ? f.start() : total[v];
    for (int64_t x = 0; x < w.columns; ++x, at += w.column)
      for (int v = 0; v < N; ++v) line[v] = f.join(line[v], f.read(at + v * L, left - v * L));
    for (int v = 0; v < N; ++v) total[v] = F::by_row ? f.join(total[v], line[v]) : line[v];
  }
  for (int v = 0; v < N; ++v) f.write(out + first + v * L, total[v], left - v * L);
}

// out[channel] for `channels` of the window.
template <class F, class T>
JT_INLINE void fold_window(const F& f, const Window<T>& w, Range channels, T* out) {
  constexpr int L = F::kLanes;
  int64_t i = channels.begin;
  for (; i + 4 * L <= channels.end; i += 4 * L) fold_vectors<4>(f, w, i, 4 * L, out);
  for (; i + L <= channels.end; i += L) fold_vectors<1>(f, w, i, L, out);
  if (i < channels.end) fold_vectors<1>(f, w, i, channels.end - i, out);
}

// The part inside [0, size) of the window of `taps` that starts at `start`.
JT_INLINE Range clip(int64_t start, int64_t taps, int64_t size) { return {max64(start, 0), min64(start + taps, size)}; }

template <class T>
JT_INLINE Window<T> window_of(const T* image, Range y, Range x, int64_t w, int64_t c) {
  return {image + (y.begin * w + x.begin) * c, max64(y.end - y.begin, 0), max64(x.end - x.begin, 0), w * c, c};
}

// A pool's output rows times vectors of channels times taps.
JT_INLINE double pool_cycles(const Problem& a) { return (double)a.n * a.p * a.q * (10 + (double)ceil_div(a.c, W) * (a.r * a.s + 2)); }

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
