// Block-sparse convolution and linear layers, N:M or dense inside the blocks, groups = 1: the skip list of blocks.h around
// the gather by permute of gather.h.
//
//   packed: zeros | bias | units
#include "../blocks.h"
#include "../gather.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t zeros_bytes(const Problem& a) { return align64(a.c * 4 + kSlack); }
int64_t bias_bytes(const Problem& a) { return align64(a.k * 4); }
Cut plan(const Problem& a) { return cut(a, kJobWidth, 8, a.r * a.s * a.c * a.k / 4); }

bool accepts(const Problem& a, const Constants& c) {
  Blocks b;
  return read_blocks(a, c, &b);
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  Blocks b;
  read_blocks(a, c, &b);
  const Units u = units(a, b, W, 1, kEntry);
  return zeros_bytes(a) + bias_bytes(a) + kUnitsBytes + a.k / u.width * u.bytes();
}

void pack(const Problem& a, const Constants& c, void* packed) {
  Blocks b;
  read_blocks(a, c, &b);
  std::memset(packed, 0, packed_bytes(a, c));
  uint8_t* bias = (uint8_t*)packed + zeros_bytes(a);
  if (const void* from = c.find("bias")) std::memcpy(bias, from, a.k * 4);
  pack_units<float>(a, b, W, 1, kEntry, bias + bias_bytes(a),
                    [](uint8_t* entry, int64_t lane, int64_t, int64_t index, float value) { put_kept(entry, lane, index, value); });
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

struct Block {
  const float *zeros, *bias, *image, *residual;
  float* out;
};

template <int Vectors, int PB>
JT_INLINE void accumulate(const Problem& a, const Block& b, const Tile<float, PB>& t, Unit l, int64_t pixel) {
  f32v acc[PB][Vectors];
  for (int o = 0; o < Vectors; ++o) {
    const f32v bias = load(b.bias + o * W);
    for (int p = 0; p < PB; ++p) acc[p][o] = bias;
  }
  const float *in[PB], *at[PB];
  for (int64_t r = 0; r < a.r; ++r)
    for (int64_t s = 0; s < a.s; ++s) {
      int64_t left = *l.taps++;
      if (left == 0) continue;
      tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.zeros, in);
      for (; left > 0; --left) {
        for (int p = 0; p < PB; ++p) at[p] = in[p] + *l.windows * W;
        ++l.windows;
        l.entries = gather_tap<Vectors, PB, Vectors>(acc, at, l.entries, l.counts++, 1);
      }
    }
  finish<PB, Vectors>(a, acc, b.out + pixel * a.k, b.residual ? b.residual + pixel * a.k : nullptr, Vectors * W);
}

// `count` units from `first` on. b: of the first of them.
template <int Vectors, int PB>
void tile(const Problem& a, Block b, const uint8_t* packed, const Units& u, int64_t first, int64_t count, int64_t pixel) {
  Tile<float, PB> t;
  locate(a, b.image, pixel, &t);
  for (int64_t i = 0; i < count; ++i) {
    accumulate<Vectors, PB>(a, b, t, unit(packed, u, first + i), pixel);
    b.bias += u.width;
    b.out += u.width;
    if (b.residual) b.residual += u.width;
  }
}

template <int Vectors>
void pixels_of(const Problem& a, const Block& b, const uint8_t* packed, const Units& u, int64_t first, int64_t count, const Piece& at) {
  constexpr int kPixels = kRegisters == 32 ? (Vectors == 1 ? 12 : 8) : 4;
  for_tiles<kPixels>(at.first_pixel, at.last_pixel,
                     [&](auto n, int64_t pixel) { tile<Vectors, decltype(n)::value>(a, b, packed, u, first, count, pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const uint8_t *bias = (const uint8_t*)call.packed + zeros_bytes(a), *packed = bias + bias_bytes(a);
  Units u;
  std::memcpy(&u, packed, sizeof u);
  const int64_t begin = at.block * kJobWidth / u.width, end = min64(a.k, (at.block + 1) * kJobWidth) / u.width;
  for (int64_t first = begin; first < end; first += group_of(u)) {
    const int64_t channel = first * u.width, image_out = at.image * a.p * a.q * a.k + channel, count = min64(group_of(u), end - first);
    Block b;
    b.zeros = (const float*)call.packed;
    b.bias = (const float*)bias + channel;
    b.image = (const float*)call.in[0] + at.image * a.h * a.w * a.c;
    b.out = (float*)call.out + image_out;
    b.residual = a.residual ? (const float*)call.in[1] + image_out : nullptr;
    if (u.width == W) pixels_of<1>(a, b, packed, u, first, count, at);
    else pixels_of<kUnitVectors>(a, b, packed, u, first, count, at);
  }
}

// As nm, for the kept blocks alone.
double cost(const Problem& a, const Constants& c) {
  Blocks b;
  if (!read_blocks(a, c, &b)) return 0;
  const double pixels = (double)a.n * a.p * a.q;
  const double pairs = pixels * a.k / W * b.kept * b.per_block;
  const double loads = pixels * a.k / min64(b.rows, kUnitVectors * W) * b.kept * max64(1, b.cols / W);
  const double cycles = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 1.0 : 8.0;
  return (pairs * cycles + loads) / 0.9 + 5.0 * a.k * b.kept * b.per_block / 8;
}

}  // namespace

extern const Kernel block;
const Kernel block = {"block", "conv", "block", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
