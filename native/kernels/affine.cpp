// act(x · scale + shift), one scale and one shift per entry of the last axis.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t width(const Problem& a) { return a.in[0].last(); }
int64_t rows(const Problem& a) { return a.n * a.in[0].size() / width(a); }

bool accepts(const Problem&, const Constants& c) { return c.find("scale") && c.find("shift"); }

// packed: scale | shift, each padded to whole vectors
int64_t padded(const Problem& a) { return align64(4 * width(a)) / 4; }

int64_t packed_bytes(const Problem& a, const Constants&) { return 8 * padded(a); }

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, 8 * padded(a));
  std::memcpy(packed, c.find("scale"), 4 * width(a));
  std::memcpy((float*)packed + padded(a), c.find("shift"), 4 * width(a));
}

double cycles(const Problem& a) {
  const double size = (double)rows(a) * width(a);
  return memory_cycles(2 * size) + size / W * act_cycles(a.act);
}

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t c = width(a);
  const float* scale = (const float*)call.packed;
  const float* shift = scale + padded(a);
  const Range mine = range(rows(a), jobs(a), job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const float* x = (const float*)call.in[0] + row * c;
    each(c, a.act, a.alpha, (float*)call.out + row * c,
         [=](int64_t i, int64_t left) { return fma(load_first(x + i, left), load(scale + i), load(shift + i)); });
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel affine;
const Kernel affine = {"affine", "affine", "", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
