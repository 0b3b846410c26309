// act(x + y), where y has 1 where it is repeated (broadcast.h); on u8, as quantized.py defines.
#include "../broadcast.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t jobs(const Problem& a) { return broadcast_jobs(a); }

void run(const Call& call, int64_t job) {
  broadcast(call, job, [](f32v x, f32v y) { return vec::add(x, y); });
}

// t = float32(x − z_x)·(s_x/s) + float32(y − z_y)·(s_y/s)
void run_u8(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const f32v ratio_x = set1((float)(a.in_quantization[0].scale / a.out_quantization.scale));
  const f32v ratio_y = set1((float)(a.in_quantization[1].scale / a.out_quantization.scale));
  broadcast_u8(call, job, [=](f32v x, f32v y) { return vec::add(vec::mul(x, ratio_x), vec::mul(y, ratio_y)); });
}

double cost(const Problem& a, const Constants&) { return broadcast_cycles(a); }

}  // namespace

extern const Kernel add, add_u8;
const Kernel add = {"add", "add", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};
const Kernel add_u8 = {"add_u8", "add", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run_u8, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
