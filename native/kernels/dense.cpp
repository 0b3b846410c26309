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

Walk walk_of(const Problem& a) { return walk<float>(a, 16); }

// One vector multiply-add a cycle with AVX-512, two of half the size without.
double cycles(const Problem& a) {
  const double per_cycle = kIsa == Isa::avx512 ? 1.0 : 2.0;
  return (double)a.n * a.p * a.q * ceil_div(a.k, W) * (reduction(a) / per_cycle / 0.9 + 4);
}

Cut plan(const Problem& a) { return cut(a, vectors(a) * W, kSums / vectors(a), reduction(a) * a.k * 4, cycles(a)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }

int64_t workspace_bytes(const Problem& a) {
  return vectors(a) == kWide ? table_bytes<float, kSums / kWide>(a, walk_of(a)) : table_bytes<float, kSums / kNarrow>(a, walk_of(a));
}

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

struct Block {
  const float *bias, *weights, *residual;
  float* out;
  int64_t width, stride;  // channels to store, floats between weight rows
};

template <int PB, int OB>
JT_INLINE void tile(const Problem& a, const Block& b, const Walk& walk, int64_t most, int64_t pixel, const float* const* table) {
  f32v acc[PB][OB];
  start(b.bias, acc);
  const float* w = b.weights;
  int64_t stops = walk.stops;
  do {
    const float* in[PB];
    times<PB>([&](auto p) JT_FLAT { in[p] = table[p]; });
    int64_t i = 0;
    do {
      f32v weight[OB];
      times<OB>([&](auto o) JT_FLAT { weight[o] = load(w + o * W); });
      times<PB>([&](auto p) JT_FLAT {
        const f32v x = set1(in[p][i]);
        times<OB>([&](auto o) JT_FLAT { acc[p][o] = fma(x, weight[o], acc[p][o]); });
      });
      w += b.stride;
    } while (++i != walk.length);
    table += most;
  } while (--stops);
  finish<PB, OB>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, b.width);
}

// Vectors: of channels per block.
template <int Vectors>
void run_blocks(const Call& call, const Piece& at) {
  constexpr int kMost = kSums / Vectors;
  const Problem& a = *call.problem;
  const Walk w = walk_of(a);
  const float* zeros = (const float*)call.packed;
  const float* bias = zeros + zeros_floats(a);
  const float* image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  const int64_t image_out = at.image * a.p * a.q * a.k;
  const auto block_at = [&](int64_t block) {
    const int64_t first = block * Vectors * W;
    Block b;
    b.bias = bias + first;
    b.weights = bias + padded_k(a) + reduction(a) * first;
    b.out = (float*)call.out + image_out + first;
    b.residual = a.residual ? (const float*)call.in[1] + image_out + first : nullptr;
    b.width = min64(Vectors * W, a.k - first);
    b.stride = Vectors * W;
    return b;
  };
  for_tiles<float, kMost>(call, w, at, image, zeros, block_at, [&](const Block& b, auto count, int64_t pixel, const float* const* table) {
    with_count<Vectors>(ceil_div(b.width, W),
                        [&](auto n) { tile<decltype(count)::value, decltype(n)::value>(a, b, w, kMost, pixel, table); });
  });
}

void run(const Call& call, int64_t job) {
  const Piece at = piece(plan(*call.problem), job);
  if (vectors(*call.problem) == kWide) run_blocks<kWide>(call, at);
  else run_blocks<kNarrow>(call, at);
}

// The weights come once from beyond L2, at 8 bytes a cycle.
double cost(const Problem& a, const Constants&) { return cycles(a) + 4.0 * reduction(a) * a.k / 8; }

}  // namespace

extern const Kernel dense;
const Kernel dense = {"dense", "conv", "dense", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
