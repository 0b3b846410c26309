// act(x · y), where y has 1 where it is repeated (broadcast.h); on u8, as quantized.py defines.
#include "../broadcast.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t jobs(const Problem& a) { return broadcast_jobs(a); }

void run(const Call& call, int64_t job) {
  broadcast(call, job, [](f32v x, f32v y) { return vec::mul(x, y); });
}

// t = float32((x − z_x)·(y − z_y))·(s_x·s_y/s); the product of two bytes is exact
void run_u8(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const f32v ratio = set1((float)(a.in_quantization[0].scale * a.in_quantization[1].scale / a.out_quantization.scale));
  broadcast_u8(call, job, [=](f32v x, f32v y) { return vec::mul(vec::mul(x, y), ratio); });
}

double cost(const Problem& a, const Constants&) { return broadcast_cycles(a); }

}  // namespace

extern const Kernel mul, mul_u8;
const Kernel mul = {"mul", "mul", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};
const Kernel mul_u8 = {"mul_u8", "mul", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run_u8, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
