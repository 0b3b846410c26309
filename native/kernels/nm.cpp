// N:M convolution and linear layers, groups = 1: gather by permute.
//
//   out[o] = act(bias[o] + Σ kept in[position] · value + residual)
//
// A register holds one window: W consecutive input channels of a pixel at one tap. N:M keeps the same
// number Q of weights per output channel in every window, so for W output channels at once
//
//   acc[pixel][W outputs] += permute(index, window[pixel]) · value        Q times a window
//
// is W kept multiply-adds without a wasted lane, whatever the pattern; index and value are loaded
// once for all PB pixels of a tile. Where groups straddle windows (M = 3, 5, 6 …) Q is the largest
// count in the block and the rest is filled with zero values: still right, less fast.
//
//   packed: bytes of a block | zeros | bias | per block: counts (r·s·windows bytes) | per window, q, vector: W index bytes, W values
#include "../gather.h"
#include "../kept.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 2 : 1;  // vectors of output channels per block
constexpr int kPixels = kRegisters == 32 ? 8 : 4;   // pixels per tile
constexpr int64_t kWidth = kVectors * W;

int64_t windows(const Problem& a) { return ceil_div(a.c, W); }
int64_t steps(const Problem& a) { return a.r * a.s * windows(a); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }
int64_t zeros_bytes(const Problem& a) { return align64(a.c * 4 + kSlack); }
int64_t bias_bytes(const Problem& a) { return blocks(a) * kWidth * 4; }
int64_t counts_bytes(const Problem& a) { return align64(steps(a)); }

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && c.m > 0 && a.c % c.m == 0;
}

int64_t count(const Problem& a, const Constants& c, int64_t block, int64_t step) {
  int64_t most = 0;
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    int64_t kept = 0;
    each_kept<float>(a, c, o, step / windows(a), step % windows(a), W, [&](int64_t, float) { ++kept; });
    most = kept > most ? kept : most;
  }
  return most;
}

int64_t block_bytes(const Problem& a, int64_t n, int64_t m) {
  return counts_bytes(a) + align64(steps(a) * most_per_window(a.c, W, n, m) * kVectors * kEntry);
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
        uint8_t* e = entry + vector * kEntry;
        each_kept<float>(a, c, o, step / windows(a), step % windows(a), W, [&](int64_t index, float value) {
          put_kept(e, lane, index, value);
          e += kVectors * kEntry;
        });
      }
      entry += q * kVectors * kEntry;
    }
  }
}

// The cut must not depend on n and m either: one byte per dense weight stands for the packed size.
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k); }

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

struct Block {
  const float *zeros, *bias, *image, *residual;
  const uint8_t *counts, *entries;
  float* out;
  int64_t width;
};

template <int PB, int OB>
void tile(const Problem& a, const Block& b, int64_t pixel) {
  Tile<float, PB> t;
  locate(a, b.image, pixel, &t);
  f32v acc[PB][OB];
  for (int o = 0; o < OB; ++o) {
    const f32v bias = load(b.bias + o * W);
    for (int p = 0; p < PB; ++p) acc[p][o] = bias;
  }
  const uint8_t *e = b.entries, *counts = b.counts;
  const int64_t per_tap = windows(a);
  const float* in[PB];
  for (int64_t r = 0; r < a.r; ++r)
    for (int64_t s = 0; s < a.s; ++s) {
      tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.zeros, in);
      e = gather_tap<kVectors, PB, OB>(acc, in, e, counts, per_tap);
      counts += per_tap;
    }
  finish<PB, OB>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, b.width);
}

template <int OB>
void pixels_of(const Problem& a, const Block& b, const Piece& at) {
  for_tiles<kPixels>(at.first_pixel, at.last_pixel, [&](auto n, int64_t pixel) { tile<decltype(n)::value, OB>(a, b, pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Cut c = plan(a);
  const Piece at = piece(c, job);
  int64_t stride;
  std::memcpy(&stride, call.packed, sizeof stride);
  const uint8_t* zeros = (const uint8_t*)call.packed + kHeaderBytes;
  const uint8_t* bias = zeros + zeros_bytes(a);
  const int64_t first = at.block * kWidth, image_out = at.image * a.p * a.q * a.k;
  Block b;
  b.zeros = (const float*)zeros;
  b.bias = (const float*)bias + first;
  b.counts = bias + bias_bytes(a) + at.block * stride;
  b.entries = b.counts + counts_bytes(a);
  b.image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  b.out = (float*)call.out + image_out + first;
  b.residual = a.residual ? (const float*)call.in[1] + image_out + first : nullptr;
  b.width = min64(kWidth, a.k - first);
  if (kVectors == 1 || b.width <= W) return pixels_of<1>(a, b, at);
  return pixels_of<kVectors>(a, b, at);
}

// A permute and a multiply-add take 4/3 of a cycle together (KERNELS: 2.7 of 3.6 per nanosecond).
double cost(const Problem& a, const Constants& c) {
  const double kept = c.m ? (double)most_per_window(a.c, W, c.n, c.m) : W;
  const double pairs = (double)a.n * a.p * a.q * ceil_div(a.k, W) * steps(a) * kept;
  const double loads = (double)a.n * a.p * a.q * blocks(a) * steps(a);
  const double cycles = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 1.0 : 8.0;
  return (pairs * cycles + loads) / 0.9 + 5.0 * a.k * steps(a) * kept / 8;
}

}  // namespace

extern const Kernel nm;
const Kernel nm = {"nm", "conv", "nm", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
