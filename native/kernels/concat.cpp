// Inputs one after the other along one axis.
//
//   out row (everything before the axis fixed): │ in[0] run │ in[1] run │ … │
//
// Along the channels of an image a run is the channels of one pixel. A job is a range of the output's
// elements, which may start and end inside a run. On u8 an input of another scale is brought to the output's.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t size(const Problem& a) { return a.n * a.out.size(); }

double cycles(const Problem& a) { return memory_cycles(2.0 * size(a), a.element) + 8.0 * a.inputs * a.n * product(a.out, 0, a.axis); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), ceil_div(size(a), 64)); }

JT_INLINE void put(const Problem&, int, float* out, const float* in, int64_t n) { copy(out, in, n); }

// requantize(float32(q − z)·(s_x/s)), quantized.py, _concat
JT_INLINE void put(const Problem& a, int input, uint8_t* out, const uint8_t* in, int64_t n) {
  const Quantization &from = a.in_quantization[input], &to = a.out_quantization;
  if (from.scale == to.scale && from.zero == to.zero) return copy(out, in, n);
  const i32v zero = set1_i32(from.zero);
  const f32v ratio = set1((float)(from.scale / to.scale));
  each_u8(n, requantize_to(to, Act::none), out, [=](int64_t i) { return mul(load_centred(in + i, zero), ratio); });
}

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t inner = product(a.out, a.axis + 1, a.out.rank), row = a.out.d[a.axis] * inner;
  const Range mine = elements(size(a), jobs(a), job);
  int64_t outer = mine.begin / row, column = mine.begin % row;
  int input = 0;
  while (input < a.inputs && column >= a.in[input].d[a.axis] * inner) column -= a.in[input++].d[a.axis] * inner;
  for (int64_t i = mine.begin; i < mine.end; column = 0) {
    const int64_t length = a.in[input].d[a.axis] * inner;
    const int64_t count = min64(length - column, mine.end - i);
    put(a, input, (T*)call.out + i, (const T*)call.in[input] + outer * length + column, count);
    i += count;
    if (++input == a.inputs) input = 0, ++outer;
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel concat, concat_u8;
const Kernel concat = {"concat", "concat", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<float>, cost};
const Kernel concat_u8 = {"concat_u8", "concat", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<uint8_t>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
