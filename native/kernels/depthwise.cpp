// Depthwise convolution, groups = c; k = c · depth multiplier m.
//
//   out[y, x, o] = act(bias[o] + Σ_r Σ_s in[y·stride + r·dilation − pad, …, ⌊o / m⌋] · weight[o, r, s] + residual)
//
// Vectors run over W channels. A tile is T neighbouring pixels of one output row; every input column
// that the tile sees is loaded once per kernel row and feeds the (up to S) sums that use it:
//
//   kernel row r:   w0 w1 w2              S weights in registers
//   input columns   x0 x1 x2 x3 x4 …      (T − 1)·stride + S loads
//   sums            a0 = x0·w0 + x1·w1 + x2·w2,  a1 = x1·w0 + …      S·T multiply-adds (stride 1)
//
// Compiled for S = 3, 5, 7 and stride 1, 2 (dilation 1, m = 1); anything else loads once per tap.
// Rows and columns on padding are left out: rows for the whole tile, columns only in tiles that touch the border.
// A job is a band of output rows. In narrow images a few vectors of channels at a time run over the whole
// band, so that the input rows that output rows share are still in the first-level cache.
#include "../conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool accepts(const Problem& a, const Constants& c) { return a.groups > 1 && a.groups == a.c && c.find("weight"); }

// packed: bias [block][W] | weights [block][r][s][W] | channel of each lane, less its block's first [block][W], one byte each
int64_t blocks(const Problem& a) { return ceil_div(a.k, W); }
int64_t taps(const Problem& a) { return a.r * a.s; }
int64_t multiplier(const Problem& a) { return a.k / a.c; }

int64_t packed_bytes(const Problem& a, const Constants&) { return blocks(a) * W * (4 + 4 * taps(a) + 1); }

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  float* bias = (float*)packed;
  float* weights = bias + blocks(a) * W;
  uint8_t* lanes = (uint8_t*)(weights + blocks(a) * W * taps(a));
  if (const float* b = (const float*)c.find("bias")) std::memcpy(bias, b, a.k * 4);
  const float* weight = (const float*)c.find("weight");
  for (int64_t o = 0; o < a.k; ++o) {
    const int64_t block = o / W;
    for (int64_t t = 0; t < taps(a); ++t) weights[(block * taps(a) + t) * W + o % W] = weight[o * taps(a) + t];
    lanes[o] = (uint8_t)(o / multiplier(a) - block * W / multiplier(a));
  }
}

double cycles(const Problem& a) {
  const double tiles = (double)a.n * a.p * ceil_div(a.q, 8) * blocks(a);
  const double per_cycle = kIsa == Isa::avx512 ? 1.0 : 2.0;
  return tiles * (40 + 8 * 1.2 * taps(a) / per_cycle);
}

int64_t jobs(const Problem& a) { return job_count(cycles(a), a.n * a.p); }

// One output row, as all its tiles and blocks of channels share it.
struct Row {
  const float* x;  // input at the first live kernel row, column 0, channel 0
  int64_t step;    // floats from one kernel row to the next
  int64_t rows;    // live kernel rows
  const float* bias;
  const float* weights;  // of block 0, first live kernel row
  const uint8_t* lanes;  // input channel of each lane
  float* out;
  const float* residual;
};

// Sums of T pixels from input column `column` on. Edge: columns outside the image are left out.
template <int T, int S, int Stride, bool Edge>
JT_INLINE void accumulate(const Problem& a, const Row& b, const float* image, const float* weights, int64_t column, f32v (&acc)[T][1]) {
  constexpr int kColumns = (T - 1) * Stride + S;
  for (int64_t r = 0; r < b.rows; ++r, weights += S * W) {
    f32v weight[S];
    for (int s = 0; s < S; ++s) weight[s] = load(weights + s * W);
    const float* x = image + r * b.step + column * a.c;
#pragma GCC unroll 32
    for (int j = 0; j < kColumns; ++j, x += a.c) {
      if (Edge && (uint64_t)(column + j) >= (uint64_t)a.w) continue;
      const f32v v = hold(load(x));
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s)
        if (j >= s && (j - s) % Stride == 0 && (j - s) / Stride < T) acc[(j - s) / Stride][0] = fma(v, weight[s], acc[(j - s) / Stride][0]);
    }
  }
}

// The same for any kernel width, stride, dilation and depth multiplier.
template <int T, bool Multiplied>
JT_INLINE void accumulate_any(const Problem& a, const Row& b, const float* image, const float* weights, const uint8_t* lanes,
                              int64_t column, f32v (&acc)[T][1]) {
  for (int64_t r = 0; r < b.rows; ++r, image += b.step)
    for (int64_t s = 0; s < a.s; ++s, weights += W) {
      const f32v weight = load(weights);
      int64_t at = column + s * a.dilation_w;
      for (int t = 0; t < T; ++t, at += a.stride_w) {
        if ((uint64_t)at >= (uint64_t)a.w) continue;
        const f32v v = load(image + at * a.c);
        acc[t][0] = fma(Multiplied ? permute(lanes, v) : v, weight, acc[t][0]);
      }
    }
}

// A whole output row, `blocks` of its channels. S = 0: any kernel; then Stride = 0: with a depth multiplier.
template <int T, int S, int Stride>
void run_row(const Problem& a, const Row& b, Range blocks) {
  for (int64_t pixel = 0; pixel < a.q; pixel += T) {
    const int64_t column = pixel * a.stride_w - a.pad_l, live = min64(T, a.q - pixel);
    const bool inside = column >= 0 && column + (T - 1) * Stride + S <= a.w && live == T;
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t channel = block * W, at = pixel * a.k + channel;
      const float* weights = b.weights + channel * taps(a);
      const float* residual = b.residual ? b.residual + at : nullptr;
      f32v acc[T][1];
      for (int t = 0; t < T; ++t) acc[t][0] = load(b.bias + channel);
      if constexpr (S == 0) {
        const int64_t first = Stride ? channel : channel / multiplier(a);
        accumulate_any<T, Stride == 0>(a, b, b.x + first, weights, b.lanes + channel, column, acc);
      } else if (inside) {
        accumulate<T, S, Stride, false>(a, b, b.x + channel, weights, column, acc);
        if (a.k - channel >= W) {
          finish<T, 1>(a, acc, b.out + at, residual, W);
          continue;
        }
      } else {
        accumulate<T, S, Stride, true>(a, b, b.x + channel, weights, column, acc);
      }
      finish<T, 1>(a, acc, b.out + at, residual, a.k - channel, live);
    }
  }
}

using RunRow = void (*)(const Problem&, const Row&, Range);

template <int T>
RunRow row_of(const Problem& a) {
  if (multiplier(a) > 1) return run_row<T, 0, 0>;
  if (a.dilation_w > 1 || a.stride_w > 2) return run_row<T, 0, 1>;
  switch (a.s * 2 + a.stride_w) {
    case 7:
      return run_row<T, 3, 1>;
    case 8:
      return run_row<T, 3, 2>;
    case 11:
      return run_row<T, 5, 1>;
    case 12:
      return run_row<T, 5, 2>;
    case 15:
      return run_row<T, 7, 1>;
    case 16:
      return run_row<T, 7, 2>;
    default:
      return run_row<T, 0, 1>;
  }
}

// Blocks of channels that run over a band together: as many as keep the input rows of one output row in
// 24 KB of the first-level cache. Where that would be one, all: then long runs of memory serve better.
int64_t together(const Problem& a) {
  const int64_t fit = (24 << 10) / ((a.r * a.dilation_h + a.stride_h) * a.w * W * 4);
  return fit < 2 ? blocks(a) : fit;
}

// Output row `row` of the whole batch.
Row locate_row(const Call& call, int64_t row) {
  const Problem& a = *call.problem;
  const int64_t top = row % a.p * a.stride_h - a.pad_t;
  const int64_t skip = top < 0 ? ceil_div(-top, a.dilation_h) : 0;  // kernel rows above the image
  const int64_t end = top < a.h ? min64(a.r, ceil_div(a.h - top, a.dilation_h)) : 0;
  const int64_t out = row * a.q * a.k;
  Row b;
  b.x = (const float*)call.in[0] + (row / a.p * a.h + top + skip * a.dilation_h) * a.w * a.c;
  b.step = a.dilation_h * a.w * a.c;
  b.rows = max64(end - skip, 0);
  b.bias = (const float*)call.packed;
  b.weights = b.bias + blocks(a) * W + skip * a.s * W;
  b.lanes = (const uint8_t*)(b.bias + blocks(a) * W * (1 + taps(a)));
  b.out = (float*)call.out + out;
  b.residual = a.residual ? (const float*)call.in[1] + out : nullptr;
  return b;
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Range mine = range(a.n * a.p, jobs(a), job);
  const bool seven = ceil_div(a.q, 7) * 7 < ceil_div(a.q, 8) * 8;  // the width that leaves fewer pixels over
  const RunRow run = seven ? row_of<7>(a) : row_of<8>(a);
  for (int64_t first = 0; first < blocks(a); first += together(a))
    for (int64_t row = mine.begin; row < mine.end; ++row) run(a, locate_row(call, row), {first, min64(first + together(a), blocks(a))});
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel depthwise;
const Kernel depthwise = {"depthwise", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
