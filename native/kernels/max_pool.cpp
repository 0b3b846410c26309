// Maximum over each window; padding never wins. Windows are clipped to the image (window.h).
#include "../window.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

Grid cut(const Problem& a) { return grid(pool_cycles(a), a.n * a.p, a.c); }

int64_t jobs(const Problem& a) { return cut(a).jobs(); }

template <class F>
void run(const Call& call, int64_t job) {
  using T = typename F::T;
  const Problem& a = *call.problem;
  const Grid g = cut(a);
  const Range mine = g.row_range(job), channels = g.channels(job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const T* image = (const T*)call.in[0] + row / a.p * a.h * a.w * a.c;
    T* out = (T*)call.out + row * a.q * a.c;
    const Range y = clip(row % a.p * a.stride_h - a.pad_t, a.r, a.h);
    for (int64_t j = 0; j < a.q; ++j, out += a.c) {
      const Range x = clip(j * a.stride_w - a.pad_l, a.s, a.w);
      fold_window(F(), window_of(image, y, x, a.w, a.c), channels, out);
    }
  }
}

double cost(const Problem& a, const Constants&) { return pool_cycles(a); }

}  // namespace

extern const Kernel max_pool, max_pool_u8;
const Kernel max_pool = {"max_pool", "max_pool", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<Maximum>, cost};
const Kernel max_pool_u8 = {"max_pool_u8", "max_pool", "",   kIsa,           accept_all, nullptr,
                            nullptr,       nullptr,    jobs, run<MaximumU8>, cost,       Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
