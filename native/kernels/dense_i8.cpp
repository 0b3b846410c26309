// Dense int8 convolution and linear layers, groups = 1: u8 inputs, int8 weights, exact int32 sums.
//
// As in dense.cpp a tile of PB pixels × OB·W output channels lives in registers; one step takes a few input
// channels: broadcast those of a pixel, multiply with as many weights of each output channel.
//
//   AVX-512   four bytes: vpdpbusd
//   AVX2      two inputs as int16: vpmaddwd. What would take bytes, vpmaddubsw, saturates. The inputs of a tile are
//             widened once, before all blocks of channels pass over them.
//
//   weights packed [block][stop][⌈length/inputs of a step⌉][vectors of weights per lane]; inputs past the last weigh 0
#include "../conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

#if defined(JETTISON_AVX2)
using Input = int16_t;
using Inputs = __m256i;
using Weights = __m256i;
constexpr int kStep = 2;  // inputs
constexpr int kWeightBytes = 32;
JT_INLINE Inputs broadcast(const Input* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
JT_INLINE Weights load_weights(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
JT_INLINE void put(uint8_t* p, int lane, int j, int8_t w) { ((int16_t*)p)[lane * kStep + j] = w; }
JT_INLINE i32v multiply_add(i32v acc, Inputs x, Weights w) {
  acc = add(acc, _mm256_madd_epi16(x, w));
  __asm__("" : "+x"(acc));  // sums of two steps, added to acc afterwards, would need more registers than there are
  return acc;
}
#else
using Input = uint8_t;
using Inputs = u8q;
using Weights = i8q;
constexpr int kStep = 4;
constexpr int kWeightBytes = kQuadBytes;
JT_INLINE Inputs broadcast(const Input* p) {
#if defined(JETTISON_AVX512)
  int32_t x;
  std::memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
#else
  u8q o;
  for (int i = 0; i < 16; ++i) o.v[i] = p[i % 4];
  return o;
#endif
}
JT_INLINE Weights load_weights(const uint8_t* p) { return load_quad(p); }
JT_INLINE void put(uint8_t* p, int lane, int j, int8_t w) { put_weight(p, lane, j, w); }
JT_INLINE i32v multiply_add(i32v acc, Inputs x, Weights w) { return dot(acc, x, w); }
#endif

constexpr bool kWidens = sizeof(Input) > 1;
constexpr int kVectors = kRegisters == 32 ? 4 : kIsa == Isa::avx2 ? 2 : 1;
constexpr int kPixels = kIsa == Isa::scalar ? 4 : 6;
constexpr int64_t kWidth = kVectors * W;

Walk walk_of(const Problem& a) { return walk<uint8_t>(a, 32); }
int64_t steps(const Walk& w) { return ceil_div(w.length, kStep); }
int64_t block_bytes(const Walk& w) { return w.stops * steps(w) * kVectors * kWeightBytes; }

bool accepts(const Problem& a, const Constants& c) { return a.groups == 1 && c.find("weight") && has_head(c); }

int64_t packed_bytes(const Problem& a, const Constants&) {
  const Head h = head(a, kWidth);
  return h.bytes + h.width / kWidth * block_bytes(walk_of(a));
}

void pack(const Problem& a, const Constants& c, void* packed) {
  const Head h = head(a, kWidth);
  const Walk w = walk_of(a);
  pack_head(a, c, h, kWidth, (uint8_t*)packed);
  uint8_t* weights = (uint8_t*)packed + h.bytes;
  std::memset(weights, 0, h.width / kWidth * block_bytes(w));
  const int8_t* weight = (const int8_t*)c.find("weight");
  for (int64_t o = 0; o < a.k; ++o) {
    const Place at = place(a, o, kWidth);
    uint8_t* block = weights + at.block * block_bytes(w) + at.vector * kWeightBytes;
    for (int64_t stop = 0; stop < w.stops; ++stop)
      for (int64_t i = 0; i < w.length; ++i)
        put(block + (stop * steps(w) + i / kStep) * kVectors * kWeightBytes, (int)at.lane, (int)(i % kStep),
            weight[(o * w.stops + stop) * w.length + i]);
  }
}

// One multiplication of two vectors a cycle.
double cycles(const Problem& a) {
  const Walk w = walk_of(a);
  const double per_step = kIsa == Isa::scalar ? 8.0 : kWidens ? 0.5 : 1.0;
  return (double)a.n * a.p * a.q * ceil_div(a.k, W) * (w.stops * steps(w) * per_step / 0.9 + 6);
}

Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k, cycles(a)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }

// Bytes of the widened inputs of one pixel at one stop.
int64_t widened_bytes(const Walk& w) { return align64(w.length * (int64_t)sizeof(Input)) + 64; }

int64_t workspace_bytes(const Problem& a) {
  const Walk w = walk_of(a);
  return align64(table_bytes<uint8_t, kPixels>(a, w)) +
         (kWidens ? group_tiles<uint8_t, kPixels>(a) * w.stops * kPixels * widened_bytes(w) : 0);
}

// The inputs that the table of tile `i` of a group points to, widened; the table then points to them.
JT_INLINE void widen([[maybe_unused]] const Call& call, [[maybe_unused]] const Walk& w, [[maybe_unused]] int64_t i,
                     [[maybe_unused]] int64_t count, [[maybe_unused]] const uint8_t** table) {
#if defined(JETTISON_AVX2)
  uint8_t* to =
      (uint8_t*)call.workspace + align64(table_bytes<uint8_t, kPixels>(*call.problem, w)) + i * w.stops * kPixels * widened_bytes(w);
  for (int64_t place = 0; place < w.stops * kPixels; ++place, to += widened_bytes(w)) {
    if (place % kPixels >= count) continue;
    for (int64_t c = 0; c < w.length; c += 16)
      _mm256_storeu_si256((__m256i*)(to + c * 2), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(table[place] + c))));
    table[place] = to;
  }
#endif
}

template <int PB, int OB>
JT_INLINE void tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t steps, int64_t pixel,
                    const uint8_t* const* table) {
  i32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t* w = b.weights;
  do {
    const Input* in[PB];
    times<PB>([&](auto p) JT_FLAT { in[p] = (const Input*)table[p]; });
    const auto step = [&](int64_t i) JT_FLAT {
      Weights weights[OB];
      times<OB>([&](auto o) JT_FLAT { weights[o] = load_weights(w + o * kWeightBytes); });
      times<PB>([&](auto p) JT_FLAT {
        const Inputs x = broadcast(in[p] + i);
        times<OB>([&](auto o) JT_FLAT { acc[p][o] = multiply_add(acc[p][o], x, weights[o]); });
      });
      w += kVectors * kWeightBytes;
    };
    int64_t i = 0;
    if (steps % 2) step(0), i = kStep;
    while (i != kStep * steps) step(i), step(i + kStep), i += 2 * kStep;
    table += kPixels;
  } while (--stops);
  finish_i8<PB, OB>(a, end, b, acc, pixel);
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Walk w = walk_of(a);
  const Head h = head(a, kWidth);
  const EpilogueI8 end = epilogue_i8(a);
  for_tiles<uint8_t, kPixels>(
      call, w, at, image_i8(call, at.image), (const uint8_t*)call.packed,
      [&](int64_t block, auto count, int64_t pixel, const uint8_t* const* table) {
        constexpr int PB = decltype(count)::value;
        BlockI8 b = block_of(call, h, at.image, block, kWidth);
        b.weights = (const uint8_t*)call.packed + h.bytes + block * block_bytes(w);
        with_count<kVectors>(vectors_of(a, block, kWidth),
                             [&](auto n) { tile<PB, decltype(n)::value>(a, end, b, w.stops, steps(w), pixel, table); });
      },
      [&](int64_t i, int64_t count, const uint8_t** table) { widen(call, w, i, count, table); });
}

double cost(const Problem& a, const Constants&) { return cycles(a) + (double)a.r * a.s * a.c * a.k / 8; }

}  // namespace

extern const Kernel dense_i8;
const Kernel dense_i8 = {"dense_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
