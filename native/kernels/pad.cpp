// A constant before and after the elements of every axis.
//
// The last padded axis and all behind it make a row; for an image padded on its sides the row is a whole
// image row, w·c elements:
//
//   │ before · inner × value │ d · inner elements of x │ after · inner × value │
//
// A row whose outer index falls on padding is all value.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

// The last padded axis; -1 without any.
int last_padded(const Problem& a) {
  for (int i = a.in[0].rank - 1; i >= 0; --i)
    if (a.pads[i][0] || a.pads[i][1]) return i;
  return -1;
}

int64_t row_length(const Problem& a) { return last_padded(a) < 0 ? a.out.size() : product(a.out, last_padded(a), a.out.rank); }
int64_t rows(const Problem& a) { return a.n * a.out.size() / row_length(a); }

double cycles(const Problem& a) { return memory_cycles(2.0 * a.n * a.out.size(), a.element) + 20.0 * rows(a); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

// The row of x that out row `row` shows, or -1 on padding.
int64_t source(const Problem& a, int axis, int64_t row) {
  int64_t at = 0, step = 1;
  for (int i = axis - 1; i >= 0; --i) {
    const int64_t index = row % a.out.d[i] - a.pads[i][0];
    if (index < 0 || index >= a.in[0].d[i]) return -1;
    at += index * step;
    step *= a.in[0].d[i];
    row /= a.out.d[i];
  }
  return at + row * step;  // what is left of `row` is the image of the batch
}

// What padding holds: as u8, the value quantized (quantized.py, _pad).
template <class T>
T value_of(const Problem& a) {
  if constexpr (sizeof(T) == sizeof(float)) return a.value;
  else return requantize_one(requantize_to(a.out_quantization, Act::none), a.value * reciprocal(a.out_quantization));
}

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int axis = last_padded(a) < 0 ? 0 : last_padded(a);
  const int64_t inner = product(a.out, axis + 1, a.out.rank), length = row_length(a);
  const int64_t before = a.pads[axis][0] * inner, kept = a.in[0].d[axis] * inner;
  const Range mine = range(rows(a), jobs(a), job);
  const T value = value_of<T>(a);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    T* out = (T*)call.out + row * length;
    const int64_t from = source(a, axis, row);
    if (from < 0) {
      fill(out, value, length);
      continue;
    }
    fill(out, value, before);
    copy(out + before, (const T*)call.in[0] + from * kept, kept);
    fill(out + before + kept, value, length - before - kept);
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel pad, pad_u8;
const Kernel pad = {"pad", "pad", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<float>, cost};
const Kernel pad_u8 = {"pad_u8", "pad", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<uint8_t>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
