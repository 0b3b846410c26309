// (x − mean) / √(var + eps) · weight + bias over the last axis; var = mean of (x − mean)².
//
// A row stays in the first-level cache for its three passes: mean, variance, result.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t width(const Problem& a) { return a.in[0].last(); }
int64_t rows(const Problem& a) { return a.n * a.in[0].size() / width(a); }

bool accepts(const Problem&, const Constants& c) { return c.find("weight") && c.find("bias"); }

// packed: weight | bias, each padded to whole vectors
int64_t padded(const Problem& a) { return align64(4 * width(a)) / 4; }

int64_t packed_bytes(const Problem& a, const Constants&) { return 8 * padded(a); }

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, 8 * padded(a));
  std::memcpy(packed, c.find("weight"), 4 * width(a));
  std::memcpy((float*)packed + padded(a), c.find("bias"), 4 * width(a));
}

double cycles(const Problem& a) { return (double)rows(a) * (60 + 6.0 * ceil_div(width(a), W)); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

// Σ f(x[i], one[i]) over the row; one[i] is 1, and 0 in the lanes past the row's end.
template <class F>
JT_INLINE float total(const float* x, int64_t n, F f) {
  static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  f32v even = zero(), odd = zero();
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    even = f(load(x + i), set1(1.0f), even);
    odd = f(load(x + i + W), set1(1.0f), odd);
  }
  for (; i < n; i += W) even = f(load_first(x + i, n - i), load_first(ones, n - i), even);
  return sum(add(even, odd));
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t c = width(a);
  const float* weight = (const float*)call.packed;
  const float* bias = weight + padded(a);
  const Range mine = range(rows(a), jobs(a), job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const float* x = (const float*)call.in[0] + row * c;
    float* out = (float*)call.out + row * c;
    const f32v mean = set1(total(x, c, [](f32v v, f32v, f32v acc) { return add(acc, v); }) / (float)c);
    const float var = total(x, c,
                            [=](f32v v, f32v one, f32v acc) {
                              const f32v d = mul(sub(v, mean), one);
                              return fma(d, d, acc);
                            }) /
                      (float)c;
    const f32v scale = set1(1.0f / sqrtf(var + a.eps));
    for (int64_t i = 0; i < c; i += W) {
      const f32v v = mul(sub(load_first(x + i, c - i), mean), scale);
      store_first(out + i, fma(v, load(weight + i), load(bias + i)), c - i);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel layer_norm;
const Kernel layer_norm = {"layer_norm", "layer_norm", "", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
