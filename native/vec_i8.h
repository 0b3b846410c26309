// Vectors for int8 inference: W sums of int32, fed four products at a time.
//
//   u8q   four u8 inputs for each of W lanes        i8q   four int8 weights for each of W lanes
//   dot   acc[lane] += Σ_j u8q[lane][j] · i8q[lane][j], exactly: nothing saturates
//   u8p, i8p, dot_pairs   the same, exact for pairs of weights (j = 0, 1 and 2, 3) that fit: pair_fits
//   u8v   4·W bytes, to move and compare
//
// AVX-512 has `vpdpbusd` for both. AVX2 has `vpmaddubsw`, which adds two products in int16 and saturates: dot_pairs
// leaves it to whoever packs the weights that they fit. For dot even and odd inputs are widened to 16 bits and multiplied
// with 16-bit weights: half as many products per instruction.
// The float32 steps are one rounding each (quantized.py): this file must be compiled without contraction.
#pragma once
#include "vec.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace vec {

#if defined(JETTISON_AVX512)

using i32v = __m512i;
using u8q = __m512i;
using i8q = __m512i;
using window_t = __m512i;
constexpr int kWindow = 64;     // channels that one gather reaches
constexpr int kQuadBytes = 64;  // packed bytes of one i8q

JT_INLINE i32v load_i32(const int32_t* p) { return _mm512_loadu_si512(p); }
JT_INLINE i32v set1_i32(int32_t x) { return _mm512_set1_epi32(x); }
JT_INLINE f32v to_float(i32v v) { return _mm512_cvtepi32_ps(v); }
JT_INLINE i32v add(i32v a, i32v b) { return _mm512_add_epi32(a, b); }
JT_INLINE i32v sub(i32v a, i32v b) { return _mm512_sub_epi32(a, b); }
JT_INLINE i32v round_to_i32(f32v v) { return _mm512_cvtps_epi32(v); }  // ties to even
JT_INLINE i32v load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
JT_INLINE void store_u8_first(uint8_t* p, i32v v, int64_t n) {
  if (n >= W) _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(v));
  else _mm512_mask_cvtepi32_storeu_epi8(p, first(n), v);
}
JT_INLINE i8q load_quad(const void* p) { return _mm512_loadu_si512(p); }
// _mm512_dpbusd_epi32, whose type is another one to GCC than __m512i: it then copies every sum in every round of a loop.
JT_INLINE i32v dot(i32v acc, u8q x, i8q w) {
#if defined(JETTISON_EMULATED)
  return _mm512_dpbusd_epi32(acc, x, w);
#else
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
  return acc;
#endif
}
using u8p = u8q;
using i8p = i8q;
JT_INLINE window_t load_window(const uint8_t* p) { return _mm512_loadu_si512(p); }
JT_INLINE u8p gather(const uint8_t* index, window_t v) { return _mm512_permutexvar_epi8(_mm512_loadu_si512(index), v); }
JT_INLINE void put_weight(void* quad, int lane, int j, int8_t w) { ((int8_t*)quad)[lane * 4 + j] = w; }
using u8v = __m512i;
JT_INLINE u8v load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
JT_INLINE void store_bytes(uint8_t* p, u8v v) { _mm512_storeu_si512(p, v); }
JT_INLINE __mmask64 first_bytes(int64_t n) { return ~0ull >> (64 - n); }  // 1 … 64
JT_INLINE void store_bytes_first(uint8_t* p, u8v v, int64_t n) {
  if (n >= 4 * W) store_bytes(p, v);
  else _mm512_mask_storeu_epi8(p, first_bytes(n), v);
}
JT_INLINE u8v max_bytes(u8v a, u8v b) { return _mm512_max_epu8(a, b); }
JT_INLINE void copy_few(uint8_t* out, const uint8_t* in, int64_t n) {  // 1 … 63 bytes
  _mm512_mask_storeu_epi8(out, first_bytes(n), _mm512_maskz_loadu_epi8(first_bytes(n), in));
}

#elif defined(JETTISON_AVX2)

using i32v = __m256i;
struct u8q {
  __m256i even, odd;
};
struct i8q {
  __m256i even, odd;
};
using window_t = __m256i;  // 16 channels, twice
constexpr int kWindow = 16;
constexpr int kQuadBytes = 64;

JT_INLINE i32v load_i32(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
JT_INLINE i32v set1_i32(int32_t x) { return _mm256_set1_epi32(x); }
JT_INLINE f32v to_float(i32v v) { return _mm256_cvtepi32_ps(v); }
JT_INLINE i32v add(i32v a, i32v b) { return _mm256_add_epi32(a, b); }
JT_INLINE i32v sub(i32v a, i32v b) { return _mm256_sub_epi32(a, b); }
JT_INLINE i32v round_to_i32(f32v v) { return _mm256_cvtps_epi32(v); }
JT_INLINE i32v load_u8(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
JT_INLINE void store_u8_first(uint8_t* p, i32v v, int64_t n) {  // saturates
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const int64_t x = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
  if (n >= W) std::memcpy(p, &x, W);
  else std::memcpy(p, &x, (size_t)n);
}
JT_INLINE u8q split(__m256i bytes) { return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)}; }
JT_INLINE i8q load_quad(const void* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)}; }
JT_INLINE i32v dot(i32v acc, u8q x, i8q w) { return add(acc, add(_mm256_madd_epi16(x.even, w.even), _mm256_madd_epi16(x.odd, w.odd))); }
JT_INLINE window_t load_window(const uint8_t* p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p)); }
// 16-bit weights: inputs 0 and 2 of every lane, then 1 and 3
JT_INLINE void put_weight(void* quad, int lane, int j, int8_t w) { ((int16_t*)quad)[(j % 2) * 16 + lane * 2 + j / 2] = w; }
using u8p = __m256i;
using i8p = __m256i;
JT_INLINE i8p load_pairs(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
JT_INLINE i32v add_pairs(i32v acc, __m256i pairs) {
  const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  __asm__("vpaddd %1, %0, %0" : "+x"(acc) : "x"(sums));  // add: GCC would copy every sum in every round of a loop
  return acc;
}
JT_INLINE i32v dot_pairs(i32v acc, u8p x, i8p w) { return add_pairs(acc, _mm256_maddubs_epi16(x, w)); }
// For two steps that fit together.
JT_INLINE i32v dot_two_pairs(i32v acc, u8p x0, i8p w0, u8p x1, i8p w1) {
  return add_pairs(acc, _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1)));
}
JT_INLINE u8p gather(const uint8_t* index, window_t v) { return _mm256_shuffle_epi8(v, _mm256_loadu_si256((const __m256i*)index)); }
using u8v = __m256i;
JT_INLINE u8v load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
JT_INLINE void store_bytes(uint8_t* p, u8v v) { _mm256_storeu_si256((__m256i*)p, v); }
JT_INLINE u8v max_bytes(u8v a, u8v b) { return _mm256_max_epu8(a, b); }

#else

typedef int32_t i32v __attribute__((vector_size(16)));
struct u8q {
  uint8_t v[16];
};
struct i8q {
  int8_t v[16];
};
using window_t = u8q;
constexpr int kWindow = 16;
constexpr int kQuadBytes = 16;

JT_INLINE i32v load_i32(const int32_t* p) {
  i32v o;
  std::memcpy(&o, p, sizeof o);
  return o;
}
JT_INLINE i32v set1_i32(int32_t x) { return i32v{x, x, x, x}; }
JT_INLINE f32v to_float(i32v v) { return __builtin_convertvector(v, f32v); }
JT_INLINE i32v add(i32v a, i32v b) { return a + b; }
JT_INLINE i32v sub(i32v a, i32v b) { return a - b; }
JT_INLINE i32v round_to_i32(f32v v) {
  i32v o;
  for (int i = 0; i < W; ++i) o[i] = (int32_t)::nearbyintf(v[i]);
  return o;
}
JT_INLINE i32v load_u8(const uint8_t* p) { return i32v{p[0], p[1], p[2], p[3]}; }
JT_INLINE void store_u8_first(uint8_t* p, i32v v, int64_t n) {
  for (int i = 0; i < W && i < n; ++i) p[i] = (uint8_t)v[i];
}
JT_INLINE i8q load_quad(const void* p) {
  i8q o;
  std::memcpy(&o, p, sizeof o);
  return o;
}
JT_INLINE i32v dot(i32v acc, u8q x, i8q w) {
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < 4; ++j) acc[i] += (int32_t)x.v[i * 4 + j] * w.v[i * 4 + j];
  return acc;
}
JT_INLINE window_t load_window(const uint8_t* p) {
  window_t o;
  std::memcpy(&o, p, sizeof o);
  return o;
}
using u8p = u8q;
using i8p = i8q;
JT_INLINE u8p gather(const uint8_t* index, window_t v) {
  u8q o;
  for (int i = 0; i < 16; ++i) o.v[i] = v.v[index[i]];
  return o;
}
JT_INLINE void put_weight(void* quad, int lane, int j, int8_t w) { ((int8_t*)quad)[lane * 4 + j] = w; }
typedef uint8_t u8v __attribute__((vector_size(16)));
JT_INLINE u8v load_bytes(const uint8_t* p) {
  u8v o;
  std::memcpy(&o, p, sizeof o);
  return o;
}
JT_INLINE void store_bytes(uint8_t* p, u8v v) { std::memcpy(p, &v, sizeof v); }
JT_INLINE u8v max_bytes(u8v a, u8v b) { return a > b ? a : b; }

#endif

#if !defined(JETTISON_AVX2)  // nothing saturates
JT_INLINE i8p load_pairs(const void* p) { return load_quad(p); }
JT_INLINE i32v dot_pairs(i32v acc, u8p x, i8p w) { return dot(acc, x, w); }
JT_INLINE i32v dot_two_pairs(i32v acc, u8p x0, i8p w0, u8p x1, i8p w1) { return dot(dot(acc, x0, w0), x1, w1); }
#endif

// Four bytes in every lane.
JT_INLINE u8p broadcast_quad(const uint8_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)
  return set1_i32(x);
#else
  const i32v lanes = set1_i32(x);
  u8p o;
  std::memcpy(&o, &lanes, sizeof o);
  return o;
#endif
}

constexpr bool kSaturates = kIsa == Isa::avx2;
constexpr int kPairsBytes = 4 * W;  // packed bytes of one i8p, and of the indices of one gather

JT_INLINE void put_pairs(void* to, int lane, int j, int8_t w) { ((int8_t*)to)[lane * 4 + j] = w; }

// Weights of one sign whose products with u8 add up inside 16 bits: 255·128 < 2^15.
constexpr int kMostWeight = 128;

// The sum of a pair's positive weights, and that of the negative ones without its sign.
struct PairReach {
  int high, low;
};

JT_INLINE PairReach pair_reach(int w0, int w1) { return {(w0 > 0 ? w0 : 0) + (w1 > 0 ? w1 : 0), -(w0 < 0 ? w0 : 0) - (w1 < 0 ? w1 : 0)}; }

// Whether x·w0 + y·w1 stays exact in dot_pairs for all u8 x and y.
JT_INLINE bool pair_fits(int w0, int w1) {
  const PairReach r = pair_reach(w0, w1);
  return !kSaturates || (r.high <= kMostWeight && r.low <= kMostWeight);
}

#if !defined(JETTISON_AVX512)  // without masks

JT_INLINE void store_bytes_first(uint8_t* p, u8v v, int64_t n) {
  if (n >= 4 * W) return store_bytes(p, v);
  uint8_t bytes[4 * W];
  store_bytes(bytes, v);
  std::memcpy(p, bytes, (size_t)n);
}
JT_INLINE void copy_few(uint8_t* out, const uint8_t* in, int64_t n) {  // less than 4·W bytes
  for (int size = 2 * W; size > 0; size /= 2)
    if (n & size) {
      switch (size) {  // a size that the compiler knows is a move, not a call
        case 16:
          std::memcpy(out, in, 16);
          break;
        case 8:
          std::memcpy(out, in, 8);
          break;
        case 4:
          std::memcpy(out, in, 4);
          break;
        case 2:
          std::memcpy(out, in, 2);
          break;
        default:
          *out = *in;
      }
      out += size;
      in += size;
    }
}

#endif

// Smallest and largest q that a clamping activation leaves.
struct Bounds {
  int low, high;
};

JT_INLINE Bounds bounds_of(const Quantization& q, Act act) {
  const int low = act == Act::relu || act == Act::relu6 ? q.zero : 0;
  const double six = q.zero + ::nearbyint(6.0 / q.scale);
  return {low, act == Act::relu6 && six < 255 ? (int)six : 255};
}

// What turns a real number t into the u8 of a tensor: clamp(rint(t), low − zero, high − zero) + zero.
struct Requantize {
  f32v low, high;
  i32v zero;
};

JT_INLINE Requantize requantize_to(const Quantization& q, Act act) {
  const Bounds b = bounds_of(q, act);
  return {set1((float)(b.low - q.zero)), set1((float)(b.high - q.zero)), set1_i32(q.zero)};
}

// The bounds are whole, so clamping first and rounding then is the same, and int32 cannot overflow. NaN becomes the lowest.
JT_INLINE i32v requantize(const Requantize& r, f32v t) { return add(round_to_i32(min(max(t, r.low), r.high)), r.zero); }

JT_INLINE uint8_t requantize_one(const Requantize& r, float t) {
  uint8_t q;
  store_u8_first(&q, requantize(r, set1(t)), 1);
  return q;
}

// Whether as many vectors of sums are packed to bytes at once.
constexpr bool packs(int64_t vectors) { return kIsa == Isa::avx512 && (vectors == 2 || vectors == 4); }

constexpr float kMantissa = 8388608.0f;  // 2^23: adding a whole number below that writes it into the mantissa
constexpr float kLarge = 65536.0f;       // larger than any u8, small enough for int32; what is too small becomes the least int32

// As Requantize, for the four vectors that one u8v is packed from.
struct Bytes {
#if defined(JETTISON_AVX512)
  u8v zero, low, high;  // zero: int16
#endif
};

JT_INLINE Bytes bytes_to([[maybe_unused]] const Quantization& q, [[maybe_unused]] Act act) {
#if defined(JETTISON_AVX512)
  const Bounds b = bounds_of(q, act);
  return {_mm512_set1_epi16((short)q.zero), _mm512_set1_epi8((char)b.low), _mm512_set1_epi8((char)b.high)};
#else
  return {};
#endif
}

#if defined(JETTISON_AVX512)

JT_INLINE i32v round_below(f32v t) { return _mm512_cvtps_epi32(min(t, set1(kLarge))); }

// requantize of rounded numbers: q[0] and q[1] saturate to int16, then with q[2] and q[3] to u8, inside every 128 bits.
// Saturates: the bounds are those of u8.
template <bool Saturates = false>
JT_INLINE u8v pack_bytes(const i32v (&q)[4], const Bytes& to) {
  const __m512i lower = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), to.zero);
  const __m512i upper = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), to.zero);
  const u8v bytes = _mm512_packus_epi16(lower, upper);
  return Saturates ? bytes : _mm512_min_epu8(_mm512_max_epu8(bytes, to.low), to.high);
}

// Two pixels' 32 bytes, 8 of each in every 128 bits: the first n of both.
JT_INLINE void store_halves_first(uint8_t* p, uint8_t* q, u8v v, int64_t n) {
  const __m512i halves = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v);
  const __m256i first = _mm512_castsi512_si256(halves), second = _mm512_extracti64x4_epi64(halves, 1);
  if (n >= 2 * W) {
    _mm256_storeu_si256((__m256i*)p, first);
    _mm256_storeu_si256((__m256i*)q, second);
  } else {
    const __mmask32 some = (__mmask32)((1u << n) - 1);
    _mm256_mask_storeu_epi8(p, some, first);
    _mm256_mask_storeu_epi8(q, some, second);
  }
}

// float32(q − zero) of the bytes that vector o of V packed ones holds. A byte becomes the mantissa of 2^23 + q;
// shift = 2^23 + zero. Reads all bytes of the V vectors.
template <int V>
JT_INLINE f32v centred_of(const uint8_t* p, int o, f32v shift) {
  const __m512i bytes = V == 4 ? _mm512_loadu_si512(p) : _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)p));
  const int at = V == 4 ? 4 * o : 8 * o;
  const __m512i index = _mm512_set4_epi32(at + 3, at + 2, at + 1, at);
  const __m512i mantissa = _mm512_mask_shuffle_epi8(_mm512_set1_epi32(0x4b000000), 0x1111111111111111, bytes, index);
  return sub(_mm512_castsi512_ps(mantissa), shift);
}

#endif

// 1 / scale, what `quantize` multiplies with.
JT_INLINE float reciprocal(const Quantization& q) { return (float)(1.0 / q.scale); }

// float32(q − zero) of W bytes; reads them all, which inputs allow (kSlack).
JT_INLINE f32v load_centred(const uint8_t* p, i32v zero) { return to_float(sub(load_u8(p), zero)); }

}  // namespace vec
}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
