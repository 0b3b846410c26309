// Convolution and linear layers by table look-up, groups = 1: u8 inputs, hash trees (forest.h), int8 tables, exact int32 sums.
// Tables are looked up by rows (table_rows.h): many prototypes no longer fit registers, as lut.cpp needs them to.
#include <algorithm>

#include "../forest.h"
#include "../table_rows.h"
#include "../vec_walk.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

Layout layout(const Problem& a, const Planes& p, const Forest& f) { return layout(a, p, f, kWide, 1); }

bool accepts(const Problem& a, const Constants& c) { return has_forest(a, c, 1, kDeepest); }

int64_t packed_bytes(const Problem& a, const Constants& c) {
  const Forest f = forest(c);
  return layout(a, planes_of(a), f).tables + table_rows_bytes(a, f.codebooks << f.levels);
}

void pack(const Problem& a, const Constants& c, void* out) {
  const Forest f = forest(c);
  const Layout at = layout(a, planes_of(a), f);
  uint8_t* packed = (uint8_t*)out;
  std::memset(packed, 0, packed_bytes(a, c));
  pack_forest(a, c, at, kWide, packed);
  pack_table_rows(a, c, f.codebooks << f.levels, packed + at.tables);
}

// What is looked up for one tile and one block.
struct Look {
  const uint16_t* codes;
  const uint8_t* tables;
  int64_t codebooks, levels;
};

template <int OB>
void finish_block(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l, const int32_t* pixel) {
  for (int64_t slot = 0; slot < kRows; slot += kTogether, pixel += kTogether) {
    if (*std::max_element(pixel, pixel + kTogether) < 0) continue;
    i32v acc[kTogether][OB];
    const uint16_t* codes = l.codes + slot;
    look_up_pixels<OB>(l.tables, l.codebooks, l.levels, b.bias, acc, [&](int64_t i, int p) JT_FLAT { return codes[i * kRows + p]; });
    finish_pixels<OB>(a, end, b, acc, pixel);
  }
}

void run(const Call& call, int64_t job) {
  const Forest f = packed_forest(call, kWide);
  const Problem& a = *call.problem;
  const Task t = task(call, job, f, kWide, 1);
  const Workspace& w = t.memory;
  for_tiles(call, t, f, true, [&](int64_t, const PlaneBytes& planes) JT_FLAT {
    uint16_t* const codes = (uint16_t*)w.codes;
    for (int64_t i = 0; i < f.codebooks; ++i) {
      const Split* splits = t.splits + i * f.levels;
      walk([&](int64_t level) JT_FLAT { return inputs(planes, splits[level]); }, t.trees + i * tree_bytes((int)f.levels), f.levels,
           codes + i * kRows);
    }
    for (int64_t i = t.share.blocks.begin; i < t.share.blocks.end; ++i) {
      const BlockI8 b = block_of(call, t.at.head, t.share.image, i, kWide);
      const Look l = {codes, t.tables + i * block_bytes(f.codebooks << f.levels), f.codebooks, f.levels};
      const int64_t vectors = vectors_of(a, i, kWide);
      (vectors == 1   ? finish_block<1>
       : vectors == 2 ? finish_block<2>
       : vectors == 3 ? finish_block<3>
                      : finish_block<4>)(a, t.end, b, l, w.pixel);
    }
  });
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
