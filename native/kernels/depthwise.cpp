// Depthwise convolution, groups = c; k = c · depth multiplier m.
//
//   out[y, x, o] = act(bias[o] + Σ_r Σ_s in[y·stride + r·dilation − pad, …, ⌊o / m⌋] · weight[o, r, s] + residual)
//
// Vectors run over W channels. A tile is T neighbouring pixels of one output row, or of two, which share most of their
// input rows; every input column that the tile sees is loaded once per input row and feeds the (up to 2·S) sums that use it:
//
//   input row 0      x0 x1 x2 x3 …        upper sums  a0 += x0·w00 + x1·w01 + x2·w02,  a1 += x1·w00 + …
//   input row 1      x0 x1 x2 x3 …        upper sums  a0 += x0·w10 + …,  lower sums  b0 += x0·w00 + …
//   …                                     a multiply-add needs 1/2S loads: half as many as a row at a time
//
// Compiled for S = R = 3, 5, 7 and stride 1, 2 (dilation 1, m = 1); anything else loads once per tap, a row at a time.
// Rows and columns on padding are left out: rows for the whole tile, columns only in tiles that touch the border. Every
// pixel adds up its taps in the same order, whichever tile it falls into.
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

// One output row, or two, as all tiles and blocks of channels share them. Input rows are counted from the first that the
// first output row may need; those from `begin` to `end` lie in the image. For any kernel they are `dilation` rows apart.
struct Rows {
  const float* x;  // row 0, column 0, channel 0
  int64_t step;    // floats from one input row to the next
  int64_t begin, end;
  const float* bias;
  const float* weights;  // of block 0
  const uint8_t* lanes;  // input channel of each lane
  float* out;
  const float* residual;
};

// Which columns of a tile may lie outside the image: none, up to half a kernel on either side, or any.
enum class Edge { none, near, any };

// Adds input row r to the sums of T pixels of output rows First … Last, from input column `column` on.
template <int T, int S, int Stride, Edge E, int First, int Last, int R>
JT_INLINE void add_row(const float* x, int64_t c, int64_t w, int64_t column, const float* weights, int64_t r, f32v (&acc)[R][T][1]) {
  constexpr int kColumns = (T - 1) * Stride + S;
  weights += r * S * W;
  times<kColumns>([&](auto at) JT_FLAT {
    constexpr int j = decltype(at)::value;
    constexpr bool unsure = E == Edge::any || (E == Edge::near && (j < S / 2 || j >= kColumns - S / 2));
    if (unsure && (uint64_t)(column + j) >= (uint64_t)w) return;
    const f32v v = hold(load(x + j * c));
    times<S>([&](auto tap) JT_FLAT {
      constexpr int s = decltype(tap)::value, t = (j - s) / Stride;
      if constexpr (j >= s && (j - s) % Stride == 0 && t < T)
        times<Last - First + 1>([&](auto i) JT_FLAT {
          constexpr int row = First + decltype(i)::value;
          acc[row][t][0] = fma(v, load(weights + (s - row * Stride * S) * W), acc[row][t][0]);
        });
    });
  });
}

// Sums of T pixels of R output rows. Rows that both need are read once; a 3×3 kernel inside the image is one piece of code.
template <int T, int S, int Stride, int R, Edge E>
JT_INLINE void accumulate(const Rows& b, const float* x, int64_t c, int64_t w, int64_t column, const float* weights, f32v (&acc)[R][T][1]) {
  constexpr int kAlone = R > 1 ? Stride : 0;  // input rows before those that two output rows share
  const int64_t step = b.step, begin = b.begin, end = b.end;
  if (S == 3 && begin == 0 && end == S + kAlone) {
    times<kAlone>([&](auto r) JT_FLAT { add_row<T, S, Stride, E, 0, 0>(x + r * step, c, w, column, weights, r, acc); });
    times<S - kAlone>([&](auto i) JT_FLAT {
      constexpr int r = kAlone + decltype(i)::value;
      add_row<T, S, Stride, E, 0, R - 1>(x + r * step, c, w, column, weights, r, acc);
    });
    times<kAlone>([&](auto i) JT_FLAT {
      constexpr int r = S + decltype(i)::value;
      add_row<T, S, Stride, E, R - 1, R - 1>(x + r * step, c, w, column, weights, r, acc);
    });
    return;
  }
  int64_t r = begin;
  x += begin * step;
  for (; r < kAlone && r < end; ++r, x += step) add_row<T, S, Stride, E, 0, 0>(x, c, w, column, weights, r, acc);
  for (; r < S && r < end; ++r, x += step) add_row<T, S, Stride, E, 0, R - 1>(x, c, w, column, weights, r, acc);
  for (; r < end; ++r, x += step) add_row<T, S, Stride, E, R - 1, R - 1>(x, c, w, column, weights, r, acc);
}

// T pixels of R output rows, one block of channels after the other.
template <int T, int S, int Stride, int R, Edge E>
JT_INLINE void run_tile(const Problem& a, const Rows& b, Range blocks, int64_t pixel) {
  const int64_t c = a.c, k = a.k, w = a.w, all = taps(a), row = a.q * a.k, column = pixel * Stride - a.pad_l, live = min64(T, a.q - pixel);
  const float *x = b.x + column * c, *bias = b.bias, *weights = b.weights;
  const bool simple = live == T && !b.residual && clamps(a);
  const Clamp to = clamp_of(a);
  for (int64_t block = blocks.begin; block < blocks.end; ++block) {
    const int64_t channel = block * W, at = pixel * k + channel;
    f32v acc[R][T][1];
    times<R>([&](auto i) JT_FLAT { times<T>([&](auto t) JT_FLAT { acc[i][t][0] = load(bias + channel); }); });
    accumulate<T, S, Stride, R, E>(b, x + channel, c, w, column, weights + channel * all, acc);
    float* out = b.out + at;
    if (simple && k - channel >= W) {
      times<R>([&](auto i) JT_FLAT { times<T>([&](auto t) JT_FLAT { store(out + i * row + t * k, clamp(to, acc[i][t][0])); }); });
      continue;
    }
    times<R>([&](auto i)
                 JT_FLAT { finish<T, 1>(a, acc[i], out + i * row, b.residual ? b.residual + i * row + at : nullptr, k - channel, live); });
  }
}

// Whether Edge::near, which rows in pairs are compiled for, will do for every tile of T pixels.
template <int T, int S>
bool near(const Problem& a) {
  return a.q >= T && a.pad_l <= S / 2 && (a.q - 1) * a.stride_w - a.pad_l + S <= a.w + S / 2;
}

// `blocks` of the channels of R output rows. The last tile of a row starts early enough to be whole, where
// the row has room for it: some pixels are then computed twice.
template <int T, int S, int Stride, int R>
void run_rows(const Problem& a, const Rows& b, Range blocks) {
  for (int64_t next = 0; next < a.q; next += T) {
    const int64_t pixel = max64(0, min64(next, a.q - T)), column = pixel * Stride - a.pad_l;
    if (column >= 0 && column + (T - 1) * Stride + S <= a.w) run_tile<T, S, Stride, R, Edge::none>(a, b, blocks, pixel);
    else run_tile<T, S, Stride, R, R == 1 ? Edge::any : Edge::near>(a, b, blocks, pixel);
  }
}

// One output row of any kernel width, stride, dilation and depth multiplier.
template <int T, bool Multiplied>
void run_any(const Problem& a, const Rows& b, Range blocks) {
  for (int64_t pixel = 0; pixel < a.q; pixel += T)
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t channel = block * W, at = pixel * a.k + channel, live = min64(T, a.q - pixel);
      const float* weights = b.weights + (channel * a.r + b.begin * W) * a.s;
      const float* x = b.x + b.begin * b.step + (Multiplied ? channel / multiplier(a) : channel);
      f32v acc[T][1];
      for (int t = 0; t < T; ++t) acc[t][0] = load(b.bias + channel);
      for (int64_t r = b.begin; r < b.end; ++r, x += b.step)
        for (int64_t s = 0; s < a.s; ++s, weights += W)
          for (int64_t t = 0, column = pixel * a.stride_w - a.pad_l + s * a.dilation_w; t < T; ++t, column += a.stride_w) {
            if ((uint64_t)column >= (uint64_t)a.w) continue;
            const f32v v = load(x + column * a.c);
            acc[t][0] = fma(Multiplied ? permute(b.lanes + channel, v) : v, load(weights), acc[t][0]);
          }
      finish<T, 1>(a, acc, b.out + at, b.residual ? b.residual + at : nullptr, a.k - channel, live);
    }
}

using Run = void (*)(const Problem&, const Rows&, Range);

// What runs one output row, and two if something can.
struct Runs {
  Run one, two;
};

template <int T, int S>
Runs runs_of(const Problem& a) {
  if (a.stride_w == 1) return {run_rows<T, S, 1, 1>, near<T, S>(a) ? run_rows<T, S, 1, 2> : nullptr};
  return {run_rows<T, S, 2, 1>, near<T, S>(a) ? run_rows<T, S, 2, 2> : nullptr};
}

template <int T>
Runs runs_of(const Problem& a) {
  if (multiplier(a) > 1) return {run_any<T, true>, nullptr};
  const bool square = a.r == a.s && a.stride_h == a.stride_w && a.stride_h < 3 && a.dilation_h * a.dilation_w == 1;
  switch (square ? a.s : 0) {
    case 3:
      return runs_of<T, 3>(a);
    case 5:
      return runs_of<T, 5>(a);
    case 7:
      return runs_of<T, 7>(a);
    default:
      return {run_any<T, false>, nullptr};
  }
}

// The tile width that leaves fewer pixels over.
Runs runs_of(const Problem& a) {
  if constexpr (kRegisters < 32) return runs_of<4>(a);
  else return ceil_div(a.q, 7) * 7 < ceil_div(a.q, 8) * 8 ? runs_of<7>(a) : runs_of<8>(a);
}

// Blocks of channels that run over a band together: as many as keep the input rows of two output rows in
// kNearBytes of the first-level cache. Where that would be one, all: then long runs of memory serve better.
int64_t together(const Problem& a) {
  const int64_t fit = kNearBytes / ((a.r * a.dilation_h + 2 * a.stride_h) * a.w * W * 4);
  return fit < 2 ? blocks(a) : fit;
}

// Output rows `row` and, if count is 2, the next one, of the whole batch.
Rows locate(const Call& call, int64_t row, int64_t count) {
  const Problem& a = *call.problem;
  const int64_t top = row % a.p * a.stride_h - a.pad_t, out = row * a.q * a.k;
  Rows b;
  b.x = (const float*)call.in[0] + (row / a.p * a.h + top) * a.w * a.c;
  b.step = a.dilation_h * a.w * a.c;
  b.begin = top < 0 ? ceil_div(-top, a.dilation_h) : 0;
  b.end = top < a.h ? min64(a.r + (count - 1) * a.stride_h, ceil_div(a.h - top, a.dilation_h)) : 0;
  b.bias = (const float*)call.packed;
  b.weights = b.bias + blocks(a) * W;
  b.lanes = (const uint8_t*)(b.weights + blocks(a) * W * taps(a));
  b.out = (float*)call.out + out;
  b.residual = a.residual ? (const float*)call.in[1] + out : nullptr;
  return b;
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Range mine = range(a.n * a.p, jobs(a), job);
  const Runs runs = runs_of(a);
  for (int64_t first = 0; first < blocks(a); first += together(a)) {
    const Range some = {first, min64(first + together(a), blocks(a))};
    for (int64_t row = mine.begin, count; row < mine.end; row += count) {
      count = runs.two && row + 1 < mine.end && row % a.p + 1 < a.p ? 2 : 1;
      (count == 2 ? runs.two : runs.one)(a, locate(call, row, count), some);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel depthwise;
const Kernel depthwise = {"depthwise", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
