// Convolution and linear layers by table look-up, groups = 1: u8 inputs, hash trees (forest.h), int8 tables, exact int32 sums.
// Tables of 16, 32 or 64 entries are looked up in registers: kRows pixels of one output channel at once.
//
//   tables: [block of kOutputs channels][step][kOutputs][kStep·K]
//   packed: as in forest.h | whether there are bunches (vec_rows.h), and those
#include "../forest.h"
#include "../vec_rows.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kLeastLevels = 4, kMostLevels = 6;

Layout layout(const Problem& a, const Planes& p, const Forest& f) { return layout(a, p, f, kBlock, kStep); }

// Of one channel's tables in one step.
int64_t step_bytes(const Forest& f) { return kStep << f.levels; }

bool accepts(const Problem& a, const Constants& c) { return has_forest(a, c, kLeastLevels, kMostLevels); }

// Where the input needs not be turned: its pixels are whole vectors, and so are the levels of the trees.
bool bunchable(const Planes& p, const Forest& f) { return p.flat && p.pickable % kBunchWidth == 0 && f.levels == kBunchLevels; }

int64_t bunches_at(const Problem& a, const Layout& at, const Forest& f) {
  return at.tables + align64(ceil_div(a.k, kOutputs) * kOutputs * at.steps * step_bytes(f));
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  const Forest f = forest(c);
  const Planes p = planes_of(a);
  return bunches_at(a, layout(a, p, f), f) + 64 + (bunchable(p, f) ? bunches(f.codebooks) * (int64_t)sizeof(Bunch) : 0);
}

void pack(const Problem& a, const Constants& c, void* out) {
  const Forest f = forest(c);
  const Layout at = layout(a, planes_of(a), f);
  const int64_t count = f.codebooks, prototypes = (int64_t)1 << f.levels;
  uint8_t* packed = (uint8_t*)out;
  std::memset(packed, 0, packed_bytes(a, c));
  pack_forest(a, c, at, kBlock, packed);
  int32_t* bias = (int32_t*)(packed + at.head.padding_bytes);
  for (int64_t o = 0; o < a.k; ++o) bias[o] -= (int32_t)(at.steps * kStep * kEntryOffset);
  const int8_t* tables = (const int8_t*)c.find("tables");
  uint8_t* to = packed + at.tables;
  for (int64_t block = 0; block < ceil_div(a.k, kOutputs); ++block)
    for (int64_t step = 0; step < at.steps; ++step)
      for (int64_t o = block * kOutputs; o < (block + 1) * kOutputs; ++o)
        for (int64_t i = step * kStep; i < (step + 1) * kStep; ++i)
          for (int64_t e = 0; e < prototypes; ++e)
            *to++ = (uint8_t)((o < a.k && i < count ? tables[(o * count + i) * prototypes + e] : 0) + kEntryOffset);
  uint8_t* const there = packed + bunches_at(a, at, f);
  if (bunchable(planes_of(a), f))
    *there = pack_bunches(a.c, (const int32_t*)c.find("splits"), (const uint8_t*)c.find("thresholds"), count, (Bunch*)(there + 64));
}

constexpr int64_t kSumsBytes = align64(W * kRows * 4), kFinishedBytes = 2 * W * kRows;

int64_t workspace_bytes(const Problem& a) { return forest_workspace_bytes(a) + kSumsBytes + kFinishedBytes; }

// What is looked up for one tile.
struct Look {
  const uint8_t *codes, *tables;  // of the first channel
  int64_t steps, each;
  const int32_t* pixel;
  int32_t* sums;         // room for W output channels
  uint8_t* finished;     // the same as bytes, and their residuals
  const uint8_t* ahead;  // the next tile's input: for each kOutputs channels so many bytes are fetched
  int64_t bytes;
};

// end(channel, its sums) for W channels.
template <int kLevels, class End>
JT_INLINE void look_up_channels(const BlockI8& b, const Look& l, const End& end) {
  for (int64_t i = 0; i < min64(W, b.width); i += kOutputs) {
    for (int64_t line = 0; line < l.bytes; line += 64) __builtin_prefetch(l.ahead + i / kOutputs * l.bytes + line);
    look_up<kLevels>(l.codes, l.tables + i * l.steps * l.each, l.steps, b.bias + i,
                     [&](int o, const Sums& sums) JT_FLAT { end(i + o, sums); });
  }
}

// Any output: the sums of W channels, turned so that the channels of a pixel stand together, and the common epilogue.
template <int kLevels>
void finish_sums(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l) {
  look_up_channels<kLevels>(b, l, [&](int64_t o, const Sums& sums) JT_FLAT { store_sums(l.sums + o * kRows, sums); });
  for (int64_t i = 0; i < kRows; i += W) {
    i32v x[W];
    for (int o = 0; o < W; ++o) x[o] = load_i32(l.sums + o * kRows + i);
    transpose(x);
    for (int j = 0; j < W; ++j) {
      i32v acc[1][1] = {{x[j]}};
      const int32_t pixel = l.pixel[row_of(i + j)];
      if (pixel >= 0) finish_i8<1, 1>(a, end, b, acc, pixel);
    }
  }
}

#if defined(JETTISON_AVX512)

// u8 output: requantized channel by channel, and only the bytes turned. Whole: of neighbouring pixels and W channels.
template <int kLevels, bool Residual, bool Whole>
void finish_bytes(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l) {
  uint8_t *const bytes = l.finished, *const residual = bytes + W * kRows;
  if (Residual) {
    const uint8_t* rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = b.residual + (l.pixel[i] < 0 ? 0 : l.pixel[i]) * a.k;
    rows_to_columns(rows, 0, residual, kRows);
  }
  look_up_channels<kLevels>(b, l, [&](int64_t o, const Sums& sums) JT_FLAT {
    store_bytes(bytes + o * kRows, requantize_rows<Residual>(end, sums, b.multiplier[o], residual + o * kRows));
  });
  const int64_t k = a.k;
  uint8_t *const out = (uint8_t*)b.out, *const begin = out + l.pixel[0] * k;
  columns_to_rows(bytes, [&](int row, __m128i x) JT_FLAT {
    if (!Whole && l.pixel[row] < 0) return;
    uint8_t* const at = Whole ? begin + row * k : out + l.pixel[row] * k;
    if (Whole || b.width >= W) _mm_storeu_si128((__m128i*)at, x);
    else _mm_mask_storeu_epi8(at, first(b.width), x);
  });
}

#endif

template <int kLevels>
void finish_tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l) {
#if defined(JETTISON_AVX512)
  const bool whole = b.width >= W && l.pixel[0] >= 0 && l.pixel[kRows - 1] == l.pixel[0] + kRows - 1;
  // Each called by name: out of a choice between pointers nothing is inlined.
  if (end.u8 && b.residual && whole) return finish_bytes<kLevels, true, true>(a, end, b, l);
  if (end.u8 && b.residual) return finish_bytes<kLevels, true, false>(a, end, b, l);
  if (end.u8 && whole) return finish_bytes<kLevels, false, true>(a, end, b, l);
  if (end.u8) return finish_bytes<kLevels, false, false>(a, end, b, l);
#endif
  finish_sums<kLevels>(a, end, b, l);
}

// From the rows of a tile that starts at pixel `first`; beyond the image its last one is repeated.
void encode_tile(const Problem& a, const Planes& p, const Bunch* bunch, int64_t codebooks, const uint8_t* image, int64_t first,
                 const Workspace& w) {
  if (first + kRows <= p.width) return encode_rows(bunch, codebooks, EvenRows{image + first * a.c, a.c}, w.codes);
  for (int64_t i = 0; i < kRows; ++i) w.sources[i] = image + min64(first + i, p.width - 1) * a.c;
  encode_rows(bunch, codebooks, (const uint8_t* const*)w.sources, w.codes);
}

template <int kLevels>
void run_levels(const Call& call, int64_t job, const Forest& f) {
  const Problem& a = *call.problem;
  const Task t = task(call, job, f, kBlock, kStep);
  const Workspace& w = t.memory;
  int32_t* const sums = (int32_t*)((char*)call.workspace + w.bytes);
  uint8_t* const finished = (uint8_t*)sums + kSumsBytes;
  const int64_t steps = t.at.steps, from = t.share.blocks.begin * kBlock, to = min64(t.share.blocks.end * kBlock, a.k);
  const uint8_t* const there = t.packed + bunches_at(a, t.at, f);
  const Bunch* const bunch = kLevels == kBunchLevels && *there ? (const Bunch*)(there + 64) : nullptr;
  const int64_t ahead = t.planes.flat ? align64(ceil_div(kRows * a.c, ceil_div(to - from, kOutputs))) : 0;
  for_tiles(call, t, f, !bunch, [&](int64_t tile, const PlaneBytes& planes) JT_FLAT {
    if (bunch) encode_tile(a, t.planes, bunch, f.codebooks, image_i8(call, t.share.image), tile * kRows, w);
    for (int64_t i = 0; i < steps && !bunch; ++i)
      encode<kLevels>(planes, t.splits + i * kStep * kLevels, t.trees + i * kStep * tree_bytes(kLevels), w.codes + i * kStep * kRows);
    const uint8_t* next = image_i8(call, t.share.image) + (tile + 1) * kRows * a.c;
    for (int64_t o = from; o < to; o += W)
      finish_tile<kLevels>(a, t.end, block_of(call, t.at.head, t.share.image, o / W, W),
                           {w.codes, t.tables + o * steps * step_bytes(f), steps, step_bytes(f), w.pixel, sums, finished,
                            next + (o - from) / kOutputs * ahead, ahead});
  });
}

void run(const Call& call, int64_t job) {
  const Forest f = packed_forest(call, kBlock);
  (f.levels == 4 ? run_levels<4> : f.levels == 5 ? run_levels<5> : run_levels<6>)(call, job, f);
}

double cost(const Problem& a, const Constants& c) {
  const int64_t more = forest(c).levels - kLeastLevels;
#if defined(JETTISON_AVX512)
  constexpr double kLookUp[3] = {0.8, 0.8, 1.0};
  const Cost each = {2.0, kLookUp[more], 0.15, 0.01};
#elif defined(JETTISON_AVX2)
  constexpr double kLookUp[3] = {1.9, 3.3, 5.8};
  const Cost each = {4.8, kLookUp[more], 2.5, 0.01};
#else
  const Cost each = {16.0, 12.0 + more, 2.5, 0.01};
#endif
  return cost_of(a, c, each, (double)a.k);
}

}  // namespace

extern const Kernel lut;
const Kernel lut = {"lut", "conv", "lut", kIsa, accepts, packed_bytes, pack, workspace_bytes, forest_jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
