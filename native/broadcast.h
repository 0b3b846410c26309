// act(f(x, y)) where y has 1 where it is repeated: what add and mul share.
//
// Neighbouring axes that y repeats alike are merged, the batch included, so that the innermost one, the
// row, is as long as can be:
//
//   same shape      n·h·w·c                   one row: a plain loop
//   y (1, 1, c)     n ⟨h·w repeated⟩ c        rows of c: two vectors in, one out
//   y (1, 1, 1)     n ⟨h·w·c repeated⟩        rows of h·w·c: one value against a vector
//   y (h, w, 1)     n·h·w ⟨c repeated⟩
//
// A job is a range of the elements of x and out, which may start and end inside a row.
#pragma once
#include "elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

struct Axes {
  int rank = 0;
  int64_t size[kMaxRank + 1];
  bool repeated[kMaxRank + 1];
};

JT_INLINE void append(Axes* a, int64_t size, bool repeated) {
  if (size == 1) return;
  if (a->rank && a->repeated[a->rank - 1] == repeated) {
    a->size[a->rank - 1] *= size;
    return;
  }
  a->size[a->rank] = size;
  a->repeated[a->rank++] = repeated;
}

JT_INLINE Axes merge(const Problem& a) {
  Axes axes;
  append(&axes, a.n, false);
  for (int i = 0; i < a.in[0].rank; ++i) append(&axes, a.in[0].d[i], a.in[1].d[i] == 1);
  if (!axes.rank) axes.size[0] = 1, axes.repeated[0] = false, axes.rank = 1;
  return axes;
}

// Where row `row` of x finds its y: an index per outer axis, the last fastest.
struct Place {
  int64_t index[kMaxRank + 1] = {}, step[kMaxRank + 1] = {};  // step: floats of y from one index to the next
  int64_t at = 0;                                             // offset in y of the current row
};

JT_INLINE Place place(const Axes& axes, int64_t row) {
  Place p;
  int64_t step = axes.repeated[axes.rank - 1] ? 1 : axes.size[axes.rank - 1];
  for (int i = axes.rank - 2; i >= 0; --i) {
    p.index[i] = row % axes.size[i];
    row /= axes.size[i];
    p.step[i] = axes.repeated[i] ? 0 : step;
    if (!axes.repeated[i]) step *= axes.size[i];
    p.at += p.index[i] * p.step[i];
  }
  return p;
}

JT_INLINE void next_row(const Axes& axes, Place* p) {
  for (int i = axes.rank - 2; i >= 0; --i) {
    p->at += p->step[i];
    if (++p->index[i] < axes.size[i]) return;
    p->index[i] = 0;
    p->at -= axes.size[i] * p->step[i];
  }
}

JT_INLINE double broadcast_cycles(const Problem& a) {
  const double size = (double)a.n * a.in[0].size();
  return memory_cycles(2 * size + (double)a.n * a.in[1].size(), a.element) + size / W * act_cycles(a.act);
}

JT_INLINE int64_t broadcast_jobs(const Problem& a) { return job_count(broadcast_cycles(a), ceil_div(a.n * a.in[0].size(), 64)); }

// f(at, y, count, repeated) for every stretch of a job inside one row: `count` elements of x and out from `at`
// on meet those of in[1] from `y` on, or all the one at `y`.
template <class F>
JT_INLINE void each_stretch(const Call& call, int64_t job, F f) {
  const Problem& a = *call.problem;
  const Axes axes = merge(a);
  const int64_t length = axes.size[axes.rank - 1];
  const bool repeated = axes.repeated[axes.rank - 1];
  const Range mine = elements(a.n * a.in[0].size(), broadcast_jobs(a), job);
  Place p = place(axes, mine.begin / length);
  int64_t column = mine.begin % length;
  for (int64_t i = mine.begin; i < mine.end; next_row(axes, &p), column = 0) {
    const int64_t count = min64(length - column, mine.end - i);
    f(i, repeated ? p.at : p.at + column, count, repeated);
    i += count;
  }
}

template <class F>
JT_INLINE void broadcast(const Call& call, int64_t job, F f) {
  const Problem& a = *call.problem;
  each_stretch(call, job, [&](int64_t at, int64_t from, int64_t count, bool repeated) {
    const float* x = (const float*)call.in[0] + at;
    const float* y = (const float*)call.in[1] + from;
    float* out = (float*)call.out + at;
    if (repeated) {
      const f32v one = set1(*y);
      each(count, a.act, a.alpha, out, [=](int64_t i, int64_t left) { return f(load_first(x + i, left), one); });
    } else {
      each(count, a.act, a.alpha, out, [=](int64_t i, int64_t left) { return f(load_first(x + i, left), load_first(y + i, left)); });
    }
  });
}

// requantize(f(q_x − z_x, q_y − z_y)), the differences as float32.
template <class F>
JT_INLINE void broadcast_u8(const Call& call, int64_t job, F f) {
  const Problem& a = *call.problem;
  const Requantize to = requantize_to(a.out_quantization, a.act);
  const i32v zero_x = set1_i32(a.in_quantization[0].zero), zero_y = set1_i32(a.in_quantization[1].zero);
  each_stretch(call, job, [&](int64_t at, int64_t from, int64_t count, bool repeated) {
    const uint8_t* x = (const uint8_t*)call.in[0] + at;
    const uint8_t* y = (const uint8_t*)call.in[1] + from;
    uint8_t* out = (uint8_t*)call.out + at;
    if (repeated) {
      const f32v one = set1((float)(*y - a.in_quantization[1].zero));
      each_u8(count, to, out, [=](int64_t i) { return f(load_centred(x + i, zero_x), one); });
    } else {
      each_u8(count, to, out, [=](int64_t i) { return f(load_centred(x + i, zero_x), load_centred(y + i, zero_y)); });
    }
  });
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
