// Sum over each window / the number of its positions inside the image grown by count_pad (top, left,
// bottom, right). Windows are clipped to the image (window.h): padding adds nothing.
#include "../window.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool countable(const Problem& a, const Constants&) { return a.r * a.s <= kMostSummed; }

Grid cut(const Problem& a) { return grid(pool_cycles(a), a.n * a.p, a.c); }

int64_t jobs(const Problem& a) { return cut(a).jobs(); }

// Positions of the window that count: inside [−before, size + after).
int64_t counted(int64_t start, int64_t taps, int64_t size, int64_t before, int64_t after) {
  return max64(min64(start + taps, size + after) - max64(start, -before), 1);
}

template <class F>
void run(const Call& call, int64_t job) {
  using T = typename F::T;
  const Problem& a = *call.problem;
  const Grid g = cut(a);
  F f(a);
  const Range mine = g.row_range(job), channels = g.channels(job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const T* image = (const T*)call.in[0] + row / a.p * a.h * a.w * a.c;
    T* out = (T*)call.out + row * a.q * a.c;
    const int64_t top = row % a.p * a.stride_h - a.pad_t;
    const int64_t count_y = counted(top, a.r, a.h, a.count_pad[0], a.count_pad[2]);
    for (int64_t j = 0; j < a.q; ++j, out += a.c) {
      const int64_t left = j * a.stride_w - a.pad_l;
      const Window<T> w = window_of(image, clip(top, a.r, a.h), clip(left, a.s, a.w), a.w, a.c);
      f.average(w.rows * w.columns, count_y * counted(left, a.s, a.w, a.count_pad[1], a.count_pad[3]));
      fold_window(f, w, channels, out);
    }
  }
}

double cost(const Problem& a, const Constants&) { return pool_cycles(a); }

}  // namespace

extern const Kernel avg_pool, avg_pool_u8;
const Kernel avg_pool = {"avg_pool", "avg_pool", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<Sum>, cost};
const Kernel avg_pool_u8 = {"avg_pool_u8", "avg_pool", "", kIsa, countable, nullptr, nullptr, nullptr, jobs, run<SumU8>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
