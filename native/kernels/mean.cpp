// Mean over a set of axes.
//
// Neighbouring axes, as in the mean over an image's pixels, make three loops: outer × averaged × inner.
//   inner > 1   the window of window.h, vectors over the inner elements (the channels)
//   inner = 1   a sum along consecutive elements
// Axes with others between them are walked element by element.
#include "../window.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

struct Loops {
  bool neighbours;
  int first, last;  // averaged axes
  int64_t outer, averaged, inner;
};

Loops loops(const Problem& a) {
  Loops l = {true, -1, -1, 1, 1, 1};
  for (int i = 0; i < a.in[0].rank; ++i)
    if (a.axes_mask >> i & 1) {
      if (l.first < 0) l.first = i;
      else if (l.last != i - 1) l.neighbours = false;
      l.last = i;
      l.averaged *= a.in[0].d[i];
    }
  l.outer = a.n * product(a.in[0], 0, l.first);
  l.inner = product(a.in[0], l.last + 1, a.in[0].rank);
  return l;
}

double cycles(const Problem& a) {
  const Loops l = loops(a);
  const double size = (double)a.n * a.in[0].size();
  return l.neighbours ? memory_cycles(size, a.element) + 20.0 * l.outer : 6 * size;
}

Grid cut(const Problem& a) {
  const Loops l = loops(a);
  return l.neighbours ? grid(cycles(a), l.outer, l.inner) : grid(cycles(a), a.n * a.out.size(), 1);
}

int64_t jobs(const Problem& a) { return cut(a).jobs(); }

bool countable(const Problem& a, const Constants&) { return loops(a).averaged <= kMostSummed; }

// Sum of consecutive elements; blocks of 1024 are summed on their own, for accuracy.
double sum_of(const float* x, int64_t n) {
  float total = 0;
  for (int64_t first = 0; first < n; first += 1024) {
    const int64_t end = min64(first + 1024, n);
    f32v even = zero(), odd = zero();
    int64_t i = first;
    for (; i + 2 * W <= end; i += 2 * W) {
      even = add(even, load(x + i));
      odd = add(odd, load(x + i + W));
    }
    for (; i < end; i += W) even = add(even, load_first(x + i, end - i));
    total += sum(add(even, odd));
  }
  return total;
}

double sum_of(const uint8_t* x, int64_t n) {
  i32v lanes = set1_i32(0);
  int64_t i = 0;
  for (; i + W <= n; i += W) lanes = add(lanes, load_u8(x + i));
  int32_t part[W];
  std::memcpy(part, &lanes, sizeof part);
  int64_t total = 0;
  for (int lane = 0; lane < W; ++lane) total += part[lane];
  for (; i < n; ++i) total += x[i];
  return (double)total;
}

// The averaged elements of output element `index`, one by one: kept axes give the place, averaged ones the walk.
template <class T>
double walk(const Problem& a, const T* x, int64_t index) {
  const Shape& s = a.in[0];
  int64_t step[kMaxRank], at[kMaxRank] = {}, place = 0;
  for (int i = s.rank - 1; i >= 0; --i) step[i] = i == s.rank - 1 ? 1 : step[i + 1] * s.d[i + 1];
  for (int i = s.rank - 1; i >= 0; --i)
    if (!(a.axes_mask >> i & 1)) {
      place += index % s.d[i] * step[i];
      index /= s.d[i];
    }
  x += index * s.size() + place;  // what is left of `index` is the image of the batch
  double total = 0;
  for (int axis = 0; axis >= 0;) {
    total += *x;
    for (axis = s.rank - 1; axis >= 0; --axis) {
      if (!(a.axes_mask >> axis & 1)) continue;
      x += step[axis];
      if (++at[axis] < s.d[axis]) break;
      x -= step[axis] * s.d[axis];
      at[axis] = 0;
    }
  }
  return total;
}

template <class F>
void run(const Call& call, int64_t job) {
  using T = typename F::T;
  const Problem& a = *call.problem;
  const Loops l = loops(a);
  const Grid g = cut(a);
  const Range mine = g.row_range(job);
  const T* x = (const T*)call.in[0];
  T* out = (T*)call.out;
  F f(a);
  f.average(l.averaged, l.averaged);
  const int64_t columns = a.in[0].d[l.last];
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    if (!l.neighbours) {
      out[i] = f.one(walk(a, x, i));
    } else if (l.inner == 1) {
      out[i] = f.one(sum_of(x + i * l.averaged, l.averaged));
    } else {
      const Window<T> w = {x + i * l.averaged * l.inner, l.averaged / columns, columns, columns * l.inner, l.inner};
      fold_window(f, w, g.channels(job), out + i * l.inner);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel mean, mean_u8;
const Kernel mean = {"mean", "mean", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<Sum>, cost};
const Kernel mean_u8 = {"mean_u8", "mean", "", kIsa, countable, nullptr, nullptr, nullptr, jobs, run<SumU8>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
