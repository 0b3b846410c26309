// What the kernels that look up tables share: the input as planes, trees packed, and the codes of a tile of output pixels.
//
// A hash tree asks for a few bytes of a pixel's neighbourhood, so there is no im2col matrix: the input that a job needs is
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
//   job:    some tiles of kRows slots of one image × a range of output channels: planes are filled, then every tile is encoded
//           and looked up
//   packed: head | codebooks, levels, picked channels | picks | splits [codebook][levels] | trees [codebook][tree_bytes] | tables;
//           codebooks are filled up to whole steps with zeros
#pragma once
#include <vector>

#include "conv_i8.h"
#include "picks.h"
#include "vec_lut.h"
#include "vec_turn.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

constexpr int64_t kBlock = 16;       // channels transposed at once
constexpr int64_t kJobTiles = 8;     // of a job: their planes stay in the second-level cache
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
JT_INLINE int64_t phases(int64_t taps, int64_t stride, int64_t dilation) { return taps == 1 || dilation % stride == 0 ? 1 : stride; }

// ⌊column / stride⌋, also left of the image
JT_INLINE int64_t shift_of(int64_t column, int64_t stride) { return column < 0 ? -ceil_div(-column, stride) : column / stride; }

JT_INLINE Planes planes_of(const Problem& a) {
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
  o.tiles_per_job = a.band ? kJobTiles : max64(least, min64(kJobTiles, o.tiles / kFewJobs));
  o.slots = o.flat ? kRows : ceil_div(o.tiles_per_job * kRows + reach_y * o.pitch + o.shifts - 1, kRows) * kRows;
  o.stride = (ceil_div(o.slots, 64) | 1) * 64;  // odd, so that the channels of a block do not meet in one cache set
  return o;
}

struct Forest {
  int64_t codebooks, levels;
  int64_t picked;  // channels, or 0: all
};

// picked: not known yet. Splits are (codebooks, levels).
JT_INLINE Forest forest(const Constants& c) {
  const Constant* const splits = c.item("splits");
  return {splits->d[0], splits->d[1], 0};
}

struct Layout {
  Head head;
  int64_t steps;                         // of codebooks looked up together
  int64_t picks, splits, trees, tables;  // places of the parts
};

JT_INLINE Layout layout(const Problem& a, const Planes& p, const Forest& f, int64_t block_width, int64_t step) {
  Layout o;
  o.head = head(a, block_width);
  o.steps = ceil_div(f.codebooks, step);
  o.picks = o.head.bytes + 64;  // the numbers come first
  o.splits = o.picks + align64(picks_bytes(p.pickable));
  o.trees = o.splits + align64(o.steps * step * f.levels * (int64_t)sizeof(Split));
  o.tables = o.trees + align64(o.steps * step * tree_bytes((int)f.levels) + 64);  // the shuffles of small levels read more than they hold
  return o;
}

JT_INLINE bool has_forest(const Problem& a, const Constants& c, int64_t least_levels, int64_t most_levels) {
  const Constant* const splits = c.item("splits");
  return a.groups == 1 && splits && splits->rank == 2 && splits->d[1] >= least_levels && splits->d[1] <= most_levels &&
         c.find("thresholds") && c.find("tables") && has_head(c) && planes_of(a).bytes() < 1 << 30;
}

// Which of a stride's columns `column` is; 0 where all taps fall on one.
JT_INLINE int64_t phase_x(const Problem& a, const Planes& p, int64_t column) {
  return p.phases_x == 1 ? 0 : column - shift_of(column, a.stride_w) * a.stride_w;
}

// The same for every number of rows.
JT_INLINE Split split_of(const Problem& a, const Planes& p, int32_t split) {
  const int64_t channel = split % a.c, tap = split / a.c;
  const int64_t dy = tap / a.s * a.dilation_h, dx = tap % a.s * a.dilation_w - a.pad_l;
  const int64_t from_lead = shift_of(dx, a.stride_w) + p.lead;
  const int64_t phase = dy % a.stride_h * p.phases_x + phase_x(a, p, dx);
  return {(int32_t)(phase * p.channels + channel), (int32_t)(dy / a.stride_h * p.pitch + from_lead), (int32_t)from_lead};
}

// All but the tables. packed holds zeros.
JT_INLINE void pack_forest(const Problem& a, const Constants& c, const Layout& at, int64_t block_width, uint8_t* packed) {
  Forest f = forest(c);
  const Planes p = planes_of(a);
  pack_head(a, c, at.head, block_width, packed);
  const int32_t* splits = (const int32_t*)c.find("splits");
  std::vector<int32_t> order;
  f.picked = pack_picks(p.pickable, splits, f.codebooks * f.levels, (Picks*)(packed + at.picks), &order);
  std::memcpy(packed + at.head.bytes, &f, sizeof f);
  const uint8_t* thresholds = (const uint8_t*)c.find("thresholds");
  for (int64_t i = 0; i < f.codebooks; ++i)
    for (int level = 0; level < f.levels; ++level) {
      const int32_t split = splits[i * f.levels + level];
      const int64_t nodes = (int64_t)1 << level;
      ((Split*)(packed + at.splits))[i * f.levels + level] = split_of(a, p, f.picked ? order[split] : split);
      std::memcpy(packed + at.trees + i * tree_bytes((int)f.levels) + tree_bytes(level),
                  thresholds + i * (((int64_t)1 << f.levels) - 1) + nodes - 1, nodes);
    }
}

JT_INLINE Forest packed_forest(const Call& call, int64_t block_width) {
  Forest f;
  std::memcpy(&f, (const uint8_t*)call.packed + head(*call.problem, block_width).bytes, sizeof f);
  return f;
}

// What a thread needs while it runs a job.
struct Workspace {
  const uint8_t** sources;  // of every slot of one phase
  uint8_t* rows;            // channels picked, of the pixels of a tile
  uint8_t* planes;
  uint8_t* codes;  // of a tile, 8 or 16 bits each
  int32_t* pixel;  // of every slot of a tile, −1: none
  Taken* taken;    // of every shift: the rows of a tile that it leaves inside their image row
  int64_t bytes;   // what is behind them is the kernel's
};

// Codebooks are at most one per input: v ≥ 1.
JT_INLINE Workspace workspace(const Problem& a, const Planes& p, void* memory) {
  Workspace w;
  Room room = {(char*)memory};
  w.sources = (const uint8_t**)room.take(p.slots * 8);
  w.rows = (uint8_t*)room.take(picks_bytes(p.pickable) ? kRows * a.c : 0);
  w.planes = (uint8_t*)room.take(p.bytes());
  w.codes = (uint8_t*)room.take(ceil_div(a.r * a.s * a.c, kStep) * kStep * kRows * (int64_t)sizeof(uint16_t));
  w.pixel = (int32_t*)room.take(kRows * 4);
  w.taken = (Taken*)room.take(p.shifts * (int64_t)sizeof(Taken));
  w.bytes = room.at - (char*)memory;
  return w;
}

JT_INLINE int64_t forest_workspace_bytes(const Problem& a) { return workspace(a, planes_of(a), nullptr).bytes; }

JT_INLINE int64_t channel_parts(const Problem& a, const Planes& p) {
  return a.band ? 1 : max64(1, min64(ceil_div(kFewJobs, a.n * p.jobs()), a.k / kLeastWidth));
}

JT_INLINE int64_t forest_jobs(const Problem& a) {
  const Planes p = planes_of(a);
  return a.n * p.jobs() * channel_parts(a, p);
}

// Where the slots from `first` on of one phase find their pixel.
JT_INLINE void find_sources(const Problem& a, const Planes& p, const uint8_t* image, const uint8_t* padding, int64_t first, int64_t phase,
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
JT_INLINE void fill_phase(const Problem& a, const Planes& p, const Rows& pixels, uint8_t* planes) {
  for (int64_t i = 0; i < p.slots; i += kRows)
    for (int64_t c = 0; c < a.c; c += kBlock) rows_to_columns(from_row(pixels, i), c, planes + c * p.stride + i, p.stride);
}

// Of one tile, as where channels are picked there is one tap.
template <class Rows>
JT_INLINE void fill_picked(const Planes& p, const Rows& pixels, const Picks* picks, int64_t picked, const Workspace& w) {
  pick_rows(picks, picked, pixels, w.rows);
  const EvenRows rows = {w.rows, ceil_div(picked, 64) * 64};
  for (int64_t c = 0; c < picked; c += kBlock) rows_to_columns(rows, c, w.planes + c * p.stride, p.stride);
}

JT_INLINE void fill_planes(const Problem& a, const Planes& p, const uint8_t* image, const uint8_t* padding, int64_t first,
                           const Picks* picks, int64_t picked, const Workspace& w) {
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
JT_INLINE void find_pixels(const Problem& a, const Planes& p, int64_t first, const Workspace& w) {
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

// What tiles cost on one core, in cycles, as measured.
struct Cost {
  double tree;     // a codebook of a tile, for every 16 bytes of its thresholds
  double look_up;  // what is looked up at once of a codebook: `at_once` gives how many times that is of a tile
  double finish;   // one output
  double far;      // a byte of tables that the second-level cache does not hold
};

JT_INLINE double cost_of(const Problem& a, const Constants& c, const Cost& each, double at_once) {
  constexpr double kCached = 400 << 10;
  const Forest f = forest(c);
  const double tiles = (double)a.n * planes_of(a).tiles, bytes = (double)(f.codebooks << f.levels) * a.k;
  return tiles * (f.codebooks * (each.tree * tree_bytes((int)f.levels) / 16 + each.look_up * at_once) + each.finish * kRows * a.k +
                  0.1 * kRows * a.c + each.far * (bytes > kCached ? bytes - kCached : 0));
}

// What one job looks up: tiles of an image, and the blocks of its output channels.
struct Share {
  int64_t image, first, last;
  Range blocks;
};

JT_INLINE Share share(const Problem& a, const Planes& p, int64_t job, int64_t block_width) {
  const int64_t parts = channel_parts(a, p), group = job / parts % p.jobs();
  return {job / parts / p.jobs(), part(p.tiles, p.jobs(), group), part(p.tiles, p.jobs(), group + 1),
          range(ceil_div(a.k, block_width), parts, job % parts)};
}

// All that a job needs to know.
struct Task {
  Planes planes;
  Share share;
  Layout at;
  Workspace memory;
  EpilogueI8 end;
  const uint8_t *packed, *trees, *tables;
  const Split* splits;
};

JT_INLINE Task task(const Call& call, int64_t job, const Forest& f, int64_t block_width, int64_t step) {
  const Problem& a = *call.problem;
  Task t;
  t.planes = planes_of(a);
  t.share = share(a, t.planes, job, block_width);
  t.at = layout(a, t.planes, f, block_width, step);
  t.memory = workspace(a, t.planes, call.workspace);
  t.packed = (const uint8_t*)call.packed;
  t.end = epilogue_i8(a, t.at.head, t.packed);
  t.trees = t.packed + t.at.trees, t.tables = t.packed + t.at.tables;
  t.splits = (const Split*)(t.packed + t.at.splits);
  return t;
}

// then(tile, its planes, if filled) for every tile of a job, its pixels found.
template <class Then>
JT_INLINE void for_tiles(const Call& call, const Task& t, const Forest& f, bool filled, const Then& then) {
  const Problem& a = *call.problem;
  const Planes& p = t.planes;
  const Workspace& w = t.memory;
  const uint8_t* x = image_i8(call, t.share.image);
  for (int64_t tile = t.share.first; tile < t.share.last; ++tile) {
    if (filled && (p.flat || tile == t.share.first))
      fill_planes(a, p, x, t.packed, tile * kRows - p.lead, (const Picks*)(t.packed + t.at.picks), f.picked, w);
    find_pixels(a, p, tile * kRows, w);
    then(tile, PlaneBytes{w.planes + (p.flat ? 0 : (tile - t.share.first) * kRows), p.stride, w.taken, t.packed[0]});
  }
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
