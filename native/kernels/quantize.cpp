// u8 from float32: requantize(x · (1/s)), the reciprocal rounded to float32 first. NaN becomes 0.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t size(const Problem& a) { return a.n * a.in[0].size(); }

double cycles(const Problem& a) { return memory_cycles(1.25 * size(a)); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), ceil_div(size(a), 64)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Range mine = elements(size(a), jobs(a), job);
  const float* x = (const float*)call.in[0] + mine.begin;
  const int64_t n = mine.end - mine.begin;
  const f32v factor = set1(reciprocal(a.out_quantization));
  each_u8(n, requantize_to(a.out_quantization, Act::none), (uint8_t*)call.out + mine.begin,
          [=](int64_t i) { return mul(load_first(x + i, n - i), factor); });
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel quantize;
const Kernel quantize = {"quantize", "quantize", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
