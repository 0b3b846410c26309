// Block-sparse int8 convolution and linear layers, N:M or dense inside the blocks, groups = 1: the skip list of blocks.h
// around the gather by byte permute of gather_i8.h.
//
//   packed: head | units
#include "../blocks.h"
#include "../gather_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

Cut plan(const Problem& a) { return cut(a, kJobWidth, 8, a.r * a.s * a.c * a.k / 16); }

bool accepts(const Problem& a, const Constants& c) {
  Blocks b;
  return has_head(c) && read_blocks(a, c, &b);
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  Blocks b;
  read_blocks(a, c, &b);
  const Units u = units(a, b, kWindow, 4, kEntry);
  return head(a, kJobWidth).bytes + kUnitsBytes + a.k / u.width * u.bytes();
}

void pack(const Problem& a, const Constants& c, void* packed) {
  Blocks b;
  read_blocks(a, c, &b);
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kJobWidth);
  pack_head(a, c, h, (uint8_t*)packed);
  pack_units<int8_t>(a, b, kWindow, 4, kEntry, (uint8_t*)packed + h.bytes, put_kept);
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

template <int Vectors, int PB>
JT_INLINE void accumulate(const Problem& a, const BlockI8& b, const Tile<uint8_t, PB>& t, Unit l, int64_t pixel) {
  i32v acc[PB][Vectors];
  for (int o = 0; o < Vectors; ++o) {
    const i32v bias = load_i32(b.bias + o * W);
    for (int p = 0; p < PB; ++p) acc[p][o] = bias;
  }
  const uint8_t *in[PB], *at[PB];
  for (int64_t r = 0; r < a.r; ++r)
    for (int64_t s = 0; s < a.s; ++s) {
      int64_t left = *l.taps++;
      if (left == 0) continue;
      tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.padding, in);
      for (; left > 0; --left) {
        for (int p = 0; p < PB; ++p) at[p] = in[p] + *l.windows * kWindow;
        ++l.windows;
        l.entries = gather_tap<Vectors, PB, Vectors>(acc, at, l.entries, l.counts++, 1);
      }
    }
  finish_i8<PB, Vectors>(a, b, acc, pixel);
}

// `count` units from `first` on. b: of the first of them.
template <int Vectors, int PB>
void tile(const Problem& a, BlockI8 b, const uint8_t* packed, const Units& u, int64_t first, int64_t count, int64_t pixel) {
  Tile<uint8_t, PB> t;
  locate(a, b.image, pixel, &t);
  for (int64_t i = 0; i < count; ++i) {
    accumulate<Vectors, PB>(a, b, t, unit(packed, u, first + i), pixel);
    b.bias += u.width;
    b.multiplier += u.width;
    b.out = (uint8_t*)b.out + u.width * (b.end.u8 ? 1 : 4);
    if (b.residual) b.residual += u.width;
  }
}

template <int Vectors>
void pixels_of(const Problem& a, const BlockI8& b, const uint8_t* packed, const Units& u, int64_t first, int64_t count, const Piece& at) {
  constexpr int kPixels = kRegisters == 32 ? (Vectors == 1 ? 12 : 8) : 4;
  for_tiles<kPixels>(at.first_pixel, at.last_pixel,
                     [&](auto n, int64_t pixel) { tile<Vectors, decltype(n)::value>(a, b, packed, u, first, count, pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Head h = head(a, kJobWidth);
  const uint8_t* packed = (const uint8_t*)call.packed + h.bytes;
  Units u;
  std::memcpy(&u, packed, sizeof u);
  const int64_t begin = at.block * kJobWidth / u.width, end = min64(a.k, (at.block + 1) * kJobWidth) / u.width;
  for (int64_t first = begin; first < end; first += group_of(u)) {
    const int64_t count = min64(group_of(u), end - first);
    const BlockI8 b = block_of(call, h, {at.image, at.first_pixel, at.last_pixel, first}, u.width);
    if (u.width == W) pixels_of<1>(a, b, packed, u, first, count, at);
    else pixels_of<kUnitVectors>(a, b, packed, u, first, count, at);
  }
}

// As nm_i8, for the kept blocks alone.
double cost(const Problem& a, const Constants& c) {
  Blocks b;
  if (!read_blocks(a, c, &b)) return 0;
  const double pixels = (double)a.n * a.p * a.q, quads = b.kept * b.per_block / 4.0;
  const double pairs = pixels * a.k / W * quads;
  const double loads = pixels * a.k / min64(b.rows, kUnitVectors * W) * b.kept * max64(1, b.cols / kWindow);
  const double cycles = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 2.0 : 16.0;
  return (pairs * cycles + loads) / 0.9 + 8.0 * a.k * quads / 8;
}

}  // namespace

extern const Kernel block_i8;
const Kernel block_i8 = {"block_i8", "conv", "block", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
