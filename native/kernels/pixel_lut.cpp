// Convolution and linear layers by table look-up with codes of pixels (formats/pixel_lut.py), groups = 1: u8 inputs, int8 tables, exact
// int32 sums. Tables are looked up by rows (table_rows.h).
//
//   job:    a few output rows of one image. The trees of every pixel of the padded input that they see are asked first
//   codes:  [padded input row][group][column], 16 bits
//   packed: head | groups, levels | questions [group][level] | thresholds [group][K − 1] | tables
#include "../table_rows.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kMostLevels = 12;
constexpr int64_t kLeastRows = 4, kMostRows = 16;  // of a job: neighbours ask the rows between them twice

const Constant* questions_of(const Constants& c) {
  for (int i = 0; i < c.count; ++i)
    if (!std::strcmp(c.items[i].role, "questions")) return c.items + i;
  return nullptr;
}

struct Trees {
  int64_t groups, levels;
  int64_t nodes() const { return ((int64_t)1 << levels) - 1; }
  int64_t entries(const Problem& a) const { return (a.r * a.s * groups) << levels; }
};

Trees trees(const Constants& c) { return {questions_of(c)->d[0], questions_of(c)->d[1]}; }

// Is the mean of two bytes of a pixel larger than a threshold; flip: 255 turns the second into its complement.
struct Question {
  int32_t first, second, flip;
};

struct Layout {
  Head head;
  int64_t questions, thresholds, tables;  // places of the parts
};

Layout layout(const Problem& a, const Trees& t) {
  Layout o;
  o.head = head(a, kWide);
  o.questions = o.head.bytes + 64;  // the numbers come first
  o.thresholds = o.questions + align64(t.groups * t.levels * (int64_t)sizeof(Question));
  o.tables = o.thresholds + align64(t.groups * t.nodes());
  return o;
}

bool accepts(const Problem& a, const Constants& c) {
  const Constant* questions = questions_of(c);
  return a.groups == 1 && questions && questions->rank == 3 && questions->d[1] >= 1 && questions->d[1] <= kMostLevels &&
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
  std::memcpy(packed + at.thresholds, c.find("thresholds"), t.groups * t.nodes());
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
  int64_t bytes;
};

Workspace workspace(const Problem& a, void* memory) {
  const int64_t codes = align64(seen_rows(a, rows_of_job(a)) * a.c * seen_columns(a) * (int64_t)sizeof(uint16_t));
  return {(uint16_t*)memory, (int32_t*)((char*)memory + codes), codes + align64(a.r * a.s * a.c * (int64_t)sizeof(int32_t))};
}

int64_t workspace_bytes(const Problem& a) { return workspace(a, nullptr).bytes; }

// The leaf of one tree. No branch: answers cannot be foretold.
JT_INLINE uint32_t leaf(const uint8_t* pixel, const Question* question, const uint8_t* thresholds, int64_t levels) {
  uint32_t code = 0;
  for (int64_t l = 0; l < levels; ++l) {
    const int32_t asked = (pixel[question[l].first] + (pixel[question[l].second] ^ question[l].flip) + 1) >> 1;
    code |= (uint32_t)(thresholds[((uint32_t)1 << l) - 1 + code] - asked) >> 31 << l;
  }
  return code;
}

// Codes of `rows` rows of the padded input from `top` on.
void encode(const Call& call, const Layout& at, const Trees& t, const uint8_t* image, int64_t top, int64_t rows, uint16_t* codes) {
  const Problem& a = *call.problem;
  const int64_t columns = seen_columns(a);
  const uint8_t* packed = (const uint8_t*)call.packed;
  for (int64_t y = top; y < top + rows; ++y)
    for (int64_t g = 0; g < t.groups; ++g, codes += columns) {
      const Question* question = (const Question*)(packed + at.questions) + g * t.levels;
      const uint8_t* thresholds = packed + at.thresholds + g * t.nodes();
      const uint16_t outside = (uint16_t)leaf(packed, question, thresholds, t.levels);
      const bool in_rows = (uint64_t)y < (uint64_t)a.h;
      const int64_t begin = in_rows ? min64(columns, a.pad_l) : columns, end = in_rows ? min64(columns, a.pad_l + a.w) : columns;
      for (int64_t x = 0; x < begin; ++x) codes[x] = outside;
      const uint8_t* pixel = image + y * a.w * a.c;
      for (int64_t x = begin; x < end; ++x, pixel += a.c) codes[x] = (uint16_t)leaf(pixel, question, thresholds, t.levels);
      for (int64_t x = end; x < columns; ++x) codes[x] = outside;
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
  encode(call, at, t, image_i8(call, image), rows.begin * a.stride_h - a.pad_t, seen_rows(a, rows.end - rows.begin), w.codes);
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
