// Convolution and linear layers by table look-up, groups = 1: u8 inputs, hash trees (forest.h), int8 tables, exact int32 sums.
// A code finds the entries of neighbouring output channels side by side: one load for kWords look-ups, however many entries a
// table has. That many prototypes no longer fit registers, as lut.cpp needs them to. Bytes are added up in 16 bits, which hold 256.
//
//   tables: [block of kWide channels][codebook][K][channels of the block, filled up to kWords], in the order of `place`
#include <algorithm>

#include "../forest.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kLeastLevels = 4, kMostLevels = 8;
constexpr int64_t kWide = 4 * W;
constexpr int kTogether = 4;     // pixels: their sums stay in registers
constexpr int64_t kExact = 256;  // codebooks whose bytes 16 bits can add up

Layout layout(const Problem& a, const Planes& p, const Forest& f) { return layout(a, p, f, kWide, 1); }

// Channels of a block, filled up.
int64_t row_bytes(const Problem& a, int64_t block) { return ceil_div(vectors_of(a, block, kWide), 2) * kWords; }

int64_t block_bytes(const Forest& f) { return (f.codebooks << f.levels) * kWide; }  // but for the last

bool accepts(const Problem& a, const Constants& c) { return has_forest(a, c, kLeastLevels, kMostLevels); }

int64_t packed_bytes(const Problem& a, const Constants& c) {
  const Forest f = forest(c);
  const int64_t last = ceil_div(a.k, kWide) - 1;
  return layout(a, planes_of(a), f).tables + last * block_bytes(f) + (f.codebooks << f.levels) * row_bytes(a, last);
}

void pack(const Problem& a, const Constants& c, void* out) {
  const Forest f = forest(c);
  const Layout at = layout(a, planes_of(a), f);
  const int64_t entries = f.codebooks << f.levels;
  uint8_t* packed = (uint8_t*)out;
  std::memset(packed, 0, packed_bytes(a, c));
  pack_forest(a, c, at, kWide, packed);
  const uint8_t* tables = (const uint8_t*)c.find("tables");
  for (int64_t o = 0; o < a.k; ++o) {
    const Place to = place(a, o, kWide);
    const int64_t bytes = row_bytes(a, to.block);
    uint8_t* column = packed + at.tables + to.block * block_bytes(f) + to.vector * W + to.lane;
    for (int64_t i = 0; i < entries; ++i) column[i * bytes] = tables[o * entries + i];
  }
}

// What is looked up for one tile and one block.
struct Look {
  const uint8_t *codes, *tables;
  int64_t codebooks, levels;
};

// The sums of kTogether pixels of a tile, from `slot` on, and OB vectors of channels.
template <int OB>
JT_INLINE void look_up_pixels(const Look& l, const int32_t* bias, int64_t slot, i32v (&acc)[kTogether][OB]) {
  constexpr int kUnits = (OB + 1) / 2;
  const int64_t table_bytes = (int64_t)kUnits * kWords << l.levels;
  start(bias, acc);
  for (int64_t first = 0; first < l.codebooks; first += kExact) {
    i16v sums[kTogether][kUnits] = {};
    const int64_t end = min64(l.codebooks, first + kExact);
    const uint8_t *codes = l.codes + first * kRows + slot, *table = l.tables + first * table_bytes;
    for (int64_t i = first; i < end; ++i, codes += kRows, table += table_bytes)
      times<kTogether>([&](auto p) JT_FLAT {
        const uint8_t* row = table + codes[p] * (kUnits * kWords);
        times<kUnits>([&](auto u) JT_FLAT { sums[p][u] = add_words(sums[p][u], load_words(row + u * kWords)); });
      });
    times<kTogether>([&](auto p) JT_FLAT { times<OB>([&](auto o) JT_FLAT { acc[p][o] = add(acc[p][o], widen<o % 2>(sums[p][o / 2])); }); });
  }
}

template <int OB>
void finish_block(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l, const int32_t* pixel) {
  for (int64_t slot = 0; slot < kRows; slot += kTogether, pixel += kTogether) {
    if (*std::max_element(pixel, pixel + kTogether) < 0) continue;
    i32v acc[kTogether][OB];
    look_up_pixels<OB>(l, b.bias, slot, acc);
    if (pixel[0] >= 0 && pixel[kTogether - 1] == pixel[0] + kTogether - 1) {
      finish_i8(a, end, b, acc, pixel[0]);
      continue;
    }
    for (int p = 0; p < kTogether; ++p) {
      if (pixel[p] < 0) continue;
      i32v one[1][OB];
      for (int o = 0; o < OB; ++o) one[0][o] = acc[p][o];
      finish_i8(a, end, b, one, pixel[p]);
    }
  }
}

template <int kLevels>
void run_levels(const Call& call, int64_t job, const Forest& f) {
  const Problem& a = *call.problem;
  const Task t = task(call, job, f, kWide, 1);
  const Workspace& w = t.memory;
  for_tiles(call, t, f, [&](int64_t, const PlaneBytes& planes) JT_FLAT {
    for (int64_t i = 0; i < f.codebooks; ++i)
      encode_one<kLevels>(planes, t.splits + i * kLevels, t.trees + i * tree_bytes(kLevels), w.codes + i * kRows);
    for (int64_t i = t.share.blocks.begin; i < t.share.blocks.end; ++i) {
      const BlockI8 b = block_of(call, t.at.head, t.share.image, i, kWide);
      const Look l = {w.codes, t.tables + i * block_bytes(f), f.codebooks, kLevels};
      const int64_t vectors = vectors_of(a, i, kWide);
      (vectors == 1   ? finish_block<1>
       : vectors == 2 ? finish_block<2>
       : vectors == 3 ? finish_block<3>
                      : finish_block<4>)(a, t.end, b, l, w.pixel);
    }
  });
}

void run(const Call& call, int64_t job) {
  const Forest f = packed_forest(call, kWide);
  (f.levels == 4   ? run_levels<4>
   : f.levels == 5 ? run_levels<5>
   : f.levels == 6 ? run_levels<6>
   : f.levels == 7 ? run_levels<7>
                   : run_levels<8>)(call, job, f);
}

double cost(const Problem& a, const Constants& c) {
  const Cost each = kIsa == Isa::scalar ? Cost{16.0, 4.0, 2.5, 0.08} : Cost{5.9, 1.6, 1.0, 0.08};
  return cost_of(a, c, each, (double)(kRows * ceil_div(a.k, kWords)));
}

}  // namespace

extern const Kernel lut_rows;
const Kernel lut_rows = {"lut_rows",  "conv", "lut", kIsa,       accepts, packed_bytes, pack, forest_workspace_bytes,
                         forest_jobs, run,    cost,  Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
