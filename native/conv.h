// What the direct convolution kernels share: how the output is cut, where the inputs of its pixels lie, and the epilogue.
//
// No im2col. The p·q output pixels of one image are one flat row, cut into tiles of nearly equal size, so
// that no tile runs one pixel alone; a tile times a block of output channels is accumulated in
// registers over all taps and input channels.
//
//   job:    a range of pixels of one image × a range of blocks of output channels
//   group:  a few tiles whose inputs and outputs stay in the first-level cache while all blocks of the job pass over them
//   tile:   PB pixels × OB·W output channels, all sums in registers
//   table:  of a group, for each tile, stop and pixel, where the inputs of the pixel are; padding is somewhere else in
//           memory, so the sums need no branch
#pragma once
#include "jobs.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// The stops of a kernel on its way over the inputs of a pixel, and how many consecutive inputs it takes at each:
// one tap's c channels, or where c is small the s·c inputs of a whole kernel row.
struct Walk {
  int64_t stops, length;
  bool rows;
};

constexpr int64_t kRowBytes = 512;  // a longer kernel row is not worth copying where it crosses the border

// unit: as many channels as the kernel takes at once.
template <class T>
JT_INLINE Walk walk(const Problem& a, int64_t unit) {
  const bool rows = a.s > 1 && a.dilation_w == 1 && a.c % unit != 0 && a.s * a.c * (int64_t)sizeof(T) <= kRowBytes;
  if (rows) return {a.r, a.s * a.c, true};
  return {a.r * a.s, a.c, false};
}

// How the output is cut into jobs.
struct Cut {
  int64_t tiles, tile_parts, blocks, block_parts, images;
  bool blocks_first;  // neighbouring jobs share their weights, which are large, instead of their tiles
};

constexpr int64_t kLargeWeights = 512 << 10;

// block_width: channels per block. most: pixels per tile. weight_bytes: packed size of all weights. cycles: of the whole op.
JT_INLINE Cut cut(const Problem& a, int64_t block_width, int64_t most, int64_t weight_bytes, double cycles) {
  Cut c;
  c.images = a.n;
  c.tiles = ceil_div(a.p * a.q, most);
  c.blocks = ceil_div(a.k, block_width);
  c.blocks_first = weight_bytes > kLargeWeights;
  const int64_t jobs = a.band ? 1 : job_count(cycles, a.n * c.tiles * c.blocks), each = ceil_div(jobs, a.n);
  if (c.blocks_first) {
    c.block_parts = min64(c.blocks, max64(jobs, ceil_div(weight_bytes, kLargeWeights)));
    c.tile_parts = min64(c.tiles, ceil_div(min64(each, 8), c.block_parts));  // every part reads all weights
  } else {
    c.tile_parts = min64(ceil_div(c.tiles, 2), each);
    c.block_parts = min64(c.blocks, ceil_div(each, c.tile_parts));
  }
  return c;
}

JT_INLINE int64_t jobs_of(const Cut& c) { return c.images * c.tile_parts * c.block_parts; }

struct Piece {
  int64_t image, image_tiles;
  Range tiles, blocks;
};

JT_INLINE Piece piece(const Cut& c, int64_t job) {
  const int64_t positions = c.images * c.tile_parts;
  const int64_t position = c.blocks_first ? job % positions : job / c.block_parts;
  const int64_t blocks = c.blocks_first ? job / positions : job % c.block_parts;
  return {position / c.tile_parts, c.tiles, range(c.tiles, c.tile_parts, position % c.tile_parts), range(c.blocks, c.block_parts, blocks)};
}

// f(Count<count>())
template <int N, class F>
JT_INLINE void with_count(int64_t count, const F& f) {
  if constexpr (N == 1) f(Count<1>());
  else if (count == N) f(Count<N>());
  else with_count<N - 1>(count, f);
}

constexpr int64_t kMostTiles = 16;

// Tiles per group.
template <class T, int Most>
JT_INLINE int64_t group_tiles(const Problem& a) {
  const int64_t pixel_bytes = (a.c * a.stride_h * a.stride_w + a.k) * (int64_t)sizeof(T);
  return max64(4, min64(kMostTiles, kNearBytes / (Most * pixel_bytes)));
}

// Bytes of one copied kernel row; kernels read up to 64 bytes past its end.
template <class T>
JT_INLINE int64_t row_bytes(const Walk& w) {
  return w.rows ? align64(w.length * (int64_t)sizeof(T)) + 64 : 0;
}

template <class T, int Most>
JT_INLINE int64_t table_bytes(const Problem& a, const Walk& w) {
  return w.stops * ((int64_t)sizeof(int64_t) + group_tiles<T, Most>(a) * Most * ((int64_t)sizeof(T*) + row_bytes<T>(w)));
}

// Kernel row of a pixel at the border, copied: inputs outside the image are taken from `padding`.
template <class T>
JT_INLINE const T* copy_row(const Problem& a, const T* row, bool in_y, int64_t x, const T* padding, uint8_t* to) {
  T* out = (T*)to;
  for (int64_t s = 0; s < a.s; ++s, row += a.c) {
    const bool in = in_y && (uint64_t)(x + s) < (uint64_t)a.w;
    for (int64_t i = 0; i < a.c; ++i) out[s * a.c + i] = in ? row[i] : padding[i];
  }
  return out;
}

// Finds the inputs of tiles: what stays the same for all tiles of a job.
template <class T, int Most>
struct Finder {
  const Problem& a;
  const Walk& w;
  const T *image, *padding;  // padding: one pixel
  int64_t* offsets;          // of every stop, in elements from the first one
  int64_t steps[Most];       // of every pixel of a tile that lies in one output row
  int64_t rows_end, columns_end;
  bool pointwise;  // input pixels are output pixels

  JT_FLAT inline Finder(const Problem& problem, const Walk& walk, const T* image, const T* padding, int64_t* offsets)
      : a(problem), w(walk), image(image), padding(padding), offsets(offsets) {
    rows_end = a.h - (a.r - 1) * a.dilation_h, columns_end = a.w - (a.s - 1) * a.dilation_w;
    pointwise = a.r * a.s == 1 && a.stride_h * a.stride_w == 1 && a.p == a.h && a.q == a.w;
    for (int i = 0; i < Most; ++i) steps[i] = i * a.stride_w * a.c;
    const int64_t columns = w.rows ? 1 : a.s;
    for (int64_t i = 0; i < w.stops; ++i) offsets[i] = (i / columns * a.dilation_h * a.w + i % columns * a.dilation_w) * a.c;
  }

  // table[stop][pixel] of the tile of `count` pixels from `pixel` on. copies: room for as many kernel rows.
  JT_FLAT inline void find(int64_t pixel, int64_t count, const T** table, uint8_t* copies) const {
    int64_t oy = pointwise ? 0 : pixel / a.q, ox = pixel - oy * a.q;
    const int64_t y = oy * a.stride_h - a.pad_t, x = ox * a.stride_w - a.pad_l;
    const bool regular = y >= 0 && y < rows_end && x >= 0 && x + (count - 1) * a.stride_w < columns_end && ox + count <= a.q;
    if (pointwise || regular) {
      const T* first = image + (y * a.w + x) * a.c;
      for (int64_t stop = 0; stop < w.stops; ++stop, table += Most)
        for (int i = 0; i < Most; ++i) table[i] = first + offsets[stop] + steps[i];
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      find_pixel(oy * a.stride_h - a.pad_t, ox * a.stride_w - a.pad_l, table + i, copies + i * row_bytes<T>(w));
      if (++ox == a.q) ox = 0, ++oy;
    }
  }

  // The same for the pixel whose first input lies at row y, column x.
  JT_FLAT inline void find_pixel(int64_t y, int64_t x, const T** table, uint8_t* copies) const {
    const T* first = image + (y * a.w + x) * a.c;
    const bool inside_x = x >= 0 && x < columns_end;
    if (inside_x && y >= 0 && y < rows_end) {
      for (int64_t stop = 0; stop < w.stops; ++stop) table[stop * Most] = first + offsets[stop];
      return;
    }
    const int64_t* offset = offsets;
    for (int64_t r = 0; r < a.r; ++r) {
      const bool in_y = (uint64_t)(y + r * a.dilation_h) < (uint64_t)a.h;
      if (w.rows) {
        *table = in_y && inside_x ? first + *offset : copy_row(a, first + *offset, in_y, x, padding, copies + r * Most * row_bytes<T>(w));
        ++offset, table += Most;
        continue;
      }
      for (int64_t s = 0; s < a.s; ++s, ++offset, table += Most)
        *table = in_y && (uint64_t)(x + s * a.dilation_w) < (uint64_t)a.w ? first + *offset : padding;
    }
  }
};

// f(block_at(i), Count<PB>(), pixel, table) for every block i and tile of a job. image: of the piece. padding: one pixel.
template <class T, int Most, class BlockAt, class F>
JT_INLINE void for_tiles(const Call& call, const Walk& w, const Piece& at, const T* image, const T* padding, const BlockAt& block_at,
                         const F& f) {
  const Problem& a = *call.problem;
  const int64_t tiles = at.tiles.end - at.tiles.begin, stride = w.stops * Most;
  const int64_t groups = ceil_div(tiles, group_tiles<T, Most>(a));
  const T** table = (const T**)call.workspace;
  int64_t* offsets = (int64_t*)(table + group_tiles<T, Most>(a) * stride);
  uint8_t* copies = (uint8_t*)(offsets + w.stops);
  const Finder<T, Most> finder(a, w, image, padding, offsets);
  for (int64_t g = 0; g < groups; ++g) {
    const Range some = range(tiles, groups, g);
    const int64_t count = some.end - some.begin;
    int64_t first[kMostTiles + 1];  // pixel of each tile
    for (int64_t i = 0; i <= count; ++i) first[i] = part(a.p * a.q, at.image_tiles, at.tiles.begin + some.begin + i);
    for (int64_t i = 0; i < count; ++i)
      finder.find(first[i], first[i + 1] - first[i], table + i * stride, copies + i * stride * row_bytes<T>(w));
    for (int64_t block = at.blocks.begin; block < at.blocks.end; ++block) {
      const auto b = block_at(block);
      for (int64_t i = 0; i < count; ++i) with_count<Most>(first[i + 1] - first[i], [&](auto n) { f(b, n, first[i], table + i * stride); });
    }
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

// acc = bias
template <int PB, int OB>
JT_INLINE void start(const float* bias, f32v (&acc)[PB][OB]) {
  times<OB>([&](auto o) JT_FLAT {
    const f32v v = load(bias + o * W);
    times<PB>([&](auto p) JT_FLAT { acc[p][o] = v; });
  });
}

// relu, relu6 and none are a clamp. max(low, x) keeps a NaN in x visible.
struct Clamp {
  f32v low, high;
};

JT_INLINE bool clamps(const Problem& a) { return a.act == Act::none || a.act == Act::relu || a.act == Act::relu6; }

JT_INLINE Clamp clamp_of(const Problem& a) {
  return {set1(a.act == Act::relu || a.act == Act::relu6 ? 0.0f : -INFINITY), set1(a.act == Act::relu6 ? 6.0f : INFINITY)};
}

JT_INLINE f32v clamp(const Clamp& to, f32v v) { return min(to.high, max(to.low, v)); }

// out[pixel][channel] = act(acc + residual) for `width` channels of the first `live` pixels; bias is already in acc.
template <int PB, int OB>
JT_INLINE void finish(const Problem& a, f32v (&acc)[PB][OB], float* out, const float* residual, int64_t width, int64_t live = PB) {
  const Clamp to = clamp_of(a);
  times<PB>([&](auto i) JT_FLAT {
    times<OB>([&](auto o) JT_FLAT {
      const int64_t at = i * a.k + o * W, left = width - o * W;
      if (i >= live) return;
      f32v v = acc[i][o];
      if (residual) v = add(v, load_first(residual + at, left));
      store_first(out + at, clamp(to, v), left);
    });
  });
  if (!clamps(a)) activate_rows(a, out, live, min64(width, OB * W));  // what lies beside these sums is another's
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
