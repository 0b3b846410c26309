// Dense int8 convolution and linear layers, groups = 1: u8 inputs, int8 weights, exact int32 sums.
//
// As in dense.cpp a tile of PB pixels × OB·W output channels lives in registers; one step takes four
// input channels: broadcast a pixel's four bytes, multiply with four weights of each output channel.
//
//   weights packed [block][stop][⌈length/4⌉][vectors of four weights per lane]; inputs past the last weigh 0
#include "../conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 4 : kIsa == Isa::avx2 ? 2 : 1;
constexpr int kPixels = kRegisters == 32 ? 6 : 4;
constexpr int64_t kWidth = kVectors * W;

Walk walk_of(const Problem& a) { return walk<uint8_t>(a, 32); }
int64_t quads(const Walk& w) { return ceil_div(w.length, 4); }
int64_t block_bytes(const Walk& w) { return w.stops * quads(w) * kVectors * kQuadBytes; }

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
    uint8_t* block = weights + at.block * block_bytes(w) + at.vector * kQuadBytes;
    for (int64_t stop = 0; stop < w.stops; ++stop)
      for (int64_t i = 0; i < w.length; ++i)
        put_weight(block + (stop * quads(w) + i / 4) * kVectors * kQuadBytes, (int)at.lane, (int)(i % 4),
                   weight[(o * w.stops + stop) * w.length + i]);
  }
}

// One dot product of two vectors a cycle.
double cycles(const Problem& a) {
  const Walk w = walk_of(a);
  const double per_dot = kIsa == Isa::scalar ? 8.0 : 1.0, dots = (double)w.stops * quads(w);
  return (double)a.n * a.p * a.q * ceil_div(a.k, W) * (dots * per_dot / 0.9 + 6);
}

Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k, cycles(a)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }
int64_t workspace_bytes(const Problem& a) { return table_bytes<uint8_t, kPixels>(a, walk_of(a)); }

template <int PB, int OB>
JT_INLINE void tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t quads, int64_t pixel,
                    const uint8_t* const* table) {
  i32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t* w = b.weights;
  do {
    const uint8_t* in[PB];
    times<PB>([&](auto p) JT_FLAT { in[p] = table[p]; });
    const auto step = [&](int64_t i) JT_FLAT {
      i8q weight[OB];
      times<OB>([&](auto o) JT_FLAT { weight[o] = load_quad(w + o * kQuadBytes); });
      times<PB>([&](auto p) JT_FLAT {
        const u8q x = broadcast_quad(in[p] + i);
        times<OB>([&](auto o) JT_FLAT { acc[p][o] = dot(acc[p][o], x, weight[o]); });
      });
      w += kVectors * kQuadBytes;
    };
    int64_t i = 0;
    if (quads % 2) step(0), i = 4;
    while (i != 4 * quads) step(i), step(i + 4), i += 8;
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
  for_tiles<uint8_t, kPixels>(call, w, at, image_i8(call, at.image), (const uint8_t*)call.packed,
                              [&](int64_t block, auto count, int64_t pixel, const uint8_t* const* table) {
                                constexpr int PB = decltype(count)::value;
                                BlockI8 b = block_of(call, h, at.image, block, kWidth);
                                b.weights = (const uint8_t*)call.packed + h.bytes + block * block_bytes(w);
                                with_count<kVectors>(vectors_of(a, block, kWidth), [&](auto n) {
                                  tile<PB, decltype(n)::value>(a, end, b, w.stops, quads(w), pixel, table);
                                });
                              });
}

double cost(const Problem& a, const Constants&) { return cycles(a) + (double)a.r * a.s * a.c * a.k / 8; }

}  // namespace

extern const Kernel dense_i8;
const Kernel dense_i8 = {"dense_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
