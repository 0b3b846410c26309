// Block-sparse weights (formats/block.py) as a skip list of kept windows: what block and block_i8 share.
//
// The outputs of a block-row keep the same blocks, so a unit, `vectors` vectors of its output channels, goes through one list of
// visits: which window of channels at which tap (a stop of conv.h), and how many entries follow (gather.h, gather_i8.h). What was removed
// costs nothing, not even a count. It is one flat list: windows listed tap by tap end in loops of ever another length, and
// mispredicted branches that last as long as the arithmetic of a small block.
//
//   packed: header (Units) | per unit: number of visits | visits | entries
#pragma once
#include "kept.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// rows, cols: of a block. kept: blocks of a block-row. per_block: kept weights of one output channel in a block.
struct Blocks {
  int64_t rows, cols, kept, per_block, n, m;
  const uint32_t* columns;  // (k / rows, kept)
  const uint8_t* positions;
  const void* values;  // (k, 1, kept, per_block)
};

JT_INLINE const Constant* item(const Constants& c, const char* role) {
  for (int i = 0; i < c.count; ++i)
    if (std::strcmp(c.items[i].role, role) == 0) return c.items + i;
  return nullptr;
}

constexpr int64_t kMostVisited = 1 << 16;  // taps, windows: see Visit

// False if the constants are not those of block-sparse weights, or of more inputs than a visit can name.
JT_INLINE bool read_blocks(const Problem& a, const Constants& c, Blocks* b) {
  const Constant *columns = item(c, "blocks"), *values = item(c, "values"), *positions = item(c, "positions");
  if (!columns || !values || !positions || c.m < 1 || a.groups != 1 || columns->d[0] < 1 || a.k % columns->d[0]) return false;
  *b = {a.k / columns->d[0],
        values->d[3] / c.n * c.m,
        columns->d[1],
        values->d[3],
        c.n,
        c.m,
        (const uint32_t*)columns->data,
        (const uint8_t*)positions->data,
        values->data};
  return b->rows % 16 == 0 && b->cols % 16 == 0 && a.c % b->cols == 0 && a.r * a.s <= kMostVisited && a.c / kLane <= kMostVisited;
}

template <class T>
constexpr int kUnitVectors = kRegisters == 32 || (sizeof(T) == 4 && kIsa == Isa::avx2) ? 2 : 1;
constexpr int64_t kJobWidth = 16 * W;  // output channels by which jobs are cut: several units
template <class T>
constexpr int kTilePixels = kRegisters == 32 || (sizeof(T) == 1 && kIsa == Isa::avx2) ? 8 : 4;

JT_INLINE Walk tap_by_tap(const Problem& a) { return {a.r * a.s, a.c, false}; }

template <class T>
JT_INLINE int64_t workspace_of(const Problem& a) {
  return table_bytes<T, kTilePixels<T>>(a, tap_by_tap(a));
}

// One window of the inputs at one tap, and its entries, at least one.
struct Visit {
  uint16_t tap, window, entries;
};

// Where the parts of a unit lie: alike in all units, as all keep equally many blocks.
struct Units {
  int64_t width;   // output channels of a unit
  int64_t window;  // inputs of a window
  int64_t visits_bytes, entries_bytes;
  int64_t bytes() const { return visits_bytes + entries_bytes; }
};
constexpr int64_t kUnitsBytes = align64(sizeof(Units));  // stored first: run knows only the problem

// window: channels. holds: weights of one output channel that an entry takes at least.
template <class T>
JT_INLINE Units units(const Problem& a, const Blocks& b, int64_t window, int64_t holds, int64_t entry_bytes) {
  const int64_t width = min64(b.rows, kUnitVectors<T> * W), windows = b.kept * max64(1, b.cols / window);
  const int64_t full = windows * ceil_div(most_per_window(a.c, window, b.n, b.m), holds);
  const int64_t exact = ceil_div(b.kept * b.per_block, holds) + windows;
  const int64_t entries = b.m <= window ? min64(full, exact) : full;  // groups wider than a window fill windows unevenly
  return {width, window, align64(sizeof(int64_t) + windows * sizeof(Visit)), align64(entries * width / W * entry_bytes)};
}

// Units that a tile meets one after the other: their entries stay in the first-level cache.
JT_INLINE int64_t group_of(const Units& u) { return max64(1, kNearBytes / max64(u.entries_bytes, 1)); }

// What one unit does.
struct Unit {
  int64_t count;  // of visits, at least one
  const Visit* visits;
  const uint8_t* entries;
};

JT_INLINE Unit unit(const uint8_t* packed, const Units& u, int64_t index) {
  const uint8_t* at = packed + kUnitsBytes + index * u.bytes();
  return {*(const int64_t*)at, (const Visit*)(at + sizeof(int64_t)), at + u.visits_bytes};
}

// f(unit, Count<PB>(), pixel, table) for every unit and tile of a job; at.blocks are widths of kJobWidth.
template <class T, class F>
JT_INLINE void for_units(const Call& call, const Units& u, Piece at, const T* image, const T* padding, const F& f) {
  const int64_t begin = at.blocks.begin * kJobWidth / u.width, end = min64(call.problem->k, at.blocks.end * kJobWidth) / u.width;
  const int64_t each = group_of(u);
  at.blocks = {0, ceil_div(end - begin, each)};
  for_tiles<T, kTilePixels<T>>(
      call, tap_by_tap(*call.problem), at, image, padding, [](int64_t group) { return group; },
      [&](int64_t group, auto count, int64_t pixel, const T* const* table) {
        const int64_t first = begin + group * each;
        for (int64_t i = first; i < min64(first + each, end); ++i) f(i, count, pixel, table);
      });
}

// Packs the kept blocks of one unit in the order of their columns; blocks that fall into one window share its entries.
template <class T, class Put>
struct UnitWriter {
  const Problem& a;
  const Blocks& b;
  const Put& put;
  int64_t width, window, entry_bytes, first;  // first: output channel
  Visit* next;
  uint8_t* entries;
  int64_t count = 0;
  KeptList<T> kept[kUnitVectors<T> * W] = {};  // of every output, in the window of the last visit

  void block(int64_t j) {
    const int64_t per_tap = a.c / b.cols, column = b.columns[first / b.rows * b.kept + j], channel = column % per_tap * b.cols;
    for (int64_t from = 0; from < b.cols; from += window) {
      const int64_t at = (channel + from) / window;
      visit((uint16_t)(column / per_tap), (uint16_t)at);
      for (int64_t o = 0; o < width; ++o) collect(j, o, from, channel - at * window);
    }
  }

  void visit(uint16_t tap, uint16_t at) {
    if (count > 0 && next[-1].tap == tap && next[-1].window == at) return;
    finish();
    *next++ = {tap, at, 1};
    ++count;
  }

  // Writes the entries of the last visit.
  void finish() {
    if (count == 0) return;
    const int64_t entry_count = put(entries, kept);
    for (int64_t o = 0; o < width; ++o) kept[o].count = 0;
    next[-1].entries = (uint16_t)entry_count;
    entries += entry_count * (width / W) * entry_bytes;
  }

  void collect(int64_t j, int64_t o, int64_t from, int64_t shift) {
    const int64_t row = ((first + o) * b.kept + j) * b.per_block;
    const T* values = (const T*)b.values + row;
    for (int64_t i = 0; i < b.per_block; ++i) {
      const int64_t channel = i / b.n * b.m + b.positions[row + i];
      if (channel >= from && channel < from + window && values[i] != 0) kept[o].add(channel + shift, values[i]);
    }
  }
};

// Writes all units. put(entries, kept): what the outputs of a unit keep in a window. Returns how many entries that takes: the
// fullest output decides, the others are filled up with zeros.
template <class T, class Put>
void pack_units(const Problem& a, const Blocks& b, int64_t window, int64_t holds, int64_t entry_bytes, uint8_t* packed, const Put& put) {
  const Units u = units<T>(a, b, window, holds, entry_bytes);
  std::memcpy(packed, &u, sizeof u);
  for (int64_t i = 0; i < a.k / u.width; ++i) {
    const Unit to = unit(packed, u, i);
    UnitWriter<T, Put> w{a, b, put, u.width, window, entry_bytes, i * u.width, (Visit*)to.visits, (uint8_t*)to.entries};
    for (int64_t j = 0; j < b.kept; ++j) w.block(j);
    w.finish();
    std::memcpy((void*)((uint8_t*)to.visits - sizeof(int64_t)), &w.count, sizeof w.count);
  }
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
