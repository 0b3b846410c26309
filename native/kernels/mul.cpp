// act(x · y), where y has 1 where it is repeated (broadcast.h).
#include "../broadcast.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t jobs(const Problem& a) { return broadcast_jobs(a); }

void run(const Call& call, int64_t job) {
  broadcast(call, job, [](f32v x, f32v y) { return vec::mul(x, y); });
}

double cost(const Problem& a, const Constants&) { return broadcast_cycles(a); }

}  // namespace

extern const Kernel mul;
const Kernel mul = {"mul", "mul", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
