// How an op is cut into jobs that threads may run in any order, and the arithmetic for it.
#pragma once
#include "vec.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

JT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
JT_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
JT_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t kNearBytes = 24 << 10;  // of the first-level cache, for what passes through it again and again

JT_INLINE constexpr int64_t align64(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }

// Cuts memory into pieces, one after the other; from null it only counts.
struct Room {
  char* at;
  char* take(int64_t bytes) {
    char* const start = at;
    at += align64(bytes);
    return start;
  }
};

// Part i of n items cut into `parts` nearly equal pieces starts here.
JT_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

template <int N>
struct Count {
  static constexpr int value = N;
  constexpr operator int() const { return N; }
};

// f(0), f(1), … f(N − 1), unrolled where the compiler reads the source: only arrays indexed by constants become registers.
// The lambdas say JT_FLAT, so that they are inlined whatever their size.
#define JT_FLAT __attribute__((always_inline))
template <int N, class F>
JT_INLINE void times(const F& f) {
  if constexpr (N > 1) times<N - 1>(f);
  if constexpr (N > 0) f(Count<N - 1>());
}

struct Range {
  int64_t begin, end;
};

JT_INLINE Range range(int64_t n, int64_t parts, int64_t i) { return {part(n, parts, i), part(n, parts, i + 1)}; }

// Cycles of one core to read and write this many elements that lie in its second-level cache or beyond: 16 bytes a cycle.
JT_INLINE double memory_cycles(double elements, Element e = Element::f32) { return elements / (e == Element::u8 ? 16 : 4); }

// A job is about 10 µs of one core, so that starting it costs little.
constexpr double kJobCycles = 32768;

// Jobs for `cycles` of work that falls into `most` pieces at best. Few jobs are a power of two: they share evenly.
JT_INLINE int64_t job_count(double cycles, int64_t most) {
  int64_t jobs = 1;
  while (jobs < 16 && (double)jobs * kJobCycles < cycles) jobs *= 2;
  if (jobs == 16) jobs = max64(jobs, (int64_t)(cycles / kJobCycles));
  return min64(jobs, max64(most, 1));
}

// Job i of element-wise work on n floats or bytes: whole cache lines, so that no two threads write the same one.
JT_INLINE Range elements(int64_t n, int64_t jobs, int64_t i) {
  const Range lines = range(ceil_div(n, 64), jobs, i);
  return {lines.begin * 64, min64(lines.end * 64, n)};
}

// Work on rows of c channels: whole rows per job while there are enough of them, else rows cut across their channels.
struct Grid {
  int64_t rows, c, row_parts, channel_parts;
  int64_t jobs() const { return row_parts * channel_parts; }
  Range row_range(int64_t job) const { return range(rows, row_parts, job / channel_parts); }
  Range channels(int64_t job) const { return elements(c, channel_parts, job % channel_parts); }
};

JT_INLINE Grid grid(double cycles, int64_t rows, int64_t c) {
  const int64_t jobs = job_count(cycles, rows * ceil_div(c, 64));
  if (jobs <= rows) return {rows, c, jobs, 1};
  return {rows, c, rows, ceil_div(jobs, rows)};
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
