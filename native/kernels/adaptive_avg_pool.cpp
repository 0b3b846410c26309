// Output row i averages input rows ⌊i·h/p⌋ … ⌈(i+1)·h/p⌉ − 1; columns alike (window.h).
#include "../window.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool countable(const Problem& a, const Constants&) { return a.in[0].d[0] * a.in[0].d[1] <= kMostSummed; }

double cycles(const Problem& a) {
  const double taps = (double)(a.in[0].d[0] / a.out.d[0] + 1) * (a.in[0].d[1] / a.out.d[1] + 1);
  return (double)a.n * a.out.d[0] * a.out.d[1] * (10 + ceil_div(a.out.d[2], W) * taps);
}

Grid cut(const Problem& a) { return grid(cycles(a), a.n * a.out.d[0], a.out.d[2]); }

int64_t jobs(const Problem& a) { return cut(a).jobs(); }

Range window(int64_t i, int64_t size, int64_t count) { return {i * size / count, ceil_div((i + 1) * size, count)}; }

template <class F>
void run(const Call& call, int64_t job) {
  using T = typename F::T;
  const Problem& a = *call.problem;
  const int64_t h = a.in[0].d[0], w = a.in[0].d[1], c = a.in[0].d[2], p = a.out.d[0], q = a.out.d[1];
  const Grid g = cut(a);
  F f(a);
  const Range mine = g.row_range(job), channels = g.channels(job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const T* image = (const T*)call.in[0] + row / p * h * w * c;
    const Range y = window(row % p, h, p);
    for (int64_t j = 0; j < q; ++j) {
      const Window<T> v = window_of(image, y, window(j, w, q), w, c);
      f.average(v.rows * v.columns, v.rows * v.columns);
      fold_window(f, v, channels, (T*)call.out + (row * q + j) * c);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel adaptive_avg_pool, adaptive_avg_pool_u8;
const Kernel adaptive_avg_pool = {
    "adaptive_avg_pool", "adaptive_avg_pool", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<Sum>, cost};
const Kernel adaptive_avg_pool_u8 = {
    "adaptive_avg_pool_u8", "adaptive_avg_pool", "", kIsa, countable, nullptr, nullptr, nullptr, jobs, run<SumU8>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
