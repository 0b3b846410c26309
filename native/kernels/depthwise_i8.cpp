// Depthwise int8 convolution, groups = c = k.
//
// Vectors run over 4·L channels (interleave.h): one dot product takes up to four kernel rows of one input column. A
// tile is T neighbouring pixels of one output row; every input column that it sees is read and interleaved once,
// and feeds the up to K sums that use it:
//
//   quads of rows  w0 w1 w2             K weight vectors in registers, of rows 0 … 3, then 4 … 7
//   input columns  x0 x1 x2 x3 x4 …     (T − 1)·stride + K times interleaved
//   sums           a0 = x0·w0 + x1·w1 + x2·w2,  a1 = x1·w0 + …
//
// The channels of a tile are done in two halves of two sum vectors, so that the sums stay in registers. Compiled for
// 3×3, 5×5 and 7×7, stride 1 and 2 (columns not dilated); anything else, and scalar, interleaves once per tap (K = 0).
// What falls on padding is read from an input row of zero points; kernel rows past the last one have weight 0.
//
//   packed: head | per block: bias, multiplier (4·L each, in order of the lanes), weights [half][quad of rows][s][2]
#include "../conv_i8.h"
#include "../interleave.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

#if defined(JETTISON_AVX512)
using Wide = Zmm;
using Narrow = Ymm;  // for a last block that it can hold
constexpr int kPixels = 7;
#elif defined(JETTISON_AVX2)
using Wide = Ymm;
using Narrow = Ymm;
constexpr int kPixels = 4;
#else
using Wide = Plain;
using Narrow = Plain;
constexpr int kPixels = 2;
#endif

constexpr int64_t kWidth = 4 * Wide::kLanes;
constexpr int64_t kMostRows = 32;

int64_t quads(const Problem& a) { return ceil_div(a.r, 4); }
int64_t blocks(const Problem& a) { return ceil_div(a.c, kWidth); }
bool narrow(const Problem& a, int64_t block) { return a.c - block * kWidth <= 4 * Narrow::kLanes; }

template <class V>
int64_t half_bytes(const Problem& a) {
  return quads(a) * a.s * 2 * V::kWeightBytes;
}
int64_t block_bytes(const Problem& a) { return kWidth * 8 + 2 * half_bytes<Wide>(a); }

bool accepts(const Problem& a, const Constants& c) {
  return a.groups > 1 && a.groups == a.c && a.k == a.c && a.r <= kMostRows && c.find("weight") && has_head(c);
}

int64_t packed_bytes(const Problem& a, const Constants&) { return head(a, kWidth, a.w).bytes + blocks(a) * block_bytes(a); }

template <class V>
void pack_block(const Problem& a, const Constants& c, int64_t first, uint8_t* out) {
  constexpr int64_t L = V::kLanes;
  int32_t* bias = (int32_t*)out;
  float* multiplier = (float*)(out + 16 * L);
  for (int64_t i = 0; i < 4 * L; ++i) {
    const int64_t vector = i / L, lane = i % L, channel = first + interleaved_channel(vector, lane);
    if (channel >= a.c) continue;
    bias[i] = ((const int32_t*)c.find("bias"))[channel];
    multiplier[i] = ((const float*)c.find("multiplier"))[channel];
    const int8_t* weight = (const int8_t*)c.find("weight") + channel * a.r * a.s;
    uint8_t* half = out + 32 * L + vector / 2 * half_bytes<V>(a);
    for (int64_t r = 0; r < a.r; ++r)
      for (int64_t s = 0; s < a.s; ++s)
        V::put(half + ((r / 4 * a.s + s) * 2 + vector % 2) * V::kWeightBytes, (int)lane, (int)(r % 4), weight[r * a.s + s]);
  }
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kWidth, a.w);
  pack_head(a, c, h, W, (uint8_t*)packed);
  for (int64_t block = 0; block < blocks(a); ++block) {
    uint8_t* out = (uint8_t*)packed + h.bytes + block * block_bytes(a);
    if (narrow(a, block)) pack_block<Narrow>(a, c, block * kWidth, out);
    else pack_block<Wide>(a, c, block * kWidth, out);
  }
}

// Per pixel and block: the epilogue, and for every column of a quad of rows four dots and some interleaving.
double cycles(const Problem& a) {
  const double per_column = kIsa == Isa::avx512 ? 6 : kIsa == Isa::avx2 ? 10 : 80;
  return (double)a.n * a.p * ceil_div(a.q, kPixels) * kPixels * blocks(a) * (14 + quads(a) * a.s * per_column);
}

Grid cut(const Problem& a) { return grid(cycles(a), a.n * a.p, a.c); }

int64_t jobs(const Problem& a) { return cut(a).jobs(); }

// One output row.
struct Line {
  const uint8_t* rows[kMostRows];  // of the input, or of padding
  const uint8_t *padding, *residual;
  const float* multiplier;  // in order of the channels
  uint8_t* out;
  bool plain;  // to u8, nothing added
  int zero;
  Bounds bounds;
  EpilogueI8 end;
};

struct Block {
  int64_t channel, width;
  const int32_t* bias;
  const float* multiplier;
  const uint8_t* weights;
};

// p, forgotten: else the compiler computes the addresses and loads of both halves at once, and runs out of registers.
JT_INLINE const uint8_t* afresh(const uint8_t* p) {
  __asm__("" : "+r"(p));
  return p;
}

// Sums of T pixels from input column `column` on, two vectors of channels. Live: rows of this quad that have weights.
template <class V, int T, int K, int Stride, int Half, int Live, bool Edge>
JT_INLINE void accumulate(const Problem& a, const uint8_t* const* rows, const uint8_t* padding, int64_t channel, int64_t column,
                          const uint8_t* weights, typename V::Sums (&acc)[T][2]) {
  typename V::Weight weight[K][2];
  for (int s = 0; s < K; ++s)
    for (int i = 0; i < 2; ++i) weight[s][i] = V::weight(weights + (s * 2 + i) * V::kWeightBytes);
  const uint8_t* at[Live];
  for (int r = 0; r < Live; ++r) at[r] = afresh(rows[r] + channel + column * a.c);
#pragma GCC unroll 32
  for (int j = 0; j < (T - 1) * Stride + K; ++j) {
    const bool outside = Edge && (uint64_t)(column + j) >= (uint64_t)a.w;
    typename V::Bytes x[4];
    for (int r = 0; r < 4; ++r) {
      if (r >= Live) x[r] = x[Live - 1];
      else x[r] = V::load(outside ? padding : at[r]);
    }
    for (int r = 0; r < Live; ++r) at[r] += a.c;
    typename V::Quad q[2];
    V::template quads<Half>(x, q);
#pragma GCC unroll 8
    for (int s = 0; s < K; ++s)
      if (j >= s && (j - s) % Stride == 0 && (j - s) / Stride < T)
        for (int i = 0; i < 2; ++i) acc[(j - s) / Stride][i] = V::dot(acc[(j - s) / Stride][i], q[i], weight[s][i]);
  }
}

// The same for any kernel width, stride and dilation.
template <class V, int T, int Half>
JT_INLINE void accumulate_any(const Problem& a, const uint8_t* const* rows, const uint8_t* padding, int64_t channel, int64_t column,
                              const uint8_t* weights, typename V::Sums (&acc)[T][2]) {
  for (int64_t s = 0; s < a.s; ++s, weights += 2 * V::kWeightBytes)
    for (int t = 0; t < T; ++t) {
      const int64_t x = column + t * a.stride_w + s * a.dilation_w;
      const bool outside = (uint64_t)x >= (uint64_t)a.w;
      typename V::Bytes row[4];
      for (int r = 0; r < 4; ++r) row[r] = V::load(outside ? padding : rows[r] + channel + x * a.c);
      typename V::Quad q[2];
      V::template quads<Half>(row, q);
      for (int i = 0; i < 2; ++i) acc[t][i] = V::dot(acc[t][i], q[i], V::weight(weights + i * V::kWeightBytes));
    }
}

template <class V, int T, int K, int Stride, int Half, bool Edge>
JT_INLINE void sums(const Problem& a, const Line& line, const Block& b, int64_t column, typename V::Sums (&acc)[T][2]) {
  for (int i = 0; i < 2; ++i) {
    const typename V::Sums bias = V::load(b.bias + (Half * 2 + i) * V::kLanes);
    for (int t = 0; t < T; ++t) acc[t][i] = bias;
  }
  const uint8_t* weights = b.weights + Half * half_bytes<V>(a);
  const int64_t quad_bytes = a.s * 2 * V::kWeightBytes;
  if constexpr (K == 0) {
    for (int64_t i = 0; i < quads(a); ++i, weights += quad_bytes)
      accumulate_any<V, T, Half>(a, line.rows + 4 * i, line.padding, b.channel, column, weights, acc);
  } else {
    accumulate < V, T, K, Stride, Half, K<4 ? K : 4, Edge>(a, line.rows, line.padding, b.channel, column, weights, acc);
    weights += quad_bytes;
    if constexpr (K > 4) accumulate<V, T, K, Stride, Half, K - 4, Edge>(a, line.rows + 4, line.padding, b.channel, column, weights, acc);
  }
}

// The general epilogue, from sums in memory: a residual, or float32 out.
template <class V, int T>
__attribute__((noinline)) void finish_any(const Problem& a, const Line& line, const Block& b, const int32_t (&raw)[T][4 * V::kLanes],
                                          int64_t pixel, int64_t live) {
  constexpr int64_t L = V::kLanes;
  const int64_t each = a.out_element == Element::u8 ? 1 : 4;
  const auto part = [&](int64_t first, int64_t width) {
    BlockI8 o{};
    o.multiplier = line.multiplier + b.channel + first;
    o.residual = line.residual ? line.residual + b.channel + first : nullptr;
    o.out = line.out + (b.channel + first) * each;
    o.width = width;
    return o;
  };
  for (int64_t t = 0; t < live; ++t) {
    int32_t ordered[4 * L];
    V::in_order(raw[t], ordered);
    i32v acc[4 * L / W][1][1];
    for (int64_t i = 0; i < 4 * L / W; ++i) acc[i][0][0] = load_i32(ordered + i * W);
    if (!line.end.u8) {
      finish_f32(a, line.end, part(0, b.width), acc[0][0], 1, (int)ceil_div(b.width, W), pixel + t);
      continue;
    }
    for (int64_t i = 0; i * W < b.width; ++i) finish_i8<1, 1>(a, line.end, part(i * W, min64(W, b.width - i * W)), acc[i], pixel + t);
  }
}

template <class V, int T, int K, int Stride, bool Edge>
JT_INLINE void tile(const Problem& a, const Line& line, const Block& b, int64_t pixel, int64_t live) {
  constexpr int L = V::kLanes;
  const int64_t column = pixel * a.stride_w - a.pad_l;
  typename V::Sums acc[T][2];
  typename V::Bytes words[T];  // of the first half
  int32_t raw[T][4 * L];
  sums<V, T, K, Stride, 0, Edge>(a, line, b, column, acc);
  if (line.plain) {
    for (int t = 0; t < T; ++t) words[t] = V::words(acc[t][0], acc[t][1], b.multiplier);
  } else {
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < 2; ++i) V::store_sums(raw[t] + i * L, acc[t][i]);
  }
  sums<V, T, K, Stride, 1, Edge>(a, line, b, column, acc);
  if (line.plain) {
    for (int t = 0; t < T && t < live; ++t)
      V::store(line.out + (pixel + t) * a.k + b.channel, words[t], V::words(acc[t][0], acc[t][1], b.multiplier + 2 * L), line.zero,
               line.bounds.low, line.bounds.high, b.width);
  } else {
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < 2; ++i) V::store_sums(raw[t] + (2 + i) * L, acc[t][i]);
    finish_any<V, T>(a, line, b, raw, pixel, live);
  }
}

// A whole output row, one block of its channels.
template <class V, int T, int K, int Stride>
void run_line(const Problem& a, const Line& line, const Block& b) {
  for (int64_t pixel = 0; pixel < a.q; pixel += T) {
    const int64_t column = pixel * a.stride_w - a.pad_l, live = min64(T, a.q - pixel);
    const bool inside = column >= 0 && column + (T - 1) * Stride + K <= a.w && live == T;
    if (K > 0 && inside) tile<V, T, K, Stride, false>(a, line, b, pixel, T);
    else tile<V, T, K, Stride, true>(a, line, b, pixel, live);
  }
}

using RunLine = void (*)(const Problem&, const Line&, const Block&);

template <class V>
RunLine line_of(const Problem& a) {
  if constexpr (kIsa != Isa::scalar) {
    const bool two = a.stride_w == 2;
    switch (a.dilation_w > 1 || a.r != a.s || a.stride_w > 2 ? 0 : a.s) {
      case 3:
        return two ? run_line<V, kPixels, 3, 2> : run_line<V, kPixels, 3, 1>;
      case 5:
        return two ? run_line<V, kPixels, 5, 2> : run_line<V, kPixels, 5, 1>;
      case 7:
        return two ? run_line<V, kPixels, 7, 2> : run_line<V, kPixels, 7, 1>;
      default:
        break;
    }
  }
  return run_line<V, kPixels, 0, 1>;
}

// Moves to output row `row` of the whole batch.
void move_to(const Call& call, int64_t row, Line* line) {
  const Problem& a = *call.problem;
  const uint8_t* image = (const uint8_t*)call.in[0] + row / a.p * a.h * a.w * a.c;
  for (int64_t r = 0; r < 4 * quads(a); ++r) {
    const int64_t y = row % a.p * a.stride_h - a.pad_t + r * a.dilation_h;
    const bool in = r < a.r && (uint64_t)y < (uint64_t)a.h;
    line->rows[r] = in ? image + y * a.w * a.c : line->padding;
  }
  const int64_t out = row * a.q * a.k;
  line->out = (uint8_t*)call.out + out * (a.out_element == Element::u8 ? 1 : 4);
  line->residual = a.residual ? (const uint8_t*)call.in[1] + out : nullptr;
}

Line line_for(const Call& call) {
  const Problem& a = *call.problem;
  const Head h = head(a, kWidth, a.w);
  Line line;
  line.padding = (const uint8_t*)call.packed;
  line.multiplier = (const float*)(line.padding + h.padding_bytes) + h.width;
  line.plain = a.out_element == Element::u8 && !a.residual;
  line.zero = a.out_quantization.zero;
  line.bounds = bounds_of(a.out_quantization, a.act);
  line.end = epilogue_i8(a, h, call.packed);
  return line;
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Grid g = cut(a);
  const Range mine = g.row_range(job), channels = g.channels(job);
  const uint8_t* packed = (const uint8_t*)call.packed + head(a, kWidth, a.w).bytes;
  const RunLine wide = line_of<Wide>(a), thin = line_of<Narrow>(a);
  Line line = line_for(call);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    move_to(call, row, &line);
    for (int64_t i = channels.begin / kWidth; i * kWidth < channels.end; ++i) {
      const uint8_t* at = packed + i * block_bytes(a);
      const int64_t lanes = narrow(a, i) ? Narrow::kLanes : Wide::kLanes;
      const Block b = {i * kWidth, min64(kWidth, a.c - i * kWidth), (const int32_t*)at, (const float*)(at + 16 * lanes), at + 32 * lanes};
      (narrow(a, i) ? thin : wide)(a, line, b);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel depthwise_i8;
const Kernel depthwise_i8 = {"depthwise_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
