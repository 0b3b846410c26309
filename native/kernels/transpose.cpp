// Axis i of the result is axis perm[i] of x.
//
// Axes that stay neighbours are merged, the batch included: NHWC → NCHW is n × (h·w) × c → n × c × (h·w).
// If the innermost axis stays, rows are copied. Else one output axis B is x's innermost: tiles of
// 16 × 16 of (B, last axis) are moved, whole cache lines on both sides:
//
//   x    16 elements of B together, 16 such runs apart by the last axis' step
//   out  16 elements of the last axis together, 16 such runs apart by B's step
//
// If the last axis is the colours of an image, 3 long, larger blocks of B are interleaved as a whole.
// A job is a range of blocks along B (or of rows).
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kTile = 16;
constexpr int64_t kColours = 3, kColourBlock = 1024;

// The axes of the result: size, step in x, step in the result.
struct Axes {
  int rank = 0;
  int64_t size[kMaxRank + 2], in[kMaxRank + 2], out[kMaxRank + 2];
};

Axes axes_of(const Problem& a) {
  const int rank = a.in[0].rank;
  int64_t step[kMaxRank];
  for (int i = rank - 1; i >= 0; --i) step[i] = i == rank - 1 ? 1 : step[i + 1] * a.in[0].d[i + 1];
  Axes x;
  const auto append = [&](int64_t size, int64_t in) {
    if (size == 1) return;
    const int last = x.rank - 1;
    if (last >= 0 && x.in[last] == size * in) x.size[last] *= size, x.in[last] = in;
    else x.size[x.rank] = size, x.in[x.rank++] = in;
  };
  append(a.n, a.in[0].size());
  for (int i = 0; i < rank; ++i) append(a.in[0].d[a.perm[i]], step[a.perm[i]]);
  if (!x.rank) x.size[0] = 1, x.in[0] = 1, x.rank = 1;
  for (int i = x.rank - 1; i >= 0; --i) x.out[i] = i == x.rank - 1 ? 1 : x.out[i + 1] * x.size[i + 1];
  return x;
}

// The axis that is x's innermost.
int innermost(const Axes& x) {
  int b = 0;
  while (x.in[b] != 1) ++b;
  return b;
}

int64_t block_size(const Axes& x) { return x.size[x.rank - 1] == kColours ? kColourBlock : kTile; }

// Blocks along B, or single rows if the innermost axis stays; times everything outside.
int64_t units(const Axes& x) {
  const int b = innermost(x), last = x.rank - 1;
  int64_t v = b == last ? 1 : ceil_div(x.size[b], block_size(x));
  for (int i = 0; i < last; ++i) v *= i == b ? 1 : x.size[i];
  return v;
}

double cycles(const Problem& a) {
  const Axes x = axes_of(a);
  const double size = (double)a.n * a.in[0].size();
  return memory_cycles(2 * size, a.element) + (innermost(x) == x.rank - 1 ? 10.0 * units(x) : size);
}

int64_t jobs(const Problem& a) { return job_count(cycles(a), units(axes_of(a))); }

template <class T>
void interleave(const T* __restrict in, T* __restrict out, int64_t rows, int64_t in_step) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < kColours; ++j) out[i * kColours + j] = in[i + j * in_step];
}

template <class T>
void move_tiles(const T* in, T* out, int64_t rows, int64_t columns, int64_t in_step, int64_t out_step) {
  for (int64_t first = 0; first < columns; first += kTile) {
    const int64_t end = min64(first + kTile, columns);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = first; j < end; ++j) out[i * out_step + j] = in[i + j * in_step];
  }
}

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Axes x = axes_of(a);
  const int b = innermost(x), last = x.rank - 1;
  const Range mine = range(units(x), jobs(a), job);
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const T* in = (const T*)call.in[0];
    T* out = (T*)call.out;
    int64_t rest = unit, block = 0;
    if (b != last) {
      const int64_t blocks = ceil_div(x.size[b], block_size(x));
      block = rest % blocks * block_size(x);
      rest /= blocks;
    }
    for (int i = last - 1; i >= 0; --i) {
      if (i == b) continue;
      in += rest % x.size[i] * x.in[i];
      out += rest % x.size[i] * x.out[i];
      rest /= x.size[i];
    }
    const int64_t count = min64(block_size(x), x.size[b] - block);
    if (b == last) copy(out, in, x.size[last]);
    else if (x.out[b] == kColours) interleave(in + block, out + block * kColours, count, x.in[last]);
    else move_tiles(in + block, out + block * x.out[b], count, x.size[last], x.in[last], x.out[b]);
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel transpose, transpose_u8;
const Kernel transpose = {"transpose", "transpose", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<float>, cost};
const Kernel transpose_u8 = {"transpose_u8", "transpose", "",   kIsa,         accept_all, nullptr,
                             nullptr,        nullptr,     jobs, run<uint8_t>, cost,       Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
