// act(x), element by element.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t size(const Problem& a) { return a.n * a.in[0].size(); }

double cycles(const Problem& a) { return memory_cycles(2.0 * size(a)) + (double)size(a) / W * act_cycles(a.act); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), ceil_div(size(a), 64)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Range mine = elements(size(a), jobs(a), job);
  const float* x = (const float*)call.in[0] + mine.begin;
  each(mine.end - mine.begin, a.act, a.alpha, (float*)call.out + mine.begin,
       [=](int64_t i, int64_t left) { return load_first(x + i, left); });
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel act;
const Kernel act = {"act", "act", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
