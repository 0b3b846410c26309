// N:M convolution and linear layers, groups = 1: gather by permute.
//
//   out[o] = act(bias[o] + Σ kept in[position] · value + residual)
//
// A register holds one window: W consecutive inputs of a pixel at one stop (conv.h). N:M keeps the same
// number Q of weights per output channel in every window, so for W output channels at once
//
//   acc[pixel][W outputs] += permute(index, window[pixel]) · value        Q times a window
//
// is W kept multiply-adds without a wasted lane, whatever the pattern; index and value are loaded
// once for all PB pixels of a tile. Where groups straddle windows (M = 3, 5, 6 …) Q is the largest
// count in the block and the rest is filled with zero values: still right, less fast.
//
//   packed: bytes of a block | zeros | bias | per block: counts (stops·windows bytes) | per window, q, vector: W index bytes, W values
#include "../gather.h"
#include "../kept.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 2 : 1;  // vectors of output channels per block
constexpr int kPixels = kRegisters == 32 ? 8 : 4;   // pixels per tile
constexpr int64_t kWidth = kVectors * W;

Walk walk_of(const Problem& a) { return walk<float>(a, W); }
int64_t windows(const Problem& a) { return ceil_div(walk_of(a).length, W); }
int64_t steps(const Problem& a) { return walk_of(a).stops * windows(a); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }
int64_t zeros_bytes(const Problem& a) { return align64(a.c * 4 + kSlack); }
int64_t bias_bytes(const Problem& a) { return blocks(a) * kWidth * 4; }
int64_t counts_bytes(const Problem& a) { return align64(steps(a)); }

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && c.m > 0 && a.c % c.m == 0;
}

int64_t count(const Problem& a, const Constants& c, int64_t block, int64_t step) {
  int64_t most = 1;
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    int64_t kept = 0;
    each_kept<float>(walk_of(a), c, o, step / windows(a), step % windows(a), W, [&](int64_t, float) { ++kept; });
    most = kept > most ? kept : most;
  }
  return most;
}

int64_t block_bytes(const Problem& a, int64_t n, int64_t m) {
  return counts_bytes(a) + align64(steps(a) * most_per_window(walk_of(a).length, W, n, m) * kVectors * kEntry<uint8_t>);
}

// Bytes of a block, which depend on n and m: run knows only the problem and reads them here.
constexpr int64_t kHeaderBytes = 64;

int64_t packed_bytes(const Problem& a, const Constants& c) {
  return kHeaderBytes + zeros_bytes(a) + bias_bytes(a) + blocks(a) * block_bytes(a, c.n, c.m);
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const int64_t stride = block_bytes(a, c.n, c.m);
  std::memcpy(packed, &stride, sizeof stride);
  uint8_t* bias = (uint8_t*)packed + kHeaderBytes + zeros_bytes(a);
  if (const void* b = c.find("bias")) std::memcpy(bias, b, a.k * 4);
  for (int64_t block = 0; block < blocks(a); ++block) {
    uint8_t* counts = bias + bias_bytes(a) + block * stride;
    uint8_t* entry = counts + counts_bytes(a);
    for (int64_t step = 0; step < steps(a); ++step) {
      const int64_t q = count(a, c, block, step);
      counts[step] = (uint8_t)q;
      for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
        const int64_t lane = o % W, vector = o % kWidth / W;
        uint8_t* e = entry + vector * kEntry<uint8_t>;
        each_kept<float>(walk_of(a), c, o, step / windows(a), step % windows(a), W, [&](int64_t index, float value) {
          put_kept<uint8_t>(e, lane, index, value);
          e += kVectors * kEntry<uint8_t>;
        });
      }
      entry += q * kVectors * kEntry<uint8_t>;
    }
  }
}

// A permute and a multiply-add take 4/3 of a cycle together.
double cycles(const Problem& a, double kept) {
  const double pixels = (double)a.n * a.p * a.q, per_pair = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 1.0 : 8.0;
  return (pixels * ceil_div(a.k, W) * (steps(a) * kept * per_pair + 4) + pixels * blocks(a) * steps(a)) / 0.9;
}

// The cut must not depend on n and m, which run does not know: as for one weight kept of four.
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k * 5 / 4, cycles(a, W / 4)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return table_bytes<float, kPixels>(a, walk_of(a)); }

struct Block {
  const float *bias, *residual;
  const uint8_t *counts, *entries;
  float* out;
  int64_t width;
};

// The loops need no test before their first round: it would cost a copy of all sums.
template <int PB, int OB>
JT_INLINE void tile(const Problem& a, const Block& b, int64_t stops, int64_t windows, int64_t pixel, const float* const* table) {
  f32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t *e = b.entries, *counts = b.counts;
  do {
    int64_t i = 0;
    do e = gather_window<uint8_t, kVectors, PB, OB>(acc, table, i * W, e, *counts++);
    while (++i != windows);
    table += kPixels;
  } while (--stops);
  finish<PB, OB>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, b.width);
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Walk w = walk_of(a);
  int64_t stride;
  std::memcpy(&stride, call.packed, sizeof stride);
  const uint8_t* zeros = (const uint8_t*)call.packed + kHeaderBytes;
  const uint8_t* bias = zeros + zeros_bytes(a);
  const int64_t image_out = at.image * a.p * a.q * a.k;
  const float* image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  const auto block_at = [&](int64_t block) {
    const int64_t first = block * kWidth;
    Block b;
    b.bias = (const float*)bias + first;
    b.counts = bias + bias_bytes(a) + block * stride;
    b.entries = b.counts + counts_bytes(a);
    b.out = (float*)call.out + image_out + first;
    b.residual = a.residual ? (const float*)call.in[1] + image_out + first : nullptr;
    b.width = min64(kWidth, a.k - first);
    return b;
  };
  const int64_t per_stop = windows(a);
  for_tiles<float, kPixels>(call, w, at, image, (const float*)zeros, block_at,
                            [&](const Block& b, auto count, int64_t pixel, const float* const* table) {
                              constexpr int PB = decltype(count)::value;
                              if (b.width <= W) tile<PB, 1>(a, b, w.stops, per_stop, pixel, table);
                              else tile<PB, kVectors>(a, b, w.stops, per_stop, pixel, table);
                            });
}

double cost(const Problem& a, const Constants& c) {
  const double kept = c.m ? (double)most_per_window(walk_of(a).length, W, c.n, c.m) : W;
  return cycles(a, kept) + 5.0 * a.k * steps(a) * kept / 8;
}

}  // namespace

extern const Kernel nm;
const Kernel nm = {"nm", "conv", "nm", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
