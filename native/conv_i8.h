// What the int8 convolution kernels share: their packed head and the epilogue (quantized.py, _conv).
//
//   packed: padding (zero points: one pixel, or as many as asked for, and slack) | bias int32 | multiplier float32 | weights
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
  h.bytes = h.padding_bytes + align64(h.width * 8);
  return h;
}

JT_INLINE void pack_head(const Problem& a, const Constants& c, const Head& h, uint8_t* packed) {
  std::memset(packed, a.in_quantization[0].zero, h.padding_bytes);
  std::memset(packed + h.padding_bytes, 0, h.bytes - h.padding_bytes);
  std::memcpy(packed + h.padding_bytes, c.find("bias"), a.k * 4);
  std::memcpy(packed + h.padding_bytes + h.width * 4, c.find("multiplier"), a.k * 4);
}

JT_INLINE bool has_head(const Constants& c) { return c.find("bias") && c.find("multiplier"); }

// What follows the sums, computed once per job: the divisions cost more than a small tile.
struct EpilogueI8 {
  Requantize to;
  f32v ratio;  // scale of the residual over that of the output
  i32v residual_zero;
  bool u8;
};

JT_INLINE EpilogueI8 epilogue_i8(const Problem& a) {
  EpilogueI8 e;
  e.u8 = a.out_element == Element::u8;
  e.to = requantize_to(a.out_quantization, a.act);
  e.ratio = set1(a.residual ? (float)(a.in_quantization[1].scale / (e.u8 ? a.out_quantization.scale : 1.0)) : 0.0f);
  e.residual_zero = set1_i32(a.in_quantization[1].zero);
  return e;
}

// One block of output channels of one image.
struct BlockI8 {
  const uint8_t *padding, *image, *residual;
  const int32_t* bias;
  const float* multiplier;
  const uint8_t *weights, *counts;
  void* out;  // u8 or float
  int64_t width;
  EpilogueI8 end;
};

JT_INLINE BlockI8 block_of(const Call& call, const Head& h, const Piece& at, int64_t block_width) {
  const Problem& a = *call.problem;
  const int64_t first = at.block * block_width, image_out = at.image * a.p * a.q * a.k + first;
  BlockI8 b{};
  b.padding = (const uint8_t*)call.packed;
  b.bias = (const int32_t*)(b.padding + h.padding_bytes) + first;
  b.multiplier = (const float*)(b.padding + h.padding_bytes) + h.width + first;
  b.image = (const uint8_t*)call.in[0] + at.image * a.h * a.w * a.c;
  b.residual = a.residual ? (const uint8_t*)call.in[1] + image_out : nullptr;
  b.out = (uint8_t*)call.out + image_out * (a.out_element == Element::u8 ? 1 : 4);
  b.width = min64(block_width, a.k - first);
  b.end = epilogue_i8(a);
  return b;
}

// out = requantize(acc · multiplier + residual) of PB pixels; bias is already in acc.
// Full: every vector of channels is whole, so that the stores need no mask.
template <bool Residual, bool Full, int PB, int OB>
JT_INLINE void finish_u8(const Problem& a, const BlockI8& b, i32v (&acc)[PB][OB], int64_t pixel) {
  const EpilogueI8 end = b.end;
  const auto real = [&](int i, int o, f32v multiplier, int64_t at) {
    f32v t = mul(to_float(acc[i][o]), multiplier);
    if (Residual) t = add(t, mul(load_centred(b.residual + at, end.residual_zero), end.ratio));
    return t;
  };
  int o = 0;
  if (Full)
    for (; o + 1 < OB; o += 2) {
      const f32v m0 = load(b.multiplier + o * W), m1 = load(b.multiplier + o * W + W);
      for (int i = 0; i < PB; ++i) {
        const int64_t at = (pixel + i) * a.k + o * W;
        store_requantized_pair((uint8_t*)b.out + at, end.to, real(i, o, m0, at), real(i, o + 1, m1, at + W));
      }
    }
  for (; o < OB; ++o) {
    const f32v multiplier = load(b.multiplier + o * W);
    for (int i = 0; i < PB; ++i) {
      const int64_t at = (pixel + i) * a.k + o * W;
      store_u8_first((uint8_t*)b.out + at, requantize(end.to, real(i, o, multiplier, at)), Full ? W : b.width - o * W);
    }
  }
}

template <int PB, int OB>
JT_INLINE void finish_f32(const Problem& a, const BlockI8& b, i32v (&acc)[PB][OB], int64_t pixel) {
  float* out = (float*)b.out + pixel * a.k;
  for (int o = 0; o < OB; ++o)
    for (int i = 0; i < PB; ++i) {
      const int64_t at = i * a.k + o * W;
      f32v t = mul(to_float(acc[i][o]), load(b.multiplier + o * W));
      if (b.residual) t = add(t, mul(load_centred(b.residual + pixel * a.k + at, b.end.residual_zero), b.end.ratio));
      store_first(out + at, t, b.width - o * W);
    }
  if (a.act != Act::none) activate_rows(a, out, PB, b.width);
}

template <int PB, int OB>
JT_INLINE void finish_i8(const Problem& a, const BlockI8& b, i32v (&acc)[PB][OB], int64_t pixel) {
  const bool full = b.width >= OB * W;
  if (!b.end.u8) finish_f32(a, b, acc, pixel);
  else if (full && b.residual) finish_u8<true, true>(a, b, acc, pixel);
  else if (full) finish_u8<false, true>(a, b, acc, pixel);
  else if (b.residual) finish_u8<true, false>(a, b, acc, pixel);
  else finish_u8<false, false>(a, b, acc, pixel);
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
