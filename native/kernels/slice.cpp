// x[start : stop : step] along one axis.
//
// With step 1 everything from `start` on is one run per outer index; with a larger step a run is what
// lies behind one index, a single element if the axis is the last one.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t size(const Problem& a) { return a.n * a.out.size(); }
int64_t inner(const Problem& a) { return product(a.out, a.axis + 1, a.out.rank); }

// Consecutive elements, and the runs of one outer index.
int64_t length(const Problem& a) { return (a.step == 1 ? a.out.d[a.axis] : 1) * inner(a); }
int64_t runs(const Problem& a) { return a.step == 1 ? 1 : a.out.d[a.axis]; }

double cycles(const Problem& a) { return memory_cycles(2.0 * size(a), a.element) + 4.0 * size(a) / length(a); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), size(a) / length(a)); }

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t n = length(a), per_outer = runs(a);
  const int64_t outer_step = a.in[0].d[a.axis] * inner(a), run_step = a.step * inner(a);
  const Range mine = range(size(a) / n, jobs(a), job);
  int64_t outer = mine.begin / per_outer, index = mine.begin % per_outer;
  T* out = (T*)call.out + mine.begin * n;
  for (int64_t i = mine.begin; i < mine.end; ++i, out += n) {
    const T* x = (const T*)call.in[0] + outer * outer_step + a.start * inner(a) + index * run_step;
    if (n == 1) *out = *x;
    else copy(out, x, n);
    if (++index == per_outer) index = 0, ++outer;
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel slice, slice_u8;
const Kernel slice = {"slice", "slice", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<float>, cost};
const Kernel slice_u8 = {"slice_u8", "slice", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<uint8_t>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
