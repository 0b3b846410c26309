// N:M int8 convolution and linear layers, groups = 1: gather by byte permute (gather_i8.h).
//
// Every output channel keeps the same number of weights in each window, so a step is 4·W kept multiply-adds with
// no wasted lane, whatever the pattern.
//
//   packed: head | Layout | per block: counts or list | entries
#include "../gather_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 2 : 1;
constexpr int kPixels = kIsa == Isa::scalar ? 4 : 8;
constexpr int64_t kWidth = kVectors * W;
constexpr int64_t kLayoutBytes = 64;

Walk walk_of(const Problem& a) { return walk<uint8_t>(a, kWindow); }
int64_t windows(const Walk& w) { return ceil_div(w.length, kWindow); }
int64_t steps(const Walk& w) { return w.stops * windows(w); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }

int64_t most_quads(const Walk& w, const Constants& c) { return ceil_div(most_per_window(w.length, kWindow, c.n, c.m), kEntryHolds); }

// Where the parts of a block lie. Stored first: run knows only the problem.
struct Layout {
  int64_t guide_bytes, bytes;
};

Layout layout(const Walk& w, const Constants& c) {
  const int64_t most = steps(w) * most_quads(w, c), guide = guide_bytes(w.stops, windows(w), most);
  return {guide, guide + align64(most * kVectors * kEntry)};
}

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && has_head(c) && c.m > 0 && a.c % c.m == 0;
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  return head(a, kWidth).bytes + kLayoutBytes + blocks(a) * layout(walk_of(a), c).bytes;
}

// The entries of one window; returns their count.
int64_t pack_window(const Problem& a, const Walk& w, const Constants& c, int64_t block, int64_t stop, int64_t window, uint8_t* entries) {
  const int64_t first = block * kWidth, outputs = min64(kWidth, a.k - first);
  KeptList<int8_t> kept[kWidth];
  for (int64_t o = 0; o < outputs; ++o)
    each_kept<int8_t>(w, c, first + o, stop, window, kWindow, [&](int64_t i, int8_t value) { kept[o].add(i, value); });
  return put_window(kept, outputs, kVectors, entries, [&](int64_t o) { return place(a, first + o, kWidth); });
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kWidth);
  pack_head(a, c, h, kWidth, (uint8_t*)packed);
  const Walk w = walk_of(a);
  const Layout l = layout(w, c);
  uint8_t* at = (uint8_t*)packed + h.bytes;
  std::memcpy(at, &l, sizeof l);
  at += kLayoutBytes;
  for (int64_t block = 0; block < blocks(a); ++block, at += l.bytes)
    put_windows(w.stops, windows(w), 0, kVectors, windows(w) * most_quads(w, c), at, at + l.guide_bytes,
                [&](int64_t stop, int64_t window, uint8_t* entries) { return pack_window(a, w, c, block, stop, window, entries); });
}

// A permute and a dot take 4/3 of a cycle together.
double cycles(const Problem& a, double quads) {
  const Walk w = walk_of(a);
  const double pixels = (double)a.n * a.p * a.q, per_pair = kIsa == Isa::scalar ? 16.0 : 1.333;
  return (pixels * ceil_div(a.k, W) * (steps(w) * quads * per_pair + 6) + pixels * blocks(a) * steps(w)) / 0.9;
}

// The cut must not depend on n and m, which run does not know: as for one weight kept of four.
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k / 2, cycles(a, kWindow / 16)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return table_bytes<uint8_t, kPixels>(a, walk_of(a)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Walk w = walk_of(a);
  const Head h = head(a, kWidth);
  const EpilogueI8 end = epilogue_i8(a, h, call.packed);
  const uint8_t* packed = (const uint8_t*)call.packed + h.bytes;
  Layout l;
  std::memcpy(&l, packed, sizeof l);
  const auto block_at = [&](int64_t block) {
    BlockI8 b = block_of(call, h, at.image, block, kWidth);
    b.counts = packed + kLayoutBytes + block * l.bytes;
    b.weights = b.counts + l.guide_bytes;
    b.windows = windows(w);
    return b;
  };
  for_tiles<uint8_t, kPixels>(call, w, at, image_i8(call, at.image), (const uint8_t*)call.packed, block_at,
                              [&](const BlockI8& b, auto count, int64_t pixel, const uint8_t* const* table) {
                                constexpr int PB = decltype(count)::value;
                                if (b.width <= W) gather_tile<kVectors, kPixels, PB, 1>(a, end, b, w.stops, pixel, table);
                                else gather_tile<kVectors, kPixels, PB, kVectors>(a, end, b, w.stops, pixel, table);
                              });
}

double cost(const Problem& a, const Constants& c) {
  const Walk w = walk_of(a);
  const double quads = c.m ? (double)ceil_div(most_per_window(w.length, kWindow, c.n, c.m), 4) : kWindow / 4;
  return cycles(a, quads) + 8.0 * a.k * steps(w) * quads / 8;
}

}  // namespace

extern const Kernel nm_i8;
const Kernel nm_i8 = {"nm_i8", "conv", "nm", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
