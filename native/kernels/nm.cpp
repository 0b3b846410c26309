// N:M convolution and linear layers, groups = 1: gather by permute.
//
//   out[o] = act(bias[o] + Σ kept in[position] · value + residual)
//
// A register holds one window (gather.h) of a pixel at one stop (conv.h). N:M keeps the same number Q of weights per output channel in every window, so for W output channels at once
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

constexpr int kVectors = kIsa == Isa::scalar ? 1 : 2;  // vectors of output channels per block
constexpr int kPixels = kRegisters == 32 ? 8 : 4;      // pixels per tile
constexpr int64_t kWidth = kVectors * W;

Walk walk_of(const Problem& a) { return walk<float>(a, W); }
int64_t windows(const Problem& a, int64_t window) { return ceil_div(walk_of(a).length, window); }
int64_t steps(const Problem& a, int64_t window) { return walk_of(a).stops * windows(a, window); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }
int64_t zeros_bytes(const Problem& a) { return align64(a.c * 4 + kSlack); }
int64_t bias_bytes(const Problem& a) { return blocks(a) * kWidth * 4; }
int64_t counts_bytes(const Problem& a, int64_t window) { return align64(steps(a, window)); }

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && c.m > 0 && a.c % c.m == 0;
}

int64_t count(const Problem& a, const Constants& c, int64_t block, int64_t step) {
  const int64_t window = window_for(c.m), per_stop = windows(a, window);
  int64_t most = 1;
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    int64_t kept = 0;
    each_kept<float>(walk_of(a), c, o, step / per_stop, step % per_stop, window, [&](int64_t, float) { ++kept; });
    most = kept > most ? kept : most;
  }
  return most;
}

// What depends on n and m, stored first: run knows only the problem.
struct Header {
  int64_t block_bytes, window;
};
constexpr int64_t kHeaderBytes = align64(sizeof(Header));

Header header(const Problem& a, int64_t n, int64_t m) {
  const int64_t window = window_for(m), most = most_per_window(walk_of(a).length, window, n, m);
  return {counts_bytes(a, window) + align64(steps(a, window) * most * kVectors * kEntry<uint8_t>), window};
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  return kHeaderBytes + zeros_bytes(a) + bias_bytes(a) + blocks(a) * header(a, c.n, c.m).block_bytes;
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const Header h = header(a, c.n, c.m);
  std::memcpy(packed, &h, sizeof h);
  const int64_t per_stop = windows(a, h.window);
  uint8_t* bias = (uint8_t*)packed + kHeaderBytes + zeros_bytes(a);
  if (const void* b = c.find("bias")) std::memcpy(bias, b, a.k * 4);
  for (int64_t block = 0; block < blocks(a); ++block) {
    uint8_t* counts = bias + bias_bytes(a) + block * h.block_bytes;
    uint8_t* entry = counts + counts_bytes(a, h.window);
    for (int64_t step = 0; step < steps(a, h.window); ++step) {
      const int64_t q = count(a, c, block, step);
      counts[step] = (uint8_t)q;
      for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
        const int64_t lane = o % W, vector = o % kWidth / W;
        uint8_t* e = entry + vector * kEntry<uint8_t>;
        each_kept<float>(walk_of(a), c, o, step / per_stop, step % per_stop, h.window, [&](int64_t index, float value) {
          put_kept<uint8_t>(e, lane, index, value);
          e += kVectors * kEntry<uint8_t>;
        });
      }
      entry += q * kVectors * kEntry<uint8_t>;
    }
  }
}

// kept: of a window.
double cycles(const Problem& a, int64_t window, double kept) {
  const double pixels = (double)a.n * a.p * a.q, all = steps(a, window);
  return (pixels * ceil_div(a.k, W) * (all * kept * gather_cycles(window) + 4) + pixels * blocks(a) * all) / 0.9;
}

// The cut must not depend on n and m, which run does not know: as for one weight kept of four.
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k * 5 / 4, cycles(a, W, W / 4)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return table_bytes<float, kPixels>(a, walk_of(a)); }

struct Block {
  const float *bias, *residual;
  const uint8_t *counts, *entries;
  float* out;
  int64_t width;
};

// The loops need no test before their first round: it would cost a copy of all sums.
template <int Window, int PB, int OB>
JT_INLINE void tile(const Problem& a, const Block& b, int64_t stops, int64_t windows, int64_t pixel, const float* const* table) {
  f32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t *e = b.entries, *counts = b.counts;
  do {
    int64_t i = 0;
    do e = gather_window<uint8_t, Window, kVectors, PB, OB>(acc, table, i * Window, e, *counts++);
    while (++i != windows);
    table += kPixels;
  } while (--stops);
  finish<PB, OB>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, b.width);
}

template <int Window>
void run_blocks(const Call& call, const Header& h, const Piece& at) {
  const Problem& a = *call.problem;
  const Walk w = walk_of(a);
  const uint8_t* zeros = (const uint8_t*)call.packed + kHeaderBytes;
  const uint8_t* bias = zeros + zeros_bytes(a);
  const int64_t image_out = at.image * a.p * a.q * a.k;
  const float* image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  const auto block_at = [&](int64_t block) {
    const int64_t first = block * kWidth;
    Block b;
    b.bias = (const float*)bias + first;
    b.counts = bias + bias_bytes(a) + block * h.block_bytes;
    b.entries = b.counts + counts_bytes(a, Window);
    b.out = (float*)call.out + image_out + first;
    b.residual = a.residual ? (const float*)call.in[1] + image_out + first : nullptr;
    b.width = min64(kWidth, a.k - first);
    return b;
  };
  const int64_t per_stop = windows(a, Window);
  for_tiles<float, kPixels>(call, w, at, image, (const float*)zeros, block_at,
                            [&](const Block& b, auto count, int64_t pixel, const float* const* table) {
                              constexpr int PB = decltype(count)::value;
                              if (b.width <= W) tile<Window, PB, 1>(a, b, w.stops, per_stop, pixel, table);
                              else tile<Window, PB, kVectors>(a, b, w.stops, per_stop, pixel, table);
                            });
}

void run(const Call& call, int64_t job) {
  const Piece at = piece(plan(*call.problem), job);
  Header h;
  std::memcpy(&h, call.packed, sizeof h);
  h.window == W ? run_blocks<W>(call, h, at) : run_blocks<kLane>(call, h, at);
}

double cost(const Problem& a, const Constants& c) {
  const int64_t window = c.m ? window_for(c.m) : W;
  const double kept = c.m ? (double)most_per_window(walk_of(a).length, window, c.n, c.m) : W;
  return cycles(a, window, kept) + 5.0 * a.k * steps(a, window) * kept / 8;
}

}  // namespace

extern const Kernel nm;
const Kernel nm = {"nm", "conv", "nm", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
