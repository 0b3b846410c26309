// e^(x − max) / Σ e^(x − max) over the last axis, a row at a time: maximum, exponentials, scale.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t width(const Problem& a) { return a.in[0].last(); }
int64_t rows(const Problem& a) { return a.n * a.in[0].size() / width(a); }

double cycles(const Problem& a) { return (double)rows(a) * (40 + 28.0 * ceil_div(width(a), W)); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

float maximum(const float* x, int64_t n) {
  float lanes[W], top = x[0];
  int64_t i = 0;
  if (n >= W) {
    f32v v = load(x);
    for (i = W; i + W <= n; i += W) v = max(v, load(x + i));
    store(lanes, v);
    for (int j = 0; j < W; ++j) top = lanes[j] > top ? lanes[j] : top;
  }
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t c = width(a);
  const Range mine = range(rows(a), jobs(a), job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const float* x = (const float*)call.in[0] + row * c;
    float* out = (float*)call.out + row * c;
    const f32v top = set1(maximum(x, c));
    f32v total = zero();
    for (int64_t i = 0; i < c; i += W) {
      store_first(out + i, exp(sub(load_first(x + i, c - i), top)), c - i);
      total = add(total, load_first(out + i, c - i));  // lanes past the row are zero
    }
    const f32v scale = set1(1.0f / sum(total));
    for (int64_t i = 0; i < c; i += W) store_first(out + i, mul(load_first(out + i, c - i), scale), c - i);
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel softmax;
const Kernel softmax = {"softmax", "softmax", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
