// Block-sparse convolution and linear layers, N:M or dense inside the blocks, groups = 1: the skip list of blocks.h around
// the gather by permute of gather.h.
//
//   packed: zeros | bias | units
#include "../blocks.h"
#include "../gather.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

using Index = int32_t;

int64_t zeros_bytes(const Problem& a) { return align64(a.c * 4 + kSlack); }
int64_t bias_bytes(const Problem& a) { return align64(a.k * 4); }

bool accepts(const Problem& a, const Constants& c) {
  Blocks b;
  return read_blocks(a, c, &b);
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  Blocks b;
  read_blocks(a, c, &b);
  const Units u = units<float>(a, b, window_for(b.m), 1, kEntry<Index>);
  return zeros_bytes(a) + bias_bytes(a) + kUnitsBytes + a.k / u.width * u.bytes();
}

void pack(const Problem& a, const Constants& c, void* packed) {
  Blocks b;
  read_blocks(a, c, &b);
  std::memset(packed, 0, packed_bytes(a, c));
  uint8_t* bias = (uint8_t*)packed + zeros_bytes(a);
  if (const void* from = c.find("bias")) std::memcpy(bias, from, a.k * 4);
  const int64_t width = units<float>(a, b, window_for(b.m), 1, kEntry<Index>).width, stride = width / W * kEntry<Index>;
  pack_units<float>(a, b, window_for(b.m), 1, kEntry<Index>, bias + bias_bytes(a), [&](uint8_t* entries, const KeptList<float>* kept) {
    int64_t most = 1;
    for (int64_t o = 0; o < width; ++o) {
      for (int64_t i = 0; i < kept[o].count; ++i)
        put_kept<Index>(entries + i * stride + o / W * kEntry<Index>, o % W, kept[o].index[i], kept[o].value[i]);
      most = max64(most, kept[o].count);
    }
    return most;
  });
}

// The cut must not depend on the blocks, which run does not know: as for one weight kept of eight.
Cut plan(const Problem& a) {
  const double pairs = (double)a.n * a.p * a.q * ceil_div(a.k, W) * a.r * a.s * a.c / 8;
  return cut(a, kJobWidth, kTilePixels<float>, a.r * a.s * a.c * a.k, pairs * (kIsa == Isa::scalar ? 8 : 1.333));
}

int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return workspace_of<float>(a); }

template <int Window, int Vectors, int PB>
JT_INLINE void tile(const Problem& a, const float* bias, float* out, const float* residual, Unit l, const float* const* table) {
  f32v acc[PB][Vectors];
  start(bias, acc);
  do {
    const Visit v = *l.visits++;
    const float* const* pixels = table + v.tap * kTilePixels<float>;
    l.entries = gather_window<Index, Window, Vectors, PB, Vectors>(acc, pixels, v.window * Window, l.entries, v.entries);
  } while (--l.count);
  finish<PB, Vectors>(a, acc, out, residual, Vectors * W);
}

template <int Window, int Vectors>
void run_units(const Call& call, const Units& u, const float* bias, const uint8_t* packed, const Piece& at) {
  const Problem& a = *call.problem;
  const float* image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
  for_units<float>(call, u, at, image, (const float*)call.packed, [&](int64_t i, auto count, int64_t pixel, const float* const* table) {
    const int64_t to = (at.image * a.p * a.q + pixel) * a.k + i * u.width;
    const float* residual = a.residual ? (const float*)call.in[1] + to : nullptr;
    tile<Window, Vectors, decltype(count)::value>(a, bias + i * u.width, (float*)call.out + to, residual, unit(packed, u, i), table);
  });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const uint8_t *bias = (const uint8_t*)call.packed + zeros_bytes(a), *packed = bias + bias_bytes(a);
  Units u;
  std::memcpy(&u, packed, sizeof u);
  const auto with = [&](auto window, auto vectors) {
    run_units<decltype(window)::value, decltype(vectors)::value>(call, u, (const float*)bias, packed, piece(plan(a), job));
  };
  const auto wide = [&](auto window) { u.width == W ? with(window, Count<1>()) : with(window, Count<kUnitVectors<float>>()); };
  u.window == W ? wide(Count<W>()) : wide(Count<kLane>());
}

// As nm, for the kept blocks alone.
double cost(const Problem& a, const Constants& c) {
  Blocks b;
  if (!read_blocks(a, c, &b)) return 0;
  const double pixels = (double)a.n * a.p * a.q;
  const double pairs = pixels * a.k / W * b.kept * b.per_block;
  const double loads = pixels * a.k / min64(b.rows, kUnitVectors<float> * W) * b.kept * max64(1, b.cols / window_for(b.m));
  return (pairs * gather_cycles(window_for(b.m)) + loads) / 0.9 + (double)a.k * b.kept * b.per_block;
}

}  // namespace

extern const Kernel block;
const Kernel block = {"block", "conv", "block", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
