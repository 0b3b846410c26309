// Block-sparse int8 convolution and linear layers, N:M or dense inside the blocks, groups = 1: the skip list of blocks.h
// around the gather by byte permute of gather_i8.h.
//
//   packed: head | units
#include "../blocks.h"
#include "../gather_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool accepts(const Problem& a, const Constants& c) {
  Blocks b;
  return has_head(c) && read_blocks(a, c, &b);
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  Blocks b;
  read_blocks(a, c, &b);
  const Units u = units<int8_t>(a, b, kWindow, kEntryHolds, kEntry);
  return head(a, kJobWidth).bytes + kUnitsBytes + a.k / u.width * u.bytes();
}

void pack(const Problem& a, const Constants& c, void* packed) {
  Blocks b;
  read_blocks(a, c, &b);
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kJobWidth);
  const int64_t width = units<int8_t>(a, b, kWindow, kEntryHolds, kEntry).width;
  pack_head(a, c, h, width, (uint8_t*)packed);
  pack_units<int8_t>(a, b, kWindow, kEntryHolds, kEntry, (uint8_t*)packed + h.bytes, [&](uint8_t* entries, KeptList<int8_t>* kept) {
    return put_window(kept, width, width / W, entries, [&](int64_t o) { return place(a, o, width); });
  });
}

// The cut must not depend on the blocks, which run does not know: as for one weight kept of eight.
Cut plan(const Problem& a) {
  const double pairs = (double)a.n * a.p * a.q * ceil_div(a.k, W) * a.r * a.s * a.c / 32;
  return cut(a, kJobWidth, kTilePixels<uint8_t>, a.r * a.s * a.c * a.k / 4, pairs * (kIsa == Isa::scalar ? 16 : 1.333));
}

int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return workspace_of<uint8_t>(a); }

template <int Vectors, int PB>
JT_INLINE void tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, Unit l, int64_t pixel, const uint8_t* const* table,
                    int64_t ahead) {
  i32v acc[PB][Vectors];
  start(b.bias, acc);
  do {
    const Visit v = *l.visits++;
    l.entries = gather_window<Vectors, 2>(acc, table + v.tap * kTilePixels<uint8_t>, v.window * kWindow, l.entries, v.entries, ahead);
  } while (--l.count);
  finish_i8<PB, Vectors>(a, end, b, acc, pixel);
}

template <int Vectors>
void run_units(const Call& call, const Head& h, const Units& u, const uint8_t* packed, const Piece& at) {
  const Problem& a = *call.problem;
  const EpilogueI8 end = epilogue_i8(a, h, call.packed);
  const int64_t ahead = group_of(u) * u.bytes();  // the next group, while this one lies in the first-level cache
  const Units own = u;  // a copy, and no call below: bytes that are stored might lie anywhere, for all that the compiler knows
  for_units<uint8_t>(call, own, at, image_i8(call, at.image), (const uint8_t*)call.packed,
                     [&](int64_t i, auto count, int64_t pixel, const uint8_t* const* table) {
                       const BlockI8 b = block_of(call, h, at.image, i, Vectors * W);
                       tile<Vectors, decltype(count)::value>(a, end, b, unit(packed, own, i), pixel, table, ahead);
                     });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Head h = head(a, kJobWidth);
  const uint8_t* packed = (const uint8_t*)call.packed + h.bytes;
  Units u;
  std::memcpy(&u, packed, sizeof u);
  if (u.width == W) run_units<1>(call, h, u, packed, piece(plan(a), job));
  else run_units<kUnitVectors<int8_t>>(call, h, u, packed, piece(plan(a), job));
}

// As nm_i8, for the kept blocks alone.
double cost(const Problem& a, const Constants& c) {
  Blocks b;
  if (!read_blocks(a, c, &b)) return 0;
  const double pixels = (double)a.n * a.p * a.q, quads = b.kept * b.per_block / 4.0;
  const double pairs = pixels * a.k / W * quads;
  const double loads = pixels * a.k / min64(b.rows, kUnitVectors<int8_t> * W) * b.kept * max64(1, b.cols / kWindow);
  const double cycles = kIsa == Isa::scalar ? 16.0 : 1.333;
  return (pairs * cycles + loads) / 0.9 + 8.0 * a.k * quads / 8;
}

}  // namespace

extern const Kernel block_i8;
const Kernel block_i8 = {"block_i8", "conv", "block", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
