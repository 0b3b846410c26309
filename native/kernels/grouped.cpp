// Grouped convolution, 1 < groups: output channel o sees only the cg = c / groups input channels of its group.
//
//   out[y, x, o] = act(bias[o] + Σ_r Σ_s Σ_i in[y·stride + r·dilation − pad, …, g(o)·cg + i] · weight[o, r, s, i] + residual)
//
// A vector holds W output channels, of one or of several groups. Every (tap, step) of a block is one vector of
// weights and one input channel per lane:
//
//   one group     all lanes want the same channel: broadcast it from memory, cg steps
//   many groups   the channels of the block's groups are cut into windows of W; a window is one register per
//                 pixel, out of which a permute hands each lane its channel:
//
//     4 groups of 4, W = 16    window │ g0 g0 g0 g0 │ g1 g1 g1 g1 │ g2 … │ g3 … │
//                              step 0 │ 0  0  0  0  │ 4  4  4  4  │ 8  … │ 12 … │   4 steps, every lane busy
//
//     A group cut by a window, or groups narrower than their block, leave lanes with weight 0 in some steps.
//
// A tile is T pixels of one output row × one block, all sums in registers. A pixel whose tap falls on
// padding reads zeros. A job is a band of output rows × a range of blocks; a block runs over its whole band,
// with its weights in the first-level cache.
#include "../conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool accepts(const Problem& a, const Constants& c) { return a.groups > 1 && c.find("weight"); }

int64_t blocks(const Problem& a) { return ceil_div(a.k, W); }
int64_t group_inputs(const Problem& a) { return a.c / a.groups; }
int64_t group_outputs(const Problem& a) { return a.k / a.groups; }
int64_t group_of(const Problem& a, int64_t o) { return o / group_outputs(a); }
int64_t end_of(const Problem& a, int64_t block) { return min64((block + 1) * W, a.k); }
bool one_group(const Problem& a, int64_t block) { return group_of(a, block * W) == group_of(a, end_of(a, block) - 1); }

// Input channels that some lane of the block wants.
Range channels(const Problem& a, int64_t block) {
  const int64_t cg = group_inputs(a);
  return {group_of(a, block * W) * cg, (group_of(a, end_of(a, block) - 1) + 1) * cg};
}

int64_t windows(const Problem& a, int64_t block) {
  if (one_group(a, block)) return 1;
  const Range r = channels(a, block);
  return ceil_div(r.end - r.begin, W);
}

// What lane o wants of window i: channels of its group that lie in the window.
Range wanted(const Problem& a, int64_t block, int64_t i, int64_t o) {
  const int64_t cg = group_inputs(a), first = group_of(a, o) * cg, window = channels(a, block).begin + i * W;
  if (one_group(a, block)) return {first, first + cg};
  return {max64(first, window), min64(first + cg, window + W)};
}

int64_t steps(const Problem& a, int64_t block, int64_t i) {
  int64_t most = 0;
  for (int64_t o = block * W; o < end_of(a, block); ++o) {
    const Range r = wanted(a, block, i, o);
    most = max64(most, r.end - r.begin);
  }
  return most;
}

int64_t steps_of(const Problem& a, int64_t block) {
  int64_t total = 0;
  for (int64_t i = 0; i < windows(a, block); ++i) total += steps(a, block, i);
  return total;
}

// packed:
//   Block per block | zeros (c + slack) | bias [block][W] | per block: steps of each window (int64),
//   lanes [step][W] (one byte: channel less the window's first), weights [r][s][step][W]
struct Block {
  int64_t channel;  // first input channel
  int64_t windows, steps;
  bool broadcast;
  int64_t counts, lanes, weights;  // bytes from the start of packed
};

int64_t zeros_at(const Problem& a) { return align64(blocks(a) * (int64_t)sizeof(Block)); }
int64_t bias_at(const Problem& a) { return zeros_at(a) + align64(a.c * 4 + kSlack); }

// Fills in block `i`, whose parts begin at byte `at`; returns where they end.
int64_t lay_out(const Problem& a, int64_t i, int64_t at, Block* b) {
  b->channel = channels(a, i).begin;
  b->windows = windows(a, i);
  b->steps = steps_of(a, i);
  b->broadcast = one_group(a, i);
  b->counts = at;
  b->lanes = b->counts + align64(b->windows * 8);
  b->weights = b->lanes + align64(b->steps * W);
  return b->weights + align64(a.r * a.s * b->steps * W * 4);
}

int64_t packed_bytes(const Problem& a, const Constants&) {
  int64_t at = bias_at(a) + align64(blocks(a) * W * 4);
  Block b;
  for (int64_t i = 0; i < blocks(a); ++i) at = lay_out(a, i, at, &b);
  return at;
}

void pack_block(const Problem& a, int64_t block, const Block& b, const float* weight, char* packed) {
  const int64_t cg = group_inputs(a), taps = a.r * a.s;
  int64_t* counts = (int64_t*)(packed + b.counts);
  uint8_t* lanes = (uint8_t*)(packed + b.lanes);
  float* out = (float*)(packed + b.weights);
  int64_t step = 0;
  for (int64_t i = 0; i < b.windows; ++i) {
    counts[i] = steps(a, block, i);
    for (int64_t o = block * W; o < end_of(a, block); ++o) {
      const Range r = wanted(a, block, i, o);
      for (int64_t j = 0; j < r.end - r.begin; ++j) {
        const int64_t lane = o % W, channel = r.begin + j;
        if (!b.broadcast) lanes[(step + j) * W + lane] = (uint8_t)(channel - b.channel - i * W);
        for (int64_t t = 0; t < taps; ++t) out[(t * b.steps + step + j) * W + lane] = weight[(o * taps + t) * cg + channel % cg];
      }
    }
    step += counts[i];
  }
}

void pack(const Problem& a, const Constants& c, void* packed) {
  const int64_t bytes = packed_bytes(a, c);
  std::memset(packed, 0, bytes);
  char* base = (char*)packed;
  if (const float* bias = (const float*)c.find("bias")) std::memcpy(base + bias_at(a), bias, a.k * 4);
  int64_t at = bias_at(a) + align64(blocks(a) * W * 4);
  for (int64_t i = 0; i < blocks(a); ++i) {
    Block* b = (Block*)packed + i;
    at = lay_out(a, i, at, b);
    pack_block(a, i, *b, (const float*)c.find("weight"), base);
  }
}

double cycles(const Problem& a) {
  double steps_sum = 0;
  const int64_t sample = min64(blocks(a), 4);  // blocks repeat; the first ones speak for all
  for (int64_t i = 0; i < sample; ++i) steps_sum += (double)steps_of(a, i) * (one_group(a, i) ? 1.0 : 1.4);
  const double per_cycle = kIsa == Isa::avx512 ? 1.0 : 2.0;
  const double pixels = (double)a.n * a.p * ceil_div(a.q, 8) * 8;
  return pixels * blocks(a) * (5 + a.r * a.s * (1 + 1.1 * steps_sum / (double)sample / per_cycle));
}

// Rows × blocks: bands of rows while there are enough.
struct Bands {
  int64_t row_parts, block_parts;
};

Bands bands(const Problem& a) {
  const int64_t jobs = job_count(cycles(a), a.n * a.p * blocks(a)), parts = min64(jobs, ceil_div(a.n * a.p, 4));
  return {parts, min64(ceil_div(jobs, parts), blocks(a))};
}

int64_t jobs(const Problem& a) { return bands(a).row_parts * bands(a).block_parts; }

// One tap of a tile: x[t] is pixel t's input at the block's first channel.
template <int T>
JT_INLINE void broadcast_tap(const Block& b, const float* weight, const float* const (&x)[T], f32v (&acc)[T][1]) {
  for (int64_t i = 0; i < b.steps; ++i, weight += W) {
    const f32v w = load(weight);
    for (int t = 0; t < T; ++t) acc[t][0] = fma(set1(x[t][i]), w, acc[t][0]);
  }
}

template <int T>
JT_INLINE void permute_tap(const Block& b, const char* packed, const float* weight, const float* const (&x)[T], f32v (&acc)[T][1]) {
  const int64_t* counts = (const int64_t*)(packed + b.counts);
  const uint8_t* lanes = (const uint8_t*)(packed + b.lanes);
  for (int64_t window = 0; window < b.windows; ++window) {
    f32v v[T];
    for (int t = 0; t < T; ++t) v[t] = load(x[t] + window * W);
    for (int64_t i = 0; i < counts[window]; ++i, weight += W, lanes += W) {
      const f32v w = load(weight);
      for (int t = 0; t < T; ++t) acc[t][0] = fma(permute(lanes, v[t]), w, acc[t][0]);
    }
  }
}

// T pixels of output row `row` (of the whole batch) from `pixel` on, `live` of them inside the row.
template <int T, bool Broadcast>
void tile(const Call& call, const Block& b, int64_t block, int64_t row, int64_t pixel) {
  const Problem& a = *call.problem;
  const char* packed = (const char*)call.packed;
  const float* zeros = (const float*)(packed + zeros_at(a));
  const float* image = (const float*)call.in[0] + row / a.p * a.h * a.w * a.c + b.channel;
  const float* weight = (const float*)(packed + b.weights);
  const int64_t top = row % a.p * a.stride_h - a.pad_t, left = pixel * a.stride_w - a.pad_l, live = min64(T, a.q - pixel);
  f32v acc[T][1];
  const f32v bias = load((const float*)(packed + bias_at(a)) + block * W);
  for (int t = 0; t < T; ++t) acc[t][0] = bias;
  for (int64_t r = 0; r < a.r; ++r) {
    const int64_t y = top + r * a.dilation_h;
    if ((uint64_t)y >= (uint64_t)a.h) {
      weight += a.s * b.steps * W;
      continue;
    }
    for (int64_t s = 0; s < a.s; ++s, weight += b.steps * W) {
      const float* x[T];
      for (int t = 0; t < T; ++t) {
        const int64_t column = left + t * a.stride_w + s * a.dilation_w;
        x[t] = (uint64_t)column < (uint64_t)a.w && t < live ? image + (y * a.w + column) * a.c : zeros;
      }
      if constexpr (Broadcast) broadcast_tap<T>(b, weight, x, acc);
      else permute_tap<T>(b, packed, weight, x, acc);
    }
  }
  const int64_t out = (row * a.q + pixel) * a.k + block * W;
  finish<T, 1>(a, acc, (float*)call.out + out, a.residual ? (const float*)call.in[1] + out : nullptr, a.k - block * W, live);
}

template <int T>
void run_rows(const Call& call, Range rows, Range some) {
  const Problem& a = *call.problem;
  for (int64_t i = some.begin; i < some.end; ++i) {
    const Block& b = ((const Block*)call.packed)[i];
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for (int64_t pixel = 0; pixel < a.q; pixel += T) {
        if (b.broadcast) tile<T, true>(call, b, i, row, pixel);
        else tile<T, false>(call, b, i, row, pixel);
      }
  }
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Bands cut = bands(a);
  const Range rows = range(a.n * a.p, cut.row_parts, job / cut.block_parts);
  const Range some = range(blocks(a), cut.block_parts, job % cut.block_parts);
  if (ceil_div(a.q, 7) * 7 < ceil_div(a.q, 8) * 8) run_rows<7>(call, rows, some);  // the width that leaves fewer pixels over
  else run_rows<8>(call, rows, some);
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel grouped;
const Kernel grouped = {"grouped", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
