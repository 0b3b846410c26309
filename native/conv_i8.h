// What the int8 convolution kernels share: their packed head and the epilogue (quantized.py, _conv).
//
//   packed: padding (zero points: one pixel, or as many as asked for, and slack) | bias int32 | multiplier float32 | the largest
//           multiplier | weights
#pragma once
#include "conv.h"
#include "vec_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

struct Head {
  int64_t width;  // channels, padded to whole blocks
  int64_t padding_bytes, bytes;
};

JT_INLINE Head head(const Problem& a, int64_t block_width, int64_t padding_pixels = 1) {
  Head h;
  h.width = ceil_div(a.k, block_width) * block_width;
  h.padding_bytes = align64(padding_pixels * a.c + kSlack);
  h.bytes = h.padding_bytes + align64(h.width * 8 + (int64_t)sizeof(float));
  return h;
}

// Vectors of a block of `block_width` channels that hold any of the k.
JT_INLINE int64_t vectors_of(const Problem& a, int64_t block, int64_t block_width) {
  return ceil_div(min64(block_width, a.k - block * block_width), W);
}

// The lane of the block's sums that an output channel takes.
struct Place {
  int64_t block, vector, lane;
};

// Bytes are packed out of two or four vectors at once, inside every 128 bits: they come out in order when lane i of
// vector v of V is channel i/4·4V + v·4 + i%4. One vector, three, and sums that become floats lie in order.
JT_INLINE Place place(const Problem& a, int64_t o, int64_t block_width) {
  const int64_t block = o / block_width, i = o % block_width, vectors = vectors_of(a, block, block_width);
  if (a.out_element == Element::u8 && packs(vectors)) return {block, i % (4 * vectors) / 4, i / (4 * vectors) * 4 + i % 4};
  return {block, i / W, i % W};
}

JT_INLINE void pack_head(const Problem& a, const Constants& c, const Head& h, int64_t block_width, uint8_t* packed) {
  std::memset(packed, a.in_quantization[0].zero, h.padding_bytes);
  std::memset(packed + h.padding_bytes, 0, h.bytes - h.padding_bytes);
  int32_t* bias = (int32_t*)(packed + h.padding_bytes);
  float *multiplier = (float*)bias + h.width, *largest = multiplier + h.width;
  for (int64_t o = 0; o < a.k; ++o) {
    const Place at = place(a, o, block_width);
    const int64_t to = at.block * block_width + at.vector * W + at.lane;
    bias[to] = ((const int32_t*)c.find("bias"))[o];
    multiplier[to] = ((const float*)c.find("multiplier"))[o];
    if (::fabsf(multiplier[to]) > *largest) *largest = ::fabsf(multiplier[to]);
  }
}

JT_INLINE bool has_head(const Constants& c) { return c.find("bias") && c.find("multiplier"); }

// What follows the sums, computed once per job: the divisions cost more than a small tile.
struct EpilogueI8 {
  Requantize to;
  Bytes bytes;  // the same for packed bytes
  f32v ratio;   // scale of the residual over that of the output
  i32v residual_zero;
  f32v residual_shift;  // see centred_of
  bool u8;
  bool saturates;  // packing does all of the clamping: the bounds are 0 … 255, and whatever the sums are, int32 holds the result
};

JT_INLINE EpilogueI8 epilogue_i8(const Problem& a, const Head& h, const void* packed) {
  EpilogueI8 e;
  e.u8 = a.out_element == Element::u8;
  e.to = requantize_to(a.out_quantization, a.act);
  e.bytes = bytes_to(a.out_quantization, a.act);
  const float ratio = a.residual ? (float)(a.in_quantization[1].scale / (e.u8 ? a.out_quantization.scale : 1.0)) : 0.0f;
  e.ratio = set1(ratio);
  e.residual_zero = set1_i32(a.in_quantization[1].zero);
  e.residual_shift = set1(kMantissa + (float)a.in_quantization[1].zero);
  const Bounds b = bounds_of(a.out_quantization, a.act);
  const float largest = ((const float*)((const uint8_t*)packed + h.padding_bytes))[2 * h.width];
  e.saturates = b.low == 0 && b.high == 255 && largest <= 0.25f && 256 * ratio <= 0x1p29f;
  return e;
}

// One block of output channels of one image.
struct BlockI8 {
  const uint8_t* residual;
  const int32_t* bias;
  const float* multiplier;
  const uint8_t *weights, *counts;
  void* out;  // u8 or float
  int64_t width;
  int64_t windows, channel;  // of a gather, at each stop: how many, and the input where the first one begins
};

JT_INLINE BlockI8 block_of(const Call& call, const Head& h, int64_t image, int64_t block, int64_t block_width) {
  const Problem& a = *call.problem;
  const int64_t first = block * block_width, image_out = image * a.p * a.q * a.k + first;
  BlockI8 b{};
  b.bias = (const int32_t*)((const uint8_t*)call.packed + h.padding_bytes) + first;
  b.multiplier = (const float*)b.bias + h.width;
  b.residual = a.residual ? (const uint8_t*)call.in[1] + image_out : nullptr;
  b.out = (uint8_t*)call.out + image_out * (a.out_element == Element::u8 ? 1 : 4);
  b.width = min64(block_width, a.k - first);
  return b;
}

JT_INLINE const uint8_t* image_i8(const Call& call, int64_t image) {
  return (const uint8_t*)call.in[0] + image * call.problem->h * call.problem->w * call.problem->c;
}

// acc = bias
template <int PB, int OB>
JT_INLINE void start(const int32_t* bias, i32v (&acc)[PB][OB]) {
  times<OB>([&](auto o) JT_FLAT {
    const i32v v = load_i32(bias + o * W);
    times<PB>([&](auto p) JT_FLAT { acc[p][o] = v; });
  });
}

// out = requantize(acc · multiplier + residual) of PB pixels; bias is already in acc.
// Full: every vector of channels is whole, so that the stores need no mask. Saturates: as EpilogueI8 says.
template <bool Residual, bool Full, bool Saturates, int PB, int OB>
JT_INLINE void finish_u8(const Problem& a, const EpilogueI8& epilogue, const BlockI8& b, i32v (&acc)[PB][OB], int64_t pixel) {
  const EpilogueI8 end = epilogue;  // a copy: bytes that are stored might lie anywhere, for all that the compiler knows
  const int64_t k = a.k;
  const float* multipliers = b.multiplier;
  uint8_t* out = (uint8_t*)b.out + pixel * k;
  const uint8_t* residual = Residual ? b.residual + pixel * k : nullptr;
  const int64_t width = Full ? OB * W : b.width;
#if defined(JETTISON_AVX512)
  if constexpr (packs(OB)) {
    constexpr int kTogether = 4 / OB;  // pixels; the last of an odd number goes twice
    times<(PB + kTogether - 1) / kTogether>([&](auto pair) JT_FLAT {
      constexpr int p = decltype(pair)::value * kTogether, next = p + kTogether - 1 < PB ? p + kTogether - 1 : p;
      i32v q[4];
      times<4>([&](auto i) JT_FLAT {
        constexpr int o = decltype(i)::value % OB, at = decltype(i)::value < OB ? p : next;
        f32v t = mul(to_float(acc[at][o]), load(multipliers + o * W));
        if constexpr (Residual) t = add(t, mul(centred_of<OB>(residual + at * k, o, end.residual_shift), end.ratio));
        q[i] = Saturates ? round_to_i32(t) : round_below(t);
      });
      const u8v bytes = pack_bytes<Saturates>(q, end.bytes);
      if constexpr (OB == 4) store_bytes_first(out + p * k, bytes, width);
      else store_halves_first(out + p * k, out + next * k, bytes, width);
    });
    return;
  }
#endif
  // (On AVX2, packing the vectors of four pixels together was no faster.)
  times<OB>([&](auto o) JT_FLAT {
    const f32v multiplier = load(multipliers + o * W);
    times<PB>([&](auto p) JT_FLAT {
      const int64_t at = p * k + o * W;
      f32v t = mul(to_float(acc[p][o]), multiplier);
      if constexpr (Residual) t = add(t, mul(load_centred(residual + at, end.residual_zero), end.ratio));
      const i32v q = Saturates && kIsa == Isa::avx2 ? add(round_to_i32(t), end.to.zero) : requantize(end.to, t);
      store_u8_first(out + at, q, width - o * W);
    });
  });
}

// out = act(acc · multiplier + residual) as floats, from sums in memory: a call in place would send all of them there.
__attribute__((noinline, unused)) static void finish_f32(const Problem& a, const EpilogueI8& end, const BlockI8& b, const i32v* acc,
                                                         int pixels, int vectors, int64_t pixel) {
  float* out = (float*)b.out + pixel * a.k;
  for (int o = 0; o < vectors; ++o)
    for (int i = 0; i < pixels; ++i) {
      const int64_t at = i * a.k + o * W;
      f32v t = mul(to_float(acc[i * vectors + o]), load(b.multiplier + o * W));
      if (b.residual) t = add(t, mul(load_centred(b.residual + pixel * a.k + at, end.residual_zero), end.ratio));
      store_first(out + at, t, b.width - o * W);
    }
  if (a.act != Act::none) activate_rows(a, out, pixels, min64(b.width, vectors * W));
}

template <int PB, int OB>
JT_INLINE void finish_i8(const Problem& a, const EpilogueI8& end, const BlockI8& b, i32v (&acc)[PB][OB], int64_t pixel) {
  const bool full = b.width >= OB * W;
  if (!end.u8) {
    i32v sums[PB * OB];
    times<PB>([&](auto p) JT_FLAT { times<OB>([&](auto o) JT_FLAT { sums[p * OB + o] = acc[p][o]; }); });
    finish_f32(a, end, b, sums, PB, OB, pixel);
  } else {
    const auto finish = [&](auto whole, auto saturates) JT_FLAT {
      constexpr bool Full = decltype(whole)::value, Saturates = decltype(saturates)::value;
      if (b.residual) finish_u8<true, Full, Saturates>(a, end, b, acc, pixel);
      else finish_u8<false, Full, Saturates>(a, end, b, acc, pixel);
    };
    if (!full) finish(Count<false>(), Count<false>());
    else if (end.saturates) finish(Count<true>(), Count<true>());
    else finish(Count<true>(), Count<false>());
  }
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
