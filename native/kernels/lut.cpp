// Convolution and linear layers by table look-up, groups = 1: u8 inputs, hash trees, int8 tables, exact int32 sums.
//
// A hash tree asks for four to six bytes of a pixel's neighbourhood, so there is no im2col matrix: the input that a job needs is
// turned once into planes, one per channel, in which neighbouring output pixels find the same tap in neighbouring bytes.
//
//   plane[phase][channel][lead + slot]   slot = Y·pitch + X of the input at rows Y·stride + phase_y − pad_t, columns X·stride + phase_x
//   output pixel (y, x) at tap (dy, dx) reads slot (y·pitch + x) + ⌊dy / stride⌋·pitch + shift of the tap's phase,
//   shift = ⌊(dx − pad_l) / stride⌋
//
// So kRows consecutive slots are kRows output pixels for one load. Columns that pad a row have no slots: where x + shift is
// outside 0 … pitch − 1 the load is masked and gives the zero point (`Taken`). pitch is q, or more where the image is wider:
// the few rows of a tile that are no pixel are then computed and dropped.
//
// Where there is one tap, only some channels are asked for: AVX-512 picks them out of every pixel first, and turns those.
//
//   job:    some tiles of kRows slots of one image × a range of output channels: fill planes, then per tile encode all
//           codebooks and look up all channels
//   packed: head | codebooks, levels, picked channels | picks | splits [step·kStep][levels] | trees [step·kStep][tree_bytes]
//           | tables [block of kOutputs channels][step][kOutputs][kStep·K]; codebooks past C hold zeros
#include "../conv_i8.h"
#include "../picks.h"
#include "../vec_lut.h"
#include "../vec_turn.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kBlock = 16;       // channels transposed at once; output channels are cut at multiples of it
constexpr int64_t kMostTiles = 8;    // of a job: their planes stay in the second-level cache
constexpr int64_t kFewTiles = 4;     // of a job with few channels, which else spends more on planes than on looking up
constexpr int64_t kFewJobs = 4;      // fewer are cut across their channels too
constexpr int64_t kLeastWidth = 64;  // channels for which encoding again is worth it

// The padded input as planes, and its cut into tiles. Everything but the number of images.
struct Planes {
  int64_t width, pitch;          // output columns, slots from one output row to the next
  int64_t lead, shifts;          // the leftmost tap's shift is −lead; different shifts, from there on
  int64_t phases_y, phases_x;    // input rows and columns of one stride that the kernel reaches
  int64_t channels;              // rounded up
  int64_t slots, stride;         // of a plane of one job, or of one tile if flat; bytes from one to the next
  int64_t tiles, tiles_per_job;  // of an image
  bool flat;                     // pixel to pixel: the image is one long row
  int64_t pickable;              // channels that may be picked from: all if flat

  int64_t jobs() const { return ceil_div(tiles, tiles_per_job); }
  int64_t bytes() const { return phases_y * phases_x * channels * stride; }
};

// Phases that the taps 0, dilation, 2·dilation … fall on.
int64_t phases(int64_t taps, int64_t stride, int64_t dilation) { return taps == 1 || dilation % stride == 0 ? 1 : stride; }

// ⌊column / stride⌋, also left of the image
int64_t shift_of(int64_t column, int64_t stride) { return column < 0 ? -ceil_div(-column, stride) : column / stride; }

Planes planes_of(const Problem& a) {
  Planes o{};
  o.flat = a.r == 1 && a.s == 1 && a.stride_h == 1 && a.stride_w == 1 && !a.pad_t && !a.pad_l && !a.pad_b && !a.pad_r;
  const int64_t reach_y = (a.r - 1) * a.dilation_h / a.stride_h, last = shift_of((a.s - 1) * a.dilation_w - a.pad_l, a.stride_w);
  o.width = o.flat ? a.p * a.q : a.q;
  o.pitch = o.flat ? o.width : max64(a.q, ceil_div(a.w, a.stride_w));
  o.lead = -min64(0, shift_of(-a.pad_l, a.stride_w));
  o.shifts = o.lead + max64(0, last) + 1;
  o.pickable = o.flat ? a.c : 0;
  o.phases_y = phases(a.r, a.stride_h, a.dilation_h);
  o.phases_x = phases(a.s, a.stride_w, a.dilation_w);
  o.channels = ceil_div(a.c, kBlock) * kBlock;
  o.tiles = ceil_div(o.flat ? o.width : (a.p - 1) * o.pitch + a.q, kRows);
  const int64_t least = a.k < kLeastWidth ? min64(kFewTiles, o.tiles) : 1;
  o.tiles_per_job = a.band ? kMostTiles : max64(least, min64(kMostTiles, o.tiles / kFewJobs));
  o.slots = o.flat ? kRows : ceil_div(o.tiles_per_job * kRows + reach_y * o.pitch + o.shifts - 1, kRows) * kRows;
  o.stride = (ceil_div(o.slots, 64) | 1) * 64;  // odd, so that the channels of a block do not meet in one cache set
  return o;
}

// (C, levels)
const Constant* splits_of(const Constants& c) {
  for (int i = 0; i < c.count; ++i)
    if (!std::strcmp(c.items[i].role, "splits")) return c.items + i;
  return nullptr;
}

struct Forest {
  int64_t codebooks, levels;
  int64_t picked;  // channels, or 0: all
};

// picked: not known yet.
Forest forest(const Constants& c) { return {splits_of(c)->d[0], splits_of(c)->d[1], 0}; }

struct Layout {
  Head head;
  int64_t steps, each;                          // bytes of one channel's tables in one step
  int64_t picks, splits, trees, tables, bytes;  // places of the parts
};

Layout layout(const Problem& a, const Planes& p, const Forest& f) {
  Layout o;
  o.head = head(a, kBlock);
  o.steps = ceil_div(f.codebooks, kStep);
  o.each = kStep << f.levels;
  o.picks = o.head.bytes + 64;  // the numbers come first
  o.splits = o.picks + align64(picks_bytes(p.pickable));
  o.trees = o.splits + align64(o.steps * kStep * f.levels * (int64_t)sizeof(Split));
  o.tables = o.trees + align64(o.steps * kStep * tree_bytes((int)f.levels));
  o.bytes = o.tables + align64(ceil_div(a.k, kOutputs) * kOutputs * o.steps * o.each);
  return o;
}

bool accepts(const Problem& a, const Constants& c) {
  const Constant* splits = splits_of(c);
  return a.groups == 1 && splits && splits->rank == 2 && splits->d[1] >= kLeastLevels && splits->d[1] <= kMostLevels &&
         c.find("thresholds") && c.find("tables") && has_head(c) && planes_of(a).bytes() < 1 << 30;
}

int64_t packed_bytes(const Problem& a, const Constants& c) { return layout(a, planes_of(a), forest(c)).bytes; }

// Which of a stride's columns `column` is; 0 where all taps fall on one.
int64_t phase_x(const Problem& a, const Planes& p, int64_t column) {
  return p.phases_x == 1 ? 0 : column - shift_of(column, a.stride_w) * a.stride_w;
}

// The same for every number of rows.
Split split_of(const Problem& a, const Planes& p, int32_t split) {
  const int64_t channel = split % a.c, tap = split / a.c;
  const int64_t dy = tap / a.s * a.dilation_h, dx = tap % a.s * a.dilation_w - a.pad_l;
  const int64_t from_lead = shift_of(dx, a.stride_w) + p.lead;
  const int64_t phase = dy % a.stride_h * p.phases_x + phase_x(a, p, dx);
  return {(int32_t)(phase * p.channels + channel), (int32_t)(dy / a.stride_h * p.pitch + from_lead), (int32_t)from_lead};
}

void pack(const Problem& a, const Constants& c, void* out) {
  Forest f = forest(c);
  const Planes p = planes_of(a);
  const Layout at = layout(a, p, f);
  const int64_t count = f.codebooks, prototypes = (int64_t)1 << f.levels;
  uint8_t* packed = (uint8_t*)out;
  std::memset(packed, 0, at.bytes);
  pack_head(a, c, at.head, W, packed);
  int32_t* bias = (int32_t*)(packed + at.head.padding_bytes);
  for (int64_t o = 0; o < a.k; ++o) bias[o] -= (int32_t)(at.steps * kStep * kEntryOffset);
  const int32_t* splits = (const int32_t*)c.find("splits");
  std::vector<int32_t> order;
  f.picked = pack_picks(p.pickable, splits, count * f.levels, (Picks*)(packed + at.picks), &order);
  std::memcpy(packed + at.head.bytes, &f, sizeof f);
  const uint8_t* thresholds = (const uint8_t*)c.find("thresholds");
  for (int64_t i = 0; i < count; ++i)
    for (int64_t level = 0, below = 0; level < f.levels; ++level, below = 2 * below + 1) {
      const int32_t split = splits[i * f.levels + level];
      ((Split*)(packed + at.splits))[i * f.levels + level] = split_of(a, p, f.picked ? order[split] : split);
      std::memcpy(packed + at.trees + i * tree_bytes((int)f.levels) + 16 * level, thresholds + i * (prototypes - 1) + below, below + 1);
    }
  const int8_t* tables = (const int8_t*)c.find("tables");
  uint8_t* to = packed + at.tables;
  for (int64_t block = 0; block < ceil_div(a.k, kOutputs); ++block)
    for (int64_t step = 0; step < at.steps; ++step)
      for (int64_t o = block * kOutputs; o < (block + 1) * kOutputs; ++o)
        for (int64_t i = step * kStep; i < (step + 1) * kStep; ++i)
          for (int64_t e = 0; e < prototypes; ++e)
            *to++ = (uint8_t)((o < a.k && i < count ? tables[(o * count + i) * prototypes + e] : 0) + kEntryOffset);
}

// What a thread needs while it runs a job.
struct Workspace {
  const uint8_t** sources;  // of every slot of one phase
  uint8_t* rows;            // channels picked, of the pixels of a tile
  uint8_t* planes;
  uint8_t* codes;
  int32_t* sums;      // W output channels of one tile
  uint8_t* finished;  // the same as bytes, and their residuals
  int32_t* pixel;     // of every slot of a tile, −1: none
  Taken* taken;       // of every shift: the rows of a tile that it leaves inside their image row
  int64_t bytes;
};

// Codebooks are at most one per input: v ≥ 1.
Workspace workspace(const Problem& a, const Planes& p, void* memory) {
  Workspace w;
  char* at = (char*)memory;
  const auto take = [&at](int64_t bytes) {
    char* const start = at;
    at += align64(bytes);
    return start;
  };
  w.sources = (const uint8_t**)take(p.slots * 8);
  w.rows = (uint8_t*)take(picks_bytes(p.pickable) ? kRows * a.c : 0);
  w.planes = (uint8_t*)take(p.bytes());
  w.codes = (uint8_t*)take((ceil_div(a.r * a.s * a.c, kStep)) * kStep * kRows);
  w.sums = (int32_t*)take(W * kRows * 4);
  w.finished = (uint8_t*)take(2 * W * kRows);
  w.pixel = (int32_t*)take(kRows * 4);
  w.taken = (Taken*)take(p.shifts * (int64_t)sizeof(Taken));
  w.bytes = at - (char*)memory;
  return w;
}

int64_t workspace_bytes(const Problem& a) { return workspace(a, planes_of(a), nullptr).bytes; }

int64_t channel_parts(const Problem& a, const Planes& p) {
  return a.band ? 1 : max64(1, min64(ceil_div(kFewJobs, a.n * p.jobs()), a.k / kLeastWidth));
}

int64_t jobs(const Problem& a) {
  const Planes p = planes_of(a);
  return a.n * p.jobs() * channel_parts(a, p);
}

// Where the slots from `first` on of one phase find their pixel.
void find_sources(const Problem& a, const Planes& p, const uint8_t* image, const uint8_t* padding, int64_t first, int64_t phase,
                  const uint8_t** sources) {
  const int64_t rows = p.flat ? 1 : a.h, columns = p.flat ? p.width : a.w;
  const int64_t only = -a.pad_l - shift_of(-a.pad_l, a.stride_w) * a.stride_w;  // where all taps fall if on one
  const int64_t left = p.phases_x == 1 ? only : phase % p.phases_x, top = phase / p.phases_x - a.pad_t;
  int64_t row = shift_of(first, p.pitch), column = first - row * p.pitch;
  for (int64_t i = 0; i < p.slots; ++row, column = 0) {  // row by row; nothing is divided or multiplied inside
    const int64_t y = row * a.stride_h + top, end = min64(p.slots, i + p.pitch - column);
    const bool in_rows = (uint64_t)y < (uint64_t)rows;
    const uint8_t* at = image + (y * columns + column * a.stride_w + left) * a.c;
    for (int64_t x = column * a.stride_w + left; i < end; ++i, x += a.stride_w, at += a.stride_w * a.c)
      sources[i] = in_rows && (uint64_t)x < (uint64_t)columns ? at : padding;
  }
}

// One phase of the planes, from its slots' pixels.
template <class Rows>
void fill_phase(const Problem& a, const Planes& p, const Rows& pixels, uint8_t* planes) {
  for (int64_t i = 0; i < p.slots; i += kRows)
    for (int64_t c = 0; c < a.c; c += kBlock) rows_to_columns(from_row(pixels, i), c, planes + c * p.stride + i, p.stride);
}

// Of one tile, as where channels are picked there is one tap.
template <class Rows>
void fill_picked(const Planes& p, const Rows& pixels, const Picks* picks, int64_t picked, const Workspace& w) {
  pick_rows(picks, picked, pixels, w.rows);
  const EvenRows rows = {w.rows, ceil_div(picked, 64) * 64};
  for (int64_t c = 0; c < picked; c += kBlock) rows_to_columns(rows, c, w.planes + c * p.stride, p.stride);
}

void fill_planes(const Problem& a, const Planes& p, const uint8_t* image, const uint8_t* padding, int64_t first, const Picks* picks,
                 int64_t picked, const Workspace& w) {
  for (int64_t phase = 0; phase < p.phases_y * p.phases_x; ++phase) {
    const auto fill = [&](const auto& pixels) {
      if (picked) fill_picked(p, pixels, picks, picked, w);
      else fill_phase(a, p, pixels, w.planes + phase * p.channels * p.stride);
    };
    const bool even = p.flat && first + p.slots <= p.width;
    if (!even) find_sources(a, p, image, padding, first, phase, w.sources);
    if (even) fill(EvenRows{image + first * a.c, a.c});
    else fill(w.sources);
  }
}

// The output pixel of every row of the tile that starts at slot `first`, and the rows that each shift takes.
void find_pixels(const Problem& a, const Planes& p, int64_t first, const Workspace& w) {
  if (p.flat && first + kRows <= p.width) {  // all rows are pixels
    for (int64_t i = 0; i < kRows; ++i) w.pixel[i] = (int32_t)(first + i);
    w.taken[0] = taken(w.pixel, 0, (int32_t)p.pitch);
    return;
  }
  int64_t y = first / p.pitch, x = first % p.pitch;
  int32_t column[kRows];
  for (int64_t i = 0; i < kRows; ++i) {
    w.pixel[i] = x < p.width && (p.flat ? y == 0 : y < a.p) ? (int32_t)(y * p.width + x) : -1;
    column[i] = (int32_t)x;
    if (++x == p.pitch) x = 0, ++y;
  }
  for (int64_t s = 0; s < p.shifts; ++s) w.taken[s] = taken(column, (int32_t)(s - p.lead), (int32_t)p.pitch);
}

// What is looked up for one tile.
struct Look {
  const uint8_t *codes, *tables;  // of the first channel
  int64_t steps, each;
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
void finish_sums(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l, const Workspace& w) {
  look_up_channels<kLevels>(b, l, [&](int64_t o, const Sums& sums) JT_FLAT { store_sums(w.sums + o * kRows, sums); });
  for (int64_t i = 0; i < kRows; i += W) {
    i32v x[W];
    for (int o = 0; o < W; ++o) x[o] = load_i32(w.sums + o * kRows + i);
    transpose(x);
    for (int j = 0; j < W; ++j) {
      i32v acc[1][1] = {{x[j]}};
      const int32_t pixel = w.pixel[row_of(i + j)];
      if (pixel >= 0) finish_i8<1, 1>(a, end, b, acc, pixel);
    }
  }
}

#if defined(JETTISON_AVX512)

// u8 output: requantized channel by channel, and only the bytes turned. Whole: of neighbouring pixels and W channels.
template <int kLevels, bool Residual, bool Whole>
void finish_bytes(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l, const Workspace& w) {
  uint8_t *const bytes = w.finished, *const residual = bytes + W * kRows;
  if (Residual) {
    const uint8_t* rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = b.residual + (w.pixel[i] < 0 ? 0 : w.pixel[i]) * a.k;
    rows_to_columns(rows, 0, residual, kRows);
  }
  look_up_channels<kLevels>(b, l, [&](int64_t o, const Sums& sums) JT_FLAT {
    store_bytes(bytes + o * kRows, requantize_rows<Residual>(end, sums, b.multiplier[o], residual + o * kRows));
  });
  const int64_t k = a.k;
  uint8_t *const out = (uint8_t*)b.out, *const begin = out + w.pixel[0] * k;
  columns_to_rows(bytes, [&](int row, __m128i x) JT_FLAT {
    if (!Whole && w.pixel[row] < 0) return;
    uint8_t* const at = Whole ? begin + row * k : out + w.pixel[row] * k;
    if (Whole || b.width >= W) _mm_storeu_si128((__m128i*)at, x);
    else _mm_mask_storeu_epi8(at, first(b.width), x);
  });
}

#endif

template <int kLevels>
void finish_tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Look& l, const Workspace& w) {
#if defined(JETTISON_AVX512)
  const bool whole = b.width >= W && w.pixel[0] >= 0 && w.pixel[kRows - 1] == w.pixel[0] + kRows - 1;
  // Each called by name: out of a choice between pointers nothing is inlined.
  if (end.u8 && b.residual && whole) return finish_bytes<kLevels, true, true>(a, end, b, l, w);
  if (end.u8 && b.residual) return finish_bytes<kLevels, true, false>(a, end, b, l, w);
  if (end.u8 && whole) return finish_bytes<kLevels, false, true>(a, end, b, l, w);
  if (end.u8) return finish_bytes<kLevels, false, false>(a, end, b, l, w);
#endif
  finish_sums<kLevels>(a, end, b, l, w);
}

template <int kLevels>
void run_levels(const Call& call, int64_t job, const Forest& f) {
  const Problem& a = *call.problem;
  const Planes p = planes_of(a);
  const int64_t parts = channel_parts(a, p), image = job / parts / p.jobs(), group = job / parts % p.jobs();
  const Range blocks = range(ceil_div(a.k, kBlock), parts, job % parts);
  const uint8_t* packed = (const uint8_t*)call.packed;
  const Layout at = layout(a, p, f);
  const Workspace w = workspace(a, p, call.workspace);
  const int64_t first = part(p.tiles, p.jobs(), group), last = part(p.tiles, p.jobs(), group + 1);
  const Split* splits = (const Split*)(packed + at.splits);
  const EpilogueI8 end = epilogue_i8(a, at.head, packed);
  const uint8_t* x = image_i8(call, image);
  for (int64_t tile = first; tile < last; ++tile) {
    if (p.flat || tile == first) fill_planes(a, p, x, packed, tile * kRows - p.lead, (const Picks*)(packed + at.picks), f.picked, w);
    find_pixels(a, p, tile * kRows, w);
    for (int64_t i = 0; i < at.steps; ++i)
      encode<kLevels>({w.planes + (p.flat ? 0 : (tile - first) * kRows), p.stride, w.taken, packed[0]}, splits + i * kStep * kLevels,
                      packed + at.trees + i * kStep * tree_bytes(kLevels), w.codes + i * kStep * kRows);
    const int64_t from = blocks.begin * kBlock, to = min64(blocks.end * kBlock, a.k);
    const int64_t bytes = p.flat ? align64(ceil_div(kRows * a.c, ceil_div(to - from, kOutputs))) : 0;
    for (int64_t o = from; o < to; o += W)
      finish_tile<kLevels>(a, end, block_of(call, at.head, image, o / W, W),
                           {w.codes, packed + at.tables + o * at.steps * at.each, at.steps, at.each,
                            x + (tile + 1) * kRows * a.c + (o - from) / kOutputs * bytes, bytes},
                           w);
  }
}

void run(const Call& call, int64_t job) {
  Forest f;
  std::memcpy(&f, (const uint8_t*)call.packed + head(*call.problem, kBlock).bytes, sizeof f);
  (f.levels == 4 ? run_levels<4> : f.levels == 5 ? run_levels<5> : run_levels<6>)(call, job, f);
}

// Per tile and codebook: a tree, and kRows look-ups for every output channel. Measured, for 4, 5 and 6 levels.
double cost(const Problem& a, const Constants& c) {
#if defined(JETTISON_AVX512)
  constexpr double kPerLookUp[3] = {0.8, 0.8, 1.0};
#elif defined(JETTISON_AVX2)
  constexpr double kPerLookUp[3] = {1.0, 1.5, 2.5};
#else
  constexpr double kPerLookUp[3] = {12.0, 12.0, 12.0};
#endif
  const Planes p = planes_of(a);
  const Forest f = forest(c);
  const double tiles = (double)a.n * p.tiles, count = (double)ceil_div(f.codebooks, kStep) * kStep;
  const double per_tree = (kIsa == Isa::scalar ? 16.0 : 2.0) * f.levels, per_look_up = kPerLookUp[f.levels - kLeastLevels];
  return tiles * (count * (per_tree + a.k * per_look_up) + 0.15 * kRows * a.k + 0.1 * kRows * a.c) + count * (1 << f.levels) * a.k / 8;
}

}  // namespace

extern const Kernel lut;
const Kernel lut = {"lut", "conv", "lut", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
