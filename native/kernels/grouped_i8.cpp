// Grouped int8 convolution, any 1 < groups: output channel o sees only the cg = c / groups inputs of its group.
//
// A block is W output channels, of one or of several groups. Its inputs are cut into windows, out of which a byte
// permute hands every lane the channels of its group, four at a time (gather_i8.h):
//
//   groups of 4, W = 16    window │ g0 g0 g0 g0 │ g1 g1 g1 g1 │ g2 … │ g3 … │ …
//                          entry  │ 0 1 2 3 for each output of g0 │ 4 5 6 7 for those of g1 │ 8 …
//
// A group that a window cuts leaves lanes with weight 0 in some entries.
//
//   packed: head | Part per block | per block: counts | entries
#include "../gather_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kPixels = kIsa == Isa::scalar ? 4 : 8;

struct Part {
  int64_t channel, windows;  // first input channel, windows per tap
  int64_t counts, entries;   // bytes from the start of packed
};

int64_t taps(const Problem& a) { return a.r * a.s; }
int64_t blocks(const Problem& a) { return ceil_div(a.k, W); }
int64_t group_inputs(const Problem& a) { return a.c / a.groups; }
int64_t first_input(const Problem& a, int64_t o) { return o / (a.k / a.groups) * group_inputs(a); }
int64_t end_of(const Problem& a, int64_t block) { return min64((block + 1) * W, a.k); }
bool accepts(const Problem& a, const Constants& c) { return a.groups > 1 && c.find("weight") && has_head(c); }

int64_t windows(const Problem& a, int64_t block) {
  const int64_t last = first_input(a, end_of(a, block) - 1) + group_inputs(a);
  return ceil_div(last - first_input(a, block * W), kWindow);
}

// The inputs of output channel o that lie in window i of its block.
Range wanted(const Problem& a, int64_t block, int64_t i, int64_t o) {
  const int64_t from = first_input(a, block * W) + i * kWindow, first = first_input(a, o);
  return {max64(from, first), min64(from + kWindow, first + group_inputs(a))};
}

// The most weights that one output channel has in window i.
int64_t most_wanted(const Problem& a, int64_t block, int64_t i) {
  int64_t most = 1;
  for (int64_t o = block * W; o < end_of(a, block); ++o) {
    const Range r = wanted(a, block, i, o);
    most = max64(most, r.end - r.begin);
  }
  return most;
}

// Entries of one tap, if each holds as many weights.
int64_t entries_of(const Problem& a, int64_t block, int64_t holds) {
  int64_t total = 0;
  for (int64_t i = 0; i < windows(a, block); ++i) total += ceil_div(most_wanted(a, block, i), holds);
  return total;
}

// Fills in the part of block `i`, which begins at byte `at`; returns where it ends.
int64_t lay_out(const Problem& a, int64_t i, int64_t at, Part* p) {
  p->channel = first_input(a, i * W);
  p->windows = windows(a, i);
  p->counts = at;
  const int64_t most = taps(a) * entries_of(a, i, kEntryHolds);
  p->entries = at + guide_bytes(taps(a), p->windows, most);
  return p->entries + most * kEntry;
}

int64_t parts_at(const Problem& a) { return head(a, W).bytes; }
int64_t first_at(const Problem& a) { return parts_at(a) + align64(blocks(a) * (int64_t)sizeof(Part)); }

int64_t packed_bytes(const Problem& a, const Constants&) {
  int64_t at = first_at(a);
  Part p;
  for (int64_t i = 0; i < blocks(a); ++i) at = lay_out(a, i, at, &p);
  return at;
}

// The entries of one window; returns their count.
int64_t pack_window(const Problem& a, int64_t block, int64_t channel, const int8_t* weight, int64_t tap, int64_t window, uint8_t* entries) {
  const int64_t cg = group_inputs(a), first = block * W, outputs = end_of(a, block) - first;
  KeptList<int8_t> kept[W];
  for (int64_t o = 0; o < outputs; ++o) {
    const Range r = wanted(a, block, window, first + o);
    const int8_t* from = weight + ((first + o) * taps(a) + tap) * cg - first_input(a, first + o);
    for (int64_t i = r.begin; i < r.end; ++i) kept[o].add(i - channel - window * kWindow, from[i]);
  }
  return put_window(kept, outputs, 1, entries, [](int64_t o) { return Place{0, 0, o}; });
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  pack_head(a, c, head(a, W), W, (uint8_t*)packed);
  int64_t at = first_at(a);
  for (int64_t i = 0; i < blocks(a); ++i) {
    Part* p = (Part*)((uint8_t*)packed + parts_at(a)) + i;
    at = lay_out(a, i, at, p);
    put_windows(taps(a), p->windows, p->channel, 1, entries_of(a, i, kEntryHolds), (uint8_t*)packed + p->counts,
                (uint8_t*)packed + p->entries, [&](int64_t tap, int64_t window, uint8_t* entries) {
                  return pack_window(a, i, p->channel, (const int8_t*)c.find("weight"), tap, window, entries);
                });
  }
}

// As in nm_i8, but a permute that serves one vector of outputs only.
double cycles(const Problem& a) {
  const int64_t sample = min64(blocks(a), 4);  // blocks repeat; the first ones speak for all
  double per_tap = 0;
  for (int64_t i = 0; i < sample; ++i) per_tap += (double)(entries_of(a, i, 4) + windows(a, i)) / (double)sample;
  const double per_pair = kIsa == Isa::scalar ? 16.0 : 1.333;
  return (double)a.n * a.p * a.q * blocks(a) * (8 + taps(a) * per_tap * per_pair / 0.9);
}

Walk walk_of(const Problem& a) { return {taps(a), a.c, false}; }
Cut plan(const Problem& a) { return cut(a, W, kPixels, a.k * taps(a) * group_inputs(a), cycles(a)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return table_bytes<uint8_t, kPixels>(a, walk_of(a)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Head h = head(a, W);
  const EpilogueI8 end = epilogue_i8(a, h, call.packed);
  const uint8_t* packed = (const uint8_t*)call.packed;
  const auto block_at = [&](int64_t block) {
    const Part& p = ((const Part*)(packed + parts_at(a)))[block];
    BlockI8 b = block_of(call, h, at.image, block, W);
    b.counts = packed + p.counts;
    b.weights = packed + p.entries;
    b.windows = p.windows;
    b.channel = p.channel;
    return b;
  };
  for_tiles<uint8_t, kPixels>(call, walk_of(a), at, image_i8(call, at.image), packed, block_at,
                              [&](const BlockI8& b, auto count, int64_t pixel, const uint8_t* const* table) {
                                gather_tile<1, kPixels, decltype(count)::value, 1>(a, end, b, taps(a), pixel, table);
                              });
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel grouped_i8;
const Kernel grouped_i8 = {"grouped_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
