// Convolution and linear layers by table look-up with codes of pixels (formats/pixel_lut.py), groups = 1: u8 inputs, int8 tables, exact
// int32 sums. Tables are looked up by rows (table_rows.h).
//
//   job:    a few output rows of one image. The trees of every pixel of the padded input that they see are asked first
//   codes:  [padded input row][group][column], 16 bits
//   planes: some pixels turned, a row of bytes for each channel, so that a tree is asked for all of them at once (vec_walk.h)
//   packed: head | groups, levels | questions [group][level] | trees [group][tree_bytes] | tables
#include "../table_rows.h"
#include "../vec_turn.h"
#include "../vec_walk.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kBlock = 16;                     // channels turned at once
constexpr int64_t kLeastRows = 4, kMostRows = 16;  // of a job: neighbours ask the rows between them twice

struct Trees {
  int64_t groups, levels;
  int64_t nodes() const { return ((int64_t)1 << levels) - 1; }
  int64_t entries(const Problem& a) const { return (a.r * a.s * groups) << levels; }
};

Trees trees(const Constants& c) {
  const Constant* const questions = c.item("questions");
  return {questions->d[0], questions->d[1]};
}

struct Layout {
  Head head;
  int64_t questions, trees, tables;  // places of the parts
};

Layout layout(const Problem& a, const Trees& t) {
  Layout o;
  o.head = head(a, kWide);
  o.questions = o.head.bytes + 64;  // the numbers come first
  o.trees = o.questions + align64(t.groups * t.levels * (int64_t)sizeof(Question));
  o.tables = o.trees + align64(t.groups * tree_bytes((int)t.levels) + 64);  // the shuffles of small levels read more than they hold
  return o;
}

bool accepts(const Problem& a, const Constants& c) {
  const Constant* const questions = c.item("questions");
  return a.groups == 1 && questions && questions->rank == 3 && questions->d[1] >= 1 && questions->d[1] <= kDeepest &&
         c.find("thresholds") && c.find("tables") && has_head(c);
}

int64_t packed_bytes(const Problem& a, const Constants& c) {
  const Trees t = trees(c);
  return layout(a, t).tables + table_rows_bytes(a, t.entries(a));
}

void pack(const Problem& a, const Constants& c, void* out) {
  const Trees t = trees(c);
  const Layout at = layout(a, t);
  uint8_t* packed = (uint8_t*)out;
  std::memset(packed, 0, packed_bytes(a, c));
  pack_head(a, c, at.head, kWide, packed);
  std::memcpy(packed + at.head.bytes, &t, sizeof t);
  const int32_t* from = (const int32_t*)c.find("questions");
  Question* to = (Question*)(packed + at.questions);
  for (int64_t i = 0; i < t.groups * t.levels; ++i, from += 2)
    to[i] = {from[0], from[1] < 0 ? -1 - from[1] : from[1], from[1] < 0 ? 255 : 0};
  const uint8_t* thresholds = (const uint8_t*)c.find("thresholds");
  for (int64_t g = 0; g < t.groups; ++g)
    for (int level = 0; level < t.levels; ++level) {
      const int64_t nodes = (int64_t)1 << level;
      std::memcpy(packed + at.trees + g * tree_bytes((int)t.levels) + tree_bytes(level), thresholds + g * t.nodes() + nodes - 1, nodes);
    }
  pack_table_rows(a, c, t.entries(a), packed + at.tables);
}

// Two operations for each output's look-up, more for a pixel's trees.
double cycles(const Problem& a) { return (double)a.n * a.p * a.q * a.r * a.s * ceil_div(a.c, 8) * (ceil_div(a.k, kWords) + 2); }

// Of the output; of the padded input that some of them see, and its columns.
int64_t rows_of_job(const Problem& a) {
  if (a.band) return a.p;
  return max64(min64(a.p, kLeastRows), min64(kMostRows, ceil_div(a.p, job_count(cycles(a) / (double)a.n, a.p))));
}
int64_t seen_rows(const Problem& a, int64_t rows) { return (rows - 1) * a.stride_h + (a.r - 1) * a.dilation_h + 1; }
int64_t seen_columns(const Problem& a) { return (a.q - 1) * a.stride_w + (a.s - 1) * a.dilation_w + 1; }

int64_t parts_of(const Problem& a) { return ceil_div(a.p, rows_of_job(a)); }
int64_t jobs(const Problem& a) { return a.n * parts_of(a); }

// What a thread needs while it runs a job. Groups are at most one for each channel.
struct Workspace {
  uint16_t* codes;
  int32_t* offsets;  // of every codebook, from the codes of an output's first pixel
  uint8_t* planes;   // kRows bytes of every channel
  int64_t bytes;
};

Workspace workspace(const Problem& a, void* memory) {
  Workspace w;
  Room room = {(char*)memory};
  w.codes = (uint16_t*)room.take(seen_rows(a, rows_of_job(a)) * a.c * seen_columns(a) * (int64_t)sizeof(uint16_t));
  w.offsets = (int32_t*)room.take(a.r * a.s * a.c * (int64_t)sizeof(int32_t));
  w.planes = (uint8_t*)room.take(ceil_div(a.c, kBlock) * kBlock * kRows);
  w.bytes = room.at - (char*)memory;
  return w;
}

int64_t workspace_bytes(const Problem& a) { return workspace(a, nullptr).bytes; }

// The padded input that a job sees, and where its codes are.
struct Seen {
  int64_t top, rows, columns;  // rows from `top` on, which may lie outside the image
  int64_t left, width;         // where the image's columns begin, and how many of them are seen
  Trees trees;
  uint16_t* codes;
  uint16_t* of(int64_t row, int64_t group) const { return codes + (row * trees.groups + group) * columns; }
};

// Leaves of the kRows pixels in `planes` in the trees of one group.
void walk_group(const Layout& at, const Trees& t, const uint8_t* packed, const uint8_t* planes, int64_t group, uint16_t* codes) {
  const Question* questions = (const Question*)(packed + at.questions) + group * t.levels;
  walk([&](int64_t level) JT_FLAT { return ask(planes, questions[level]); }, packed + at.trees + group * tree_bytes((int)t.levels),
       t.levels, codes);
}

// Codes of n ≤ kRows pixels of the image from `first` on, whatever rows they lie in.
void encode_pixels(const Call& call, const Layout& at, const Workspace& w, const Seen& seen, const uint8_t* image, int64_t first,
                   int64_t n) {
  const Problem& a = *call.problem;
  const uint8_t* packed = (const uint8_t*)call.packed;
  const uint8_t* rows[kRows];
  for (int64_t i = 0; i < kRows; ++i) rows[i] = image + (first + min64(i, n - 1)) * a.c;
  for (int64_t c = 0; c < a.c; c += kBlock) rows_to_columns((const uint8_t* const*)rows, c, w.planes + c * kRows, kRows);
  for (int64_t g = 0; g < seen.trees.groups; ++g) {
    uint16_t codes[kRows];
    walk_group(at, seen.trees, packed, w.planes, g, codes);
    for (int64_t i = 0; i < n;) {  // row by row
      const int64_t y = (first + i) / a.w, x = first + i - y * a.w, some = min64(n - i, a.w - x);
      if (x < seen.width) std::memcpy(seen.of(y - seen.top, g) + seen.left + x, codes + i, min64(some, seen.width - x) * sizeof(uint16_t));
      i += some;
    }
  }
}

void encode(const Call& call, const Layout& at, const Workspace& w, const Seen& seen, const uint8_t* image) {
  const Problem& a = *call.problem;
  const uint8_t* packed = (const uint8_t*)call.packed;
  const int64_t begin = max64(seen.top, 0), end = min64(seen.top + seen.rows, a.h);
  for (int64_t first = begin * a.w; first < end * a.w; first += kRows)
    encode_pixels(call, at, w, seen, image, first, min64(kRows, end * a.w - first));
  if (begin == seen.top && end == seen.top + seen.rows && !seen.left && seen.width == seen.columns) return;
  for (int64_t i = 0; i < ceil_div(a.c, kBlock) * kBlock * kRows; ++i) w.planes[i] = packed[0];  // the zero point
  for (int64_t g = 0; g < seen.trees.groups; ++g) {
    uint16_t codes[kRows];
    walk_group(at, seen.trees, packed, w.planes, g, codes);
    for (int64_t row = 0; row < seen.rows; ++row) {
      uint16_t* to = seen.of(row, g);
      const bool inside = seen.top + row >= begin && seen.top + row < end;
      const int64_t left = inside ? seen.left : seen.columns, right = inside ? seen.left + seen.width : seen.columns;
      for (int64_t x = 0; x < left; ++x) to[x] = codes[0];
      for (int64_t x = right; x < seen.columns; ++x) to[x] = codes[0];
    }
  }
}

// One block of channels of kTogether output pixels of a row, the last ones perhaps beyond it.
template <int OB>
void look_up_block(const Problem& a, const EpilogueI8& end, const BlockI8& b, const Trees& t, const uint8_t* tables,
                   const uint16_t* const (&first)[kTogether], const int32_t* offsets, const int32_t* pixel) {
  i32v acc[kTogether][OB];
  look_up_pixels<OB>(tables, a.r * a.s * t.groups, t.levels, b.bias, acc,
                     [&](int64_t i, int p) JT_FLAT { return (int64_t)first[p][offsets[i]]; });
  finish_pixels<OB>(a, end, b, acc, pixel);
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const uint8_t* packed = (const uint8_t*)call.packed;
  Trees t;
  std::memcpy(&t, packed + head(a, kWide).bytes, sizeof t);
  const Layout at = layout(a, t);
  const Workspace w = workspace(a, call.workspace);
  const EpilogueI8 end = epilogue_i8(a, at.head, call.packed);
  const int64_t parts = parts_of(a), image = job / parts, columns = seen_columns(a);
  const Range rows = range(a.p, parts, job % parts);
  const int64_t left = min64(columns, a.pad_l), width = min64(columns - left, a.w);
  const Seen seen = {rows.begin * a.stride_h - a.pad_t, seen_rows(a, rows.end - rows.begin), columns, left, width, t, w.codes};
  encode(call, at, w, seen, image_i8(call, image));
  for (int64_t tap = 0, i = 0; tap < a.r * a.s; ++tap)
    for (int64_t g = 0; g < t.groups; ++g, ++i)
      w.offsets[i] = (int32_t)((tap / a.s * a.dilation_h * t.groups + g) * columns + tap % a.s * a.dilation_w);
  for (int64_t block = 0; block < ceil_div(a.k, kWide); ++block) {
    const BlockI8 b = block_of(call, at.head, image, block, kWide);
    const uint8_t* tables = packed + at.tables + block * block_bytes(t.entries(a));
    const int64_t vectors = vectors_of(a, block, kWide);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const uint16_t* row = w.codes + (y - rows.begin) * a.stride_h * t.groups * columns;
      for (int64_t x = 0; x < a.q; x += kTogether) {
        const uint16_t* first[kTogether];
        int32_t pixel[kTogether];
        for (int64_t p = 0; p < kTogether; ++p) {
          first[p] = row + min64(x + p, a.q - 1) * a.stride_w;
          pixel[p] = x + p < a.q ? (int32_t)(y * a.q + x + p) : -1;
        }
        (vectors == 1   ? look_up_block<1>
         : vectors == 2 ? look_up_block<2>
         : vectors == 3 ? look_up_block<3>
                        : look_up_block<4>)(a, end, b, t, tables, first, w.offsets, pixel);
      }
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel pixel_lut;
const Kernel pixel_lut = {"pixel_lut", "conv",          "pixel_lut", kIsa, accepts, packed_bytes,
                          pack,        workspace_bytes, jobs,        run,  cost,    Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
