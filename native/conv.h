// What the direct convolution kernels share: cutting the output into tiles, finding the input of a
// tile's pixels at a kernel tap, and the epilogue.
//
// No im2col. The p·q output pixels of one image are one flat row, cut into tiles of nearly equal size, so
// that no tile runs one pixel alone; a tile times a block of output channels is accumulated in
// registers over all taps and input channels. A pixel whose tap falls on padding reads a row of zeros.
//
//   jobs:   pixel blocks × channel blocks; neighbouring jobs share their channel block when the
//           weights are large, their pixels when the weights are small.
//   tile:   PB pixels × OB·W output channels, all sums in registers.
#pragma once
#include "jobs.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// How the p·q × k output of each image is cut.
struct Cut {
  int64_t pixels, pixel_blocks, channel_blocks, block_width;
  bool channels_first;  // jobs in order: all pixels of one channel block, then the next block
};

// block_width: channels per block. pb_max: pixels per tile. weight_bytes: packed size of all weights.
JT_INLINE Cut cut(const Problem& a, int64_t block_width, int64_t pb_max, int64_t weight_bytes) {
  Cut c;
  c.pixels = a.p * a.q;
  c.block_width = block_width;
  c.channel_blocks = ceil_div(a.k, block_width);
  c.channels_first = weight_bytes > (512 << 10);
  const int64_t want = ceil_div(32, c.channel_blocks * a.n);                                         // enough jobs to balance
  const int64_t by_size = ceil_div(c.pixels * a.c * (a.element == Element::u8 ? 1 : 4), 192 << 10);  // a block's input stays in the cache
  const int64_t most = ceil_div(c.pixels, 4 * pb_max);                                               // not less than four tiles a job
  c.pixel_blocks = max64(1, min64(most, c.channels_first ? want : max64(want, by_size)));
  return c;
}

struct Piece {
  int64_t image, first_pixel, last_pixel, block;
};

JT_INLINE Piece piece(const Cut& c, int64_t job) {
  const int64_t per_image = c.pixel_blocks * c.channel_blocks;
  Piece o;
  o.image = job / per_image;
  int64_t i = job % per_image, px;
  if (c.channels_first) {
    o.block = i / c.pixel_blocks;
    px = i % c.pixel_blocks;
  } else {
    px = i / c.channel_blocks;
    o.block = i % c.channel_blocks;
  }
  o.first_pixel = part(c.pixels, c.pixel_blocks, px);
  o.last_pixel = part(c.pixels, c.pixel_blocks, px + 1);
  return o;
}

template <int N>
struct Count {
  static constexpr int value = N;
};

template <int N, class F>
JT_INLINE void with_count(int64_t count, int64_t pixel, const F& f) {
  if constexpr (N == 1) f(Count<1>(), pixel);
  else if (count == N) f(Count<N>(), pixel);
  else with_count<N - 1>(count, pixel, f);
}

// f(Count<PB>(), first pixel) for every tile of the pixels [first, last): of nearly equal size, at most Most.
template <int Most, class F>
JT_INLINE void for_tiles(int64_t first, int64_t last, const F& f) {
  const int64_t tiles = ceil_div(last - first, Most);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t from = first + part(last - first, tiles, i), to = first + part(last - first, tiles, i + 1);
    with_count<Most>(to - from, from, f);
  }
}

// Top-left input position of each pixel of a tile, and whether every tap of every pixel is inside the image.
template <class T, int PB>
struct Tile {
  int32_t y[PB], x[PB];  // only valid when not inside
  const T* base[PB];     // input at the top-left tap; only valid when inside
  bool inside;
};

template <class T, int PB>
JT_INLINE void locate(const Problem& a, const T* image, int64_t pixel, Tile<T, PB>* t) {
  if (a.r == 1 && a.s == 1 && a.stride_h == 1 && a.stride_w == 1 && a.pad_t == 0 && a.pad_l == 0) {  // pixel to pixel
    for (int i = 0; i < PB; ++i) t->base[i] = image + (pixel + i) * a.c;
    t->inside = true;
    return;
  }
  int64_t oy = pixel / a.q, ox = pixel % a.q;
  const int64_t reach_y = (a.r - 1) * a.dilation_h, reach_x = (a.s - 1) * a.dilation_w;
  bool inside = true;
  for (int i = 0; i < PB; ++i) {
    const int64_t y = oy * a.stride_h - a.pad_t, x = ox * a.stride_w - a.pad_l;
    t->y[i] = (int32_t)y;
    t->x[i] = (int32_t)x;
    inside &= y >= 0 && x >= 0 && y + reach_y < a.h && x + reach_x < a.w;
    t->base[i] = image + (y * a.w + x) * a.c;
    if (++ox == a.q) ox = 0, ++oy;
  }
  t->inside = inside;
}

// Input of each pixel at tap (dy, dx), `padding` where it falls outside the image.
template <class T, int PB>
JT_INLINE void tap(const Problem& a, const T* image, const Tile<T, PB>& t, int64_t dy, int64_t dx, const T* padding, const T** ptr) {
  if (t.inside) {
    const int64_t offset = (dy * a.w + dx) * a.c;
    for (int i = 0; i < PB; ++i) ptr[i] = t.base[i] + offset;
    return;
  }
  for (int i = 0; i < PB; ++i) {
    const int64_t y = t.y[i] + dy, x = t.x[i] + dx;
    const bool in = (uint64_t)y < (uint64_t)a.h && (uint64_t)x < (uint64_t)a.w;
    ptr[i] = in ? image + (y * a.w + x) * a.c : padding;
  }
}

// The costly activations run over the finished tile, which is still in the first-level cache.
__attribute__((noinline, unused)) static void activate_rows(const Problem& a, float* out, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t o = 0; o < width; o += W) {
      float* at = out + i * a.k + o;
      store_first(at, activate(a.act, a.alpha, load_first(at, width - o)), width - o);
    }
}

// out[pixel][channel] = act(acc + residual) for `width` channels of the first `live` pixels; bias is already in acc.
// relu, relu6 and none are a clamp. max(low, x) keeps a NaN in x visible.
template <int PB, int OB>
JT_INLINE void finish(const Problem& a, f32v (&acc)[PB][OB], float* out, const float* residual, int64_t width, int64_t live = PB) {
  const bool clamp = a.act == Act::none || a.act == Act::relu || a.act == Act::relu6;
  const f32v low = set1(a.act == Act::relu || a.act == Act::relu6 ? 0.0f : -INFINITY);
  const f32v high = set1(a.act == Act::relu6 ? 6.0f : INFINITY);
  for (int i = 0; i < PB && i < live; ++i)
    for (int o = 0; o < OB; ++o) {
      const int64_t left = width - o * W;
      f32v v = acc[i][o];
      if (residual) v = add(v, load_first(residual + i * a.k + o * W, left));
      store_first(out + i * a.k + o * W, min(high, max(low, v)), left);
    }
  if (!clamp) activate_rows(a, out, live, min64(width, OB * W));  // what lies beside these sums is another's
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
