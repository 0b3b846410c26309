// Dense int8 convolution and linear layers, groups = 1: u8 inputs, int8 weights, exact int32 sums.
//
// As in dense.cpp a tile of PB pixels × OB·W output channels lives in registers; one step takes four
// input channels: broadcast a pixel's four bytes, multiply with four weights of each output channel.
//
//   weights packed [block][r][s][⌈c/4⌉][OB vectors of four weights per lane]; channels past c weigh 0
#include "../conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 4 : kIsa == Isa::avx2 ? 2 : 1;
constexpr int kPixels = kRegisters == 32 ? 6 : 4;
constexpr int64_t kWidth = kVectors * W;

int64_t quads(const Problem& a) { return ceil_div(a.c, 4); }
int64_t block_bytes(const Problem& a) { return a.r * a.s * quads(a) * kVectors * kQuadBytes; }
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k); }

bool accepts(const Problem& a, const Constants& c) { return a.groups == 1 && c.find("weight") && has_head(c); }

int64_t packed_bytes(const Problem& a, const Constants&) {
  const Head h = head(a, kWidth);
  return h.bytes + h.width / kWidth * block_bytes(a);
}

void pack(const Problem& a, const Constants& c, void* packed) {
  const Head h = head(a, kWidth);
  pack_head(a, c, h, (uint8_t*)packed);
  uint8_t* weights = (uint8_t*)packed + h.bytes;
  std::memset(weights, 0, h.width / kWidth * block_bytes(a));
  const int8_t* weight = (const int8_t*)c.find("weight");
  for (int64_t o = 0; o < a.k; ++o)
    for (int64_t tap = 0; tap < a.r * a.s; ++tap)
      for (int64_t i = 0; i < a.c; ++i) {
        uint8_t* quad = weights + o / kWidth * block_bytes(a) + ((tap * quads(a) + i / 4) * kVectors + o % kWidth / W) * kQuadBytes;
        put_weight(quad, (int)(o % W), (int)(i % 4), weight[(o * a.r * a.s + tap) * a.c + i]);
      }
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

template <int PB, int OB>
JT_INLINE const uint8_t* accumulate(i32v (&acc)[PB][OB], const uint8_t* const (&in)[PB], const uint8_t* w, int64_t count) {
#pragma GCC unroll 2
  for (int64_t i = 0; i < count; ++i) {
    i8q weight[OB];
    for (int o = 0; o < OB; ++o) weight[o] = load_quad(w + o * kQuadBytes);
    for (int p = 0; p < PB; ++p) {
      const u8q x = broadcast_quad(in[p] + 4 * i);
      for (int o = 0; o < OB; ++o) acc[p][o] = dot(acc[p][o], x, weight[o]);
    }
    w += kVectors * kQuadBytes;
  }
  return w;
}

template <int PB, int OB>
void tile(const Problem& a, const BlockI8& b, int64_t pixel) {
  Tile<uint8_t, PB> t;
  locate(a, b.image, pixel, &t);
  i32v acc[PB][OB];
  for (int o = 0; o < OB; ++o) {
    const i32v bias = load_i32(b.bias + o * W);
    for (int p = 0; p < PB; ++p) acc[p][o] = bias;
  }
  const uint8_t* w = b.weights;
  const uint8_t* in[PB];
  if (t.inside && a.dilation_w == 1 && a.c % 4 == 0) {  // a kernel row's s·c inputs are consecutive
    for (int64_t r = 0; r < a.r; ++r) {
      for (int p = 0; p < PB; ++p) in[p] = t.base[p] + r * a.dilation_h * a.w * a.c;
      w = accumulate<PB, OB>(acc, in, w, a.s * a.c / 4);
    }
  } else {
    for (int64_t r = 0; r < a.r; ++r)
      for (int64_t s = 0; s < a.s; ++s) {
        tap(a, b.image, t, r * a.dilation_h, s * a.dilation_w, b.padding, in);
        w = accumulate<PB, OB>(acc, in, w, quads(a));
      }
  }
  finish_i8<PB, OB>(a, b, acc, pixel);
}

template <int OB>
void pixels_of(const Problem& a, const BlockI8& b, const Piece& at) {
  constexpr int kMost = kRegisters == 32 ? (24 / OB > 12 ? 12 : 24 / OB) : kPixels;
  for_tiles<kMost>(at.first_pixel, at.last_pixel, [&](auto n, int64_t pixel) { tile<decltype(n)::value, OB>(a, b, pixel); });
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Head h = head(a, kWidth);
  BlockI8 b = block_of(call, h, at, kWidth);
  b.weights = (const uint8_t*)call.packed + h.bytes + at.block * block_bytes(a);
  switch (ceil_div(b.width, W)) {
    case 1:
      return pixels_of<1>(a, b, at);
    case 2:
      return pixels_of < kVectors<2 ? 1 : 2>(a, b, at);
    case 3:
      return pixels_of < kVectors<3 ? 1 : 3>(a, b, at);
    default:
      return pixels_of<kVectors>(a, b, at);
  }
}

double cost(const Problem& a, const Constants&) {
  const double dots = (double)a.n * a.p * a.q * ceil_div(a.k, W) * a.r * a.s * quads(a);
  return dots * (kIsa == Isa::scalar ? 8.0 : 1.0) / 0.9 + (double)a.r * a.s * a.c * a.k / 8;
}

}  // namespace

extern const Kernel dense_i8;
const Kernel dense_i8 = {"dense_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
