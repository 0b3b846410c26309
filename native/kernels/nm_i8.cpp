// N:M int8 convolution and linear layers, groups = 1: gather by byte permute (gather_i8.h).
//
// Every output channel keeps the same number of weights in each window, so a step is 4·W kept multiply-adds with
// no wasted lane, whatever the pattern.
//
//   packed: head | bytes of a block | per block: counts | entries
#include "../gather_i8.h"
#include "../kept.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 2 : 1;
constexpr int kPixels = kRegisters == 32 ? 8 : 4;
constexpr int64_t kWidth = kVectors * W;
constexpr int64_t kHeaderBytes = 64;

int64_t windows(const Problem& a) { return ceil_div(a.c, kWindow); }
int64_t steps(const Problem& a) { return a.r * a.s * windows(a); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }
int64_t counts_bytes(const Problem& a) { return align64(steps(a)); }
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k / 4); }

int64_t most_quads(const Problem& a, const Constants& c) { return ceil_div(most_per_window(a.c, kWindow, c.n, c.m), 4); }
int64_t block_bytes(const Problem& a, const Constants& c) {
  return counts_bytes(a) + align64(steps(a) * most_quads(a, c) * kVectors * kEntry);
}

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && has_head(c) && c.m > 0 && a.c % c.m == 0;
}

int64_t packed_bytes(const Problem& a, const Constants& c) { return head(a, kWidth).bytes + kHeaderBytes + blocks(a) * block_bytes(a, c); }

// Four kept weights of the window to a quad; the fullest output channel of the block decides how many quads.
int64_t pack_window(const Problem& a, const Constants& c, int64_t block, int64_t step, uint8_t* entry) {
  int64_t quads = 0;
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    const int64_t lane = o % W, vector = o % kWidth / W;
    int64_t kept = 0;
    each_kept<int8_t>(a, c, o, step / windows(a), step % windows(a), kWindow, [&](int64_t index, int8_t value) {
      uint8_t* e = entry + (kept / 4 * kVectors + vector) * kEntry;
      put_kept(e, lane, kept++ % 4, index, value);
    });
    quads = max64(quads, ceil_div(kept, 4));
  }
  return quads;
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kWidth);
  pack_head(a, c, h, (uint8_t*)packed);
  const int64_t stride = block_bytes(a, c);
  uint8_t* at = (uint8_t*)packed + h.bytes;
  std::memcpy(at, &stride, sizeof stride);
  at += kHeaderBytes;
  for (int64_t block = 0; block < blocks(a); ++block, at += stride) {
    uint8_t* entry = at + counts_bytes(a);
    for (int64_t step = 0; step < steps(a); ++step) {
      at[step] = (uint8_t)pack_window(a, c, block, step, entry);
      entry += at[step] * kVectors * kEntry;
    }
  }
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

template <int OB>
void pixels_of(const Problem& a, const BlockI8& b, const Piece& at) {
  for_tiles<kPixels>(at.first_pixel, at.last_pixel,
                     [&](auto n, int64_t pixel) { gather_tile<kVectors, decltype(n)::value, OB>(a, b, windows(a), pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Head h = head(a, kWidth);
  const uint8_t* packed = (const uint8_t*)call.packed + h.bytes;
  int64_t stride;
  std::memcpy(&stride, packed, sizeof stride);
  BlockI8 b = block_of(call, h, at, kWidth);
  b.counts = packed + kHeaderBytes + at.block * stride;
  b.weights = b.counts + counts_bytes(a);
  if (kVectors == 1 || b.width <= W) return pixels_of<1>(a, b, at);
  return pixels_of<kVectors>(a, b, at);
}

// A permute and a dot take 4/3 of a cycle together.
double cost(const Problem& a, const Constants& c) {
  const double quads = c.m ? (double)most_quads(a, c) : kWindow / 4;
  const double pairs = (double)a.n * a.p * a.q * ceil_div(a.k, W) * steps(a) * quads;
  const double loads = (double)a.n * a.p * a.q * blocks(a) * steps(a);
  const double cycles = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 2.0 : 16.0;
  return (pairs * cycles + loads) / 0.9 + 8.0 * a.k * steps(a) * quads / 8;
}

}  // namespace

extern const Kernel nm_i8;
const Kernel nm_i8 = {"nm_i8", "conv", "nm", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
