// See streams.h. Every loop has kChains independent sums, enough to hide the latency of an instruction, and its
// operands stay in registers: `fresh` tells the compiler that a value changed, so that it neither computes a product
// once for all nor leaves it out.
#include "streams.h"

#include "vec_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kChains = kRegisters == 32 ? 12 : 10;  // sums of a loop

template <class T>
JT_INLINE void fresh(T& v) {
  __asm__ volatile("" : JT_REGISTER(v));
}
#if defined(JETTISON_AVX2)
JT_INLINE void fresh(u8q& v) { __asm__ volatile("" : JT_REGISTER(v.even), JT_REGISTER(v.odd)); }
#elif !defined(JETTISON_AVX512)
JT_INLINE void fresh(u8q& v) { __asm__ volatile("" : "+m"(v)); }
JT_INLINE void fresh(i8q& v) { __asm__ volatile("" : "+m"(v)); }
#endif

JT_INLINE void fresh(int64_t& v) { __asm__ volatile("" : "+r"(v)); }

alignas(64) const uint8_t kIndex[64] = {3, 1, 2, 0, 1, 3, 0, 2, 2, 0, 3, 1, 0, 2, 1, 3};

template <class T>
JT_INLINE T zeroed() {
  T v;
  std::memset(&v, 0, sizeof v);
  return v;
}

// Sums have names, as those of an array would end up in memory. They are worked on in two groups.
#if defined(JETTISON_AVX512)
#define JT_FIRST(F) F(0) F(1) F(2) F(3) F(4) F(5)
#define JT_SECOND(F) F(6) F(7) F(8) F(9) F(10) F(11)
#else
#define JT_FIRST(F) F(0) F(1) F(2) F(3) F(4)
#define JT_SECOND(F) F(5) F(6) F(7) F(8) F(9)
#endif
#define JT_ALL(F) JT_FIRST(F) JT_SECOND(F)
#define JT_ZERO(i) Sum a##i = zeroed<Sum>();
#define JT_STEP(i) fresh(x), a##i = step(a##i, x);
#define JT_KEEP(i) fresh(a##i);
#define JT_FETCH(i) auto g##i = fetch(next(x));
#define JT_ADD(i) a##i = step(a##i, next(g##i));
#define JT_FETCH_ADD(i) a##i = step(a##i, fetch(next(x)));

template <class Sum, class Input, class Step>
JT_INLINE void repeat(int64_t iterations, Input x, Step step) {
  JT_ALL(JT_ZERO);
  for (int64_t n = 0; n < iterations; ++n) {
    JT_ALL(JT_STEP);
  }
  JT_ALL(JT_KEEP);
}

template <class T>
JT_INLINE T& next(T& v) {
  fresh(v);
  return v;
}

// AVX-512 has registers to fetch a whole group before it is used: the fastest order of permutes and multiply-adds.
template <class Sum, class Input, class Fetch, class Step>
JT_INLINE void repeat_fetched(int64_t iterations, Input x, Fetch fetch, Step step) {
  JT_ALL(JT_ZERO);
  for (int64_t n = 0; n < iterations; ++n) {
#if defined(JETTISON_AVX512)
    JT_FIRST(JT_FETCH);
    JT_FIRST(JT_ADD);
    JT_SECOND(JT_FETCH);
    JT_SECOND(JT_ADD);
#else
    JT_ALL(JT_FETCH_ADD);
#endif
  }
  JT_ALL(JT_KEEP);
}

void f32_dense(const char*, int64_t iterations) {
  f32v w = set1(1.0f);
  fresh(w);
  repeat<f32v>(iterations, w, [w](f32v acc, f32v x) { return fma(x, w, acc); });
}

// The cheapest gather; groups that cross lanes need the dearer permute on AVX2.
void f32_nm(const char*, int64_t iterations) {
  f32v w = set1(1.0f);
  fresh(w);
  repeat_fetched<f32v>(iterations, w, [](f32v x) { return permute_lane(kIndex, x); }, [w](f32v acc, f32v x) { return fma(x, w, acc); });
}

void i8_dense(const char*, int64_t iterations) {
  i8p w = zeroed<i8p>();
  fresh(w);
  repeat<i32v>(iterations, zeroed<u8p>(), [w](i32v acc, u8p x) { return dot_pairs(acc, x, w); });
}

void i8_nm(const char*, int64_t iterations) {
  i8p w = zeroed<i8p>();
  fresh(w);
  repeat_fetched<i32v>(
      iterations, zeroed<window_t>(), [](window_t x) { return gather(kIndex, x); }, [w](i32v acc, u8p x) { return dot_pairs(acc, x, w); });
}

// Look-ups as vec_lut.h does them. With the byte permute a table is fetched and summed just as gathered inputs are.
#if defined(JETTISON_AVX512)
constexpr int64_t kLookUps = kChains * 4 * W;

void i8_lut(const char* data, int64_t iterations) { i8_nm(data, iterations); }

#elif defined(JETTISON_AVX2)
constexpr int64_t kLookUps = 5 * 32;  // JT_FIRST: each sum takes two registers, of all bytes and of odd ones

void i8_lut(const char*, int64_t iterations) {
  using Sum = u8q;
  __m256i table = _mm256_setzero_si256(), x = table;
  fresh(table);
  const auto step = [table](Sum acc, __m256i code) {
    const __m256i v = _mm256_shuffle_epi8(table, code);
    return Sum{_mm256_add_epi16(acc.even, v), _mm256_add_epi16(acc.odd, _mm256_srli_epi16(v, 8))};
  };
  JT_FIRST(JT_ZERO);
  for (int64_t n = 0; n < iterations; ++n) {
    JT_FIRST(JT_STEP);
  }
  JT_FIRST(JT_KEEP);
}

#else
constexpr int64_t kLookUps = kChains;

void i8_lut(const char*, int64_t iterations) {
  const int8_t* table = (const int8_t*)kIndex;
  repeat<int64_t>(iterations, int64_t{0}, [table](int64_t acc, int64_t code) { return acc + table[code]; });
}

#endif

constexpr int64_t kReadBytes = 8 * W * 4;

void read(const char* data, int64_t iterations) {
  const float* p = (const float*)data;
  for (int64_t n = 0; n < iterations; ++n, p += 8 * W) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      f32v v = load(p + i * W);
      fresh(v);
    }
  }
}

void clock(const char*, int64_t iterations) {
  int64_t x = 0;
  for (int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      x += n;
      __asm__ volatile("" : "+r"(x));
    }
}

}  // namespace

extern const Stream all_streams[kStreams];
const Stream all_streams[kStreams] = {
    {"f32", "dense", kIsa, kChains * W, f32_dense},
    {"f32", "nm", kIsa, kChains * W, f32_nm},
    {"i8", "dense", kIsa, kChains * 4 * W, i8_dense},
    {"i8", "nm", kIsa, kChains * 4 * W, i8_nm},
    {"i8", "lut", kIsa, kLookUps, i8_lut},
    {"", "read", kIsa, kReadBytes, read},
    {"", "clock", kIsa, 16, clock},
};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
