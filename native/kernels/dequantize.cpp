// float32 from u8: (q − z) · s.
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
  const uint8_t* x = (const uint8_t*)call.in[0] + mine.begin;
  const i32v zero = set1_i32(a.in_quantization[0].zero);
  const f32v scale = set1((float)a.in_quantization[0].scale);
  each(mine.end - mine.begin, Act::none, 0, (float*)call.out + mine.begin,
       [=](int64_t i, int64_t) { return mul(load_centred(x + i, zero), scale); });
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel dequantize;
const Kernel dequantize = {"dequantize", "dequantize", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
