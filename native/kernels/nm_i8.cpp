// N:M int8 convolution and linear layers, groups = 1: gather by byte permute.
//
// A window is kWindow consecutive u8 channels of a pixel at one tap (64 on AVX-512, 16 elsewhere). Every output
// channel keeps the same number of weights in each window; four of them at a time go through
//
//   acc[pixel][W outputs] += dot(gather(index, window[pixel]), weights)
//
// which is 4·W kept multiply-adds with no wasted lane, whatever the pattern. Index and weights are loaded once
// for all PB pixels of a tile.
//
//   packed: head | bytes of a block | per block: counts (r·s·windows) | per window, four kept, vector: 4·W indices, i8q
#include "../conv_i8.h"
#include "../kept.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kVectors = kRegisters == 32 ? 2 : 1;
constexpr int kPixels = kRegisters == 32 ? 8 : 4;
constexpr int64_t kEntry = 4 * W + kQuadBytes;
constexpr int64_t kWidth = kVectors * W;
constexpr int64_t kHeaderBytes = 64;

int64_t windows(const Problem& a) { return ceil_div(a.c, kWindow); }
int64_t steps(const Problem& a) { return a.r * a.s * windows(a); }
int64_t blocks(const Problem& a) { return ceil_div(a.k, kWidth); }
int64_t counts_bytes(const Problem& a) { return align64(steps(a)); }
Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k / 4); }

int64_t most_quads(const Problem& a, const Constants& c) { return ceil_div(most_per_window(a.c, kWindow, c.n, c.m), 4); }
int64_t block_bytes(const Problem& a, const Constants& c) { return counts_bytes(a) + align64(steps(a) * most_quads(a, c) * kVectors * kEntry); }

bool accepts(const Problem& a, const Constants& c) {
  return a.groups == 1 && c.find("values") && c.find("positions") && has_head(c) && c.m > 0 && a.c % c.m == 0;
}

int64_t packed_bytes(const Problem& a, const Constants& c) { return head(a, kWidth).bytes + kHeaderBytes + blocks(a) * block_bytes(a, c); }

// Four kept weights of the window to a quad; the fullest output channel of the block decides how many quads.
int64_t pack_window(const Problem& a, const Constants& c, int64_t block, int64_t step, uint8_t* entry) {
  int64_t quads = 0;
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    const int64_t lane = o % W, vector = o % kWidth / W;
    int64_t kept = 0;
    each_kept<int8_t>(a, c, o, step / windows(a), step % windows(a), kWindow, [&](int64_t index, int8_t value) {
      uint8_t* e = entry + (kept / 4 * kVectors + vector) * kEntry;
      e[lane * 4 + kept % 4] = (uint8_t)index;
      put_weight(e + 4 * W, (int)lane, (int)(kept % 4), value);
      ++kept;
    });
    quads = max64(quads, ceil_div(kept, 4));
  }
  return quads;
}

void pack(const Problem& a, const Constants& c, void* packed) {
  std::memset(packed, 0, packed_bytes(a, c));
  const Head h = head(a, kWidth);
  pack_head(a, c, h, (uint8_t*)packed);
  const int64_t stride = block_bytes(a, c);
  uint8_t* at = (uint8_t*)packed + h.bytes;
  std::memcpy(at, &stride, sizeof stride);
  at += kHeaderBytes;
  for (int64_t block = 0; block < blocks(a); ++block, at += stride) {
    uint8_t* entry = at + counts_bytes(a);
    for (int64_t step = 0; step < steps(a); ++step) {
      at[step] = (uint8_t)pack_window(a, c, block, step, entry);
      entry += at[step] * kVectors * kEntry;
    }
  }
}

int64_t jobs(const Problem& a) {
  const Cut c = plan(a);
  return a.n * c.pixel_blocks * c.channel_blocks;
}

// All windows of one tap. Reads past the last channel of the last window; no index of a weight points there.
template <int PB, int OB>
JT_INLINE const uint8_t* accumulate(i32v (&acc)[PB][OB], const uint8_t* const (&in)[PB], const uint8_t* e, const uint8_t* counts, int64_t windows) {
  for (int64_t i = 0; i < windows; ++i) {
    window_t x[PB];
    for (int p = 0; p < PB; ++p) x[p] = load_window(in[p] + i * kWindow);
    for (int64_t q = counts[i]; q > 0; --q) {
      for (int o = 0; o < OB; ++o) {
        const uint8_t* entry = e + o * kEntry;
        const i8q weight = load_quad(entry + 4 * W);
        for (int p = 0; p < PB; ++p) acc[p][o] = dot(acc[p][o], gather(entry, x[p]), weight);
      }
      e += kVectors * kEntry;
    }
  }
  return e;
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
  const uint8_t *e = b.weights, *counts = b.counts;
  const int64_t per_tap = windows(a);
  const uint8_t* in[PB];
  for (int64_t r = 0; r < a.r; ++r)
    for (int64_t s = 0; s < a.s; ++s) {
      const int64_t dy = r * a.dilation_h, dx = s * a.dilation_w;
      if (t.inside) {
        const int64_t offset = (dy * a.w + dx) * a.c;
        for (int p = 0; p < PB; ++p) in[p] = t.base[p] + offset;
      } else {
        tap(a, b.image, t, dy, dx, b.padding, in);
      }
      e = accumulate<PB, OB>(acc, in, e, counts, per_tap);
      counts += per_tap;
    }
  finish_i8<PB, OB>(a, b, acc, pixel);
}

template <int OB, int PB>
void tile_of(const Problem& a, const BlockI8& b, int64_t pixel, int64_t count) {
  if constexpr (PB == 1) tile<1, OB>(a, b, pixel);
  else if (count == PB) tile<PB, OB>(a, b, pixel);
  else tile_of<OB, PB - 1>(a, b, pixel, count);
}

template <int OB>
void pixels_of(const Problem& a, const BlockI8& b, int64_t first, int64_t last) {
  const int64_t tiles = ceil_div(last - first, kPixels);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t from = first + part(last - first, tiles, i), to = first + part(last - first, tiles, i + 1);
    tile_of<OB, kPixels>(a, b, from, to - from);
  }
}

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Piece at = piece(plan(a), job);
  const Head h = head(a, kWidth);
  const uint8_t* packed = (const uint8_t*)call.packed + h.bytes;
  int64_t stride;
  std::memcpy(&stride, packed, sizeof stride);
  BlockI8 b = block_i8(call, h, at, kWidth);
  b.counts = packed + kHeaderBytes + at.block * stride;
  b.weights = b.counts + counts_bytes(a);
  if (kVectors == 1 || b.width <= W) return pixels_of<1>(a, b, at.first_pixel, at.last_pixel);
  return pixels_of<kVectors>(a, b, at.first_pixel, at.last_pixel);
}

// A permute and a dot take 4/3 of a cycle together.
double cost(const Problem& a, const Constants& c) {
  const double quads = c.m ? (double)most_quads(a, c) : kWindow / 4;
  const double pairs = (double)a.n * a.p * a.q * ceil_div(a.k, W) * steps(a) * quads;
  const double loads = (double)a.n * a.p * a.q * blocks(a) * steps(a);
  const double cycles = kIsa == Isa::avx512 ? 1.333 : kIsa == Isa::avx2 ? 2.0 : 16.0;
  return (pairs * cycles + loads) / 0.9 + 8.0 * a.k * steps(a) * quads / 8;
}

}  // namespace

extern const Kernel nm_i8;
const Kernel nm_i8 = {"nm_i8", "conv", "nm", kIsa, accepts, packed_bytes, pack, nullptr, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
