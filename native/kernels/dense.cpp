// Dense convolution and linear layers, groups = 1.
//
//   out[y, x, o] = act(bias[o] + Σ_r Σ_s Σ_c in[y·stride + r·dilation − pad, …, c] · weight[o, r, s, c] + residual)
//
// A tile of PB pixels × OB·W output channels lives in registers; per input channel OB vectors of
// weights are loaded and PB input values broadcast:
//
//            c → ┌ w[0] … w[OB−1] ┐   weights of this channel, packed [block][r][s][c][OB·W]
//   in[pixel 0] │ acc … acc      │
//   in[pixel 1] │ acc … acc      │   PB·OB multiply-adds for PB + OB loads
//
// AVX-512: 6 × 4 (24 sums of 32 registers); 12 × 2 when a block of 4 vectors of weights would not stay in L2.
#include "../conv.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kWide = kRegisters == 32 ? 4 : 2;    // vectors of channels per block …
constexpr int kNarrow = kRegisters == 32 ? 2 : 1;  // … or for large reductions
constexpr int kSums = kRegisters == 32 ? 24 : 12;  // sums kept in registers
constexpr int64_t kL2 = 640 << 10;

int64_t reduction(const Problem& a) { return a.r * a.s * a.c; }

int vectors(const Problem& a) {
  if (a.k <= kNarrow * W) return kNarrow;
  return reduction(a) * kWide * W * 4 > kL2 ? kNarrow : kWide;
}

Cut plan(const Problem& a) { return cut(a, vectors(a) * W, kSums / vectors(a), reduction(a) * a.k * 4); }

bool accepts(const Problem& a, const Constants& c) { return a.groups == 1 && c.find("weight") != nullptr; }

// packed: zeros (c + slack) | bias (padded k) | weights
int64_t zeros_floats(const Problem& a) { return align64(a.c * 4 + kSlack) / 4; }
int64_t padded_k(const Problem& a) { return ceil_div(a.k, vectors(a) * W) * vectors(a) * W; }

int64_t packed_bytes(const Problem& a, const Constants&) { return 4 * (zeros_floats(a) + padded_k(a) + reduction(a) * padded_k(a)); }

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  float* bias = (float*)packed + zeros_floats(a);
  float* out = bias + padded_k(a);
  if (const float* b = (const float*)c.find("bias")) std::memcpy(bias, b, a.k * 4);
  const float* weight = (const float*)c.find("weight");
  const int64_t width = vectors(a) * W, depth = reduction(a);
  for (int64_t o = 0; o < a.k; ++o) {
    float* column = out + (o / width) * depth * width + o % width;
    for (int64_t i = 0; i < depth; ++i) column[i * width] = weight[o * depth + i];
  }
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

// acc += Σ over `length` consecutive inputs; weights advance by OBP vectors per input (OBP ≥ OB: padded block).
template <int PB, int OB>
JT_INLINE const float* accumulate(f32v (&acc)[PB][OB], const float* const (&in)[PB], const float* w, int64_t length, int64_t stride) {
#pragma GCC unroll 2
  for (int64_t i = 0; i < length; ++i) {
    f32v weight[OB];
    for (int o = 0; o < OB; ++o) weight[o] = load(w + o * W);
    for (int p = 0; p < PB; ++p) {
      const f32v x = set1(in[p][i]);
      for (int o = 0; o < OB; ++o) acc[p][o] = fma(x, weight[o], acc[p][o]);
    }
    w += stride;
  }
  return w;
}

struct Block {
  const float *zeros, *bias, *weights, *residual;
  float* out;
  const float* image;
  int64_t width, stride;  // channels to store, floats between weight rows
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
  const float* w = b.weights;
  const float* in[PB];
  if (t.inside && a.dilation_w == 1) {  // a kernel row's s·c inputs are consecutive
    for (int64_t r = 0; r < a.r; ++r) {
      for (int p = 0; p < PB; ++p) in[p] = t.base[p] + r * a.dilation_h * a.w * a.c;
      w = accumulate<PB, OB>(acc, in, w, a.s * a.c, b.stride);
    }
  } else {
    for (int64_t r = 0; r < a.r; ++r)
      for (int64_t s = 0; s < a.s; ++s) {
        tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.zeros, in);
        w = accumulate<PB, OB>(acc, in, w, a.c, b.stride);
      }
  }
  finish<PB, OB>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, b.width);
}

template <int OB>
void pixels_of(const Problem& a, const Block& b, const Piece& at) {
  constexpr int kMost = kSums / OB > 12 ? 12 : kSums / OB;
  for_tiles<kMost>(at.first_pixel, at.last_pixel, [&](auto n, int64_t pixel) { tile<decltype(n)::value, OB>(a, b, pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Cut c = plan(a);
  const Piece at = piece(c, job);
  const float* zeros = (const float*)call.packed;
  const float* bias = zeros + zeros_floats(a);
  const int64_t first = at.block * c.block_width, image_out = at.image * a.p * a.q * a.k;
  Block b;
  b.zeros = zeros;
  b.bias = bias + first;
  b.weights = bias + padded_k(a) + at.block * reduction(a) * c.block_width;
  b.image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  b.out = (float*)call.out + image_out + first;
  b.residual = a.residual ? (const float*)call.in[1] + image_out + first : nullptr;
  b.width = min64(c.block_width, a.k - first);
  b.stride = c.block_width;
  switch (ceil_div(b.width, W)) {
    case 1:
      return pixels_of<1>(a, b, at);
    case 2:
      return pixels_of<2>(a, b, at);
#if defined(JETTISON_AVX512)
    case 3:
      return pixels_of<3>(a, b, at);
    default:
      return pixels_of<4>(a, b, at);
#endif
  }
}

// One vector multiply-add a cycle, 90% of it reached, and the weights once from beyond L2 at 8 bytes a cycle.
double cost(const Problem& a, const Constants&) {
  const double fmas = (double)a.n * a.p * a.q * padded_k(a) / W * reduction(a);
  const double per_cycle = kIsa == Isa::avx512 ? 1.0 : 2.0;
  return fmas / per_cycle / 0.9 + 4.0 * reduction(a) * a.k / 8;
}

}  // namespace

extern const Kernel dense;
const Kernel dense = {"dense", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
