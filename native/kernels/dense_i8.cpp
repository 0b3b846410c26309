// Dense int8 convolution and linear layers, groups = 1: u8 inputs, int8 weights, exact int32 sums.
//
// As in dense.cpp a tile of PB pixels × OB·W output channels lives in registers; one step broadcasts four inputs of a
// pixel and multiplies them with four weights of each output channel.
//
//   AVX-512   vpdpbusd
//   AVX2      vpmaddubsw, on lists of steps (steps_i8.h). Two weights, neighbours and of one sign, that are too large together
//             are spread over two steps that take the same inputs
//
//   packed: head | per block: [stop][step][vectors of weights], inputs past the last weigh 0
//   AVX2:   head | per block: list | entries
#include "../steps_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int kStep = 4;  // inputs
constexpr bool kListed = kSaturates;
constexpr int kVectors = kRegisters == 32 ? 4 : 1;
constexpr int kPixels = kListed ? 8 : kIsa == Isa::scalar ? 4 : 6;
constexpr int64_t kWidth = kVectors * W;

Walk walk_of(const Problem& a) { return walk<uint8_t>(a, 32); }
int64_t steps(const Walk& w) { return ceil_div(w.length, kStep); }
int64_t most_steps(const Walk& w) { return w.stops * steps(w) * (kListed ? 2 : 1); }
int64_t guide_bytes(const Walk& w) { return kListed ? list_bytes(w.stops, most_steps(w)) : 0; }
int64_t block_bytes(const Walk& w) { return guide_bytes(w) + align64(most_steps(w) * kVectors * kPairsBytes); }

bool accepts(const Problem& a, const Constants& c) { return a.groups == 1 && c.find("weight") && has_head(c); }

int64_t packed_bytes(const Problem& a, const Constants&) {
  const Head h = head(a, kWidth);
  return h.bytes + h.width / kWidth * block_bytes(walk_of(a));
}

// Four weights of every output channel of the block, or 0.
struct Step {
  int8_t weight[kWidth][kStep];  // by place
};

// Takes from every pair that does not fit its second weight; what is taken, and whether there is any.
bool split(Step* from, Step* taken) {
  bool any = false;
  std::memset(taken, 0, sizeof *taken);
  for (int64_t i = 0; i < kWidth; ++i)
    for (int j = 0; j < kStep; j += 2) {
      int8_t* pair = from->weight[i] + j;
      if (pair_fits(pair[0], pair[1])) continue;
      taken->weight[i][j + 1] = pair[1];
      pair[1] = 0;
      any = true;
    }
  return any;
}

uint8_t* put_step(const Step& step, uint8_t* to) {
  for (int64_t i = 0; i < kWidth; ++i)
    for (int j = 0; j < kStep; ++j) put_pairs(to + i / W * kPairsBytes, (int)(i % W), j, step.weight[i][j]);
  return to + kVectors * kPairsBytes;
}

Step step_of(const Problem& a, const Walk& w, const int8_t* weight, int64_t block, int64_t stop, int64_t first) {
  Step s{};
  for (int64_t o = block * kWidth; o < min64(a.k, (block + 1) * kWidth); ++o) {
    const Place at = place(a, o, kWidth);
    for (int64_t i = first; i < min64(first + kStep, w.length); ++i)
      s.weight[at.vector * W + at.lane][i - first] = weight[(o * w.stops + stop) * w.length + i];
  }
  return s;
}

void pack_list(const Problem& a, const Walk& w, const int8_t* weight, int64_t block, uint8_t* list, uint8_t* weights) {
  StepList<false> to(w.stops, 2 * steps(w), list, weights);
  for (int64_t stop = 0; stop < w.stops; ++stop, to.end_stop())
    for (int64_t i = 0; i < w.length; i += kStep) {
      Step step = step_of(a, w, weight, block, stop, i), more;
      const bool two = split(&step, &more);
      put_step(step, to.entry());
      to.add(i);
      if (!two) continue;
      put_step(more, to.entry());
      to.add(i);
    }
}

void pack(const Problem& a, const Constants& c, void* packed) {
  const Head h = head(a, kWidth);
  const Walk w = walk_of(a);
  const int8_t* weight = (const int8_t*)c.find("weight");
  pack_head(a, c, h, kWidth, (uint8_t*)packed);
  uint8_t* at = (uint8_t*)packed + h.bytes;
  for (int64_t block = 0; block < h.width / kWidth; ++block, at += block_bytes(w)) {
    uint8_t* weights = at + guide_bytes(w);
    if (kListed) pack_list(a, w, weight, block, at, weights);
    else
      for (int64_t stop = 0; stop < w.stops; ++stop)
        for (int64_t i = 0; i < w.length; i += kStep) weights = put_step(step_of(a, w, weight, block, stop, i), weights);
  }
}

// A step takes a cycle: on AVX2 two multiplications, less for doubles, more for pairs that do not fit.
double cycles(const Problem& a) {
  const Walk w = walk_of(a);
  const double per_step = kIsa == Isa::scalar ? 8.0 : 1.0;
  return (double)a.n * a.p * a.q * ceil_div(a.k, W) * (w.stops * steps(w) * per_step / 0.9 + 6);
}

Cut plan(const Problem& a) { return cut(a, kWidth, kPixels, a.r * a.s * a.c * a.k, cycles(a)); }
int64_t jobs(const Problem& a) { return jobs_of(plan(a)); }

int64_t workspace_bytes(const Problem& a) { return table_bytes<uint8_t, kPixels>(a, walk_of(a)); }

template <int PB, int OB>
JT_INLINE void tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t steps, int64_t pixel,
                    const uint8_t* const* table) {
  if constexpr (kListed) return listed_tile<false, kPixels, PB>(a, end, b, stops, pixel, table);
  i32v acc[PB][OB];
  start(b.bias, acc);
  const uint8_t* w = b.weights;
  do {
    const uint8_t* in[PB];
    times<PB>([&](auto p) JT_FLAT { in[p] = table[p]; });
    const auto step = [&](int64_t i) JT_FLAT {
      i8p weights[OB];
      times<OB>([&](auto o) JT_FLAT { weights[o] = load_pairs(w + o * kPairsBytes); });
      times<PB>([&](auto p) JT_FLAT {
        const u8p x = broadcast_quad(in[p] + i);
        times<OB>([&](auto o) JT_FLAT { acc[p][o] = dot_pairs(acc[p][o], x, weights[o]); });
      });
      w += kVectors * kPairsBytes;
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
  const EpilogueI8 end = epilogue_i8(a, h, call.packed);
  const auto block_at = [&](int64_t block) {
    BlockI8 b = block_of(call, h, at.image, block, kWidth);
    b.counts = (const uint8_t*)call.packed + h.bytes + block * block_bytes(w);
    b.weights = b.counts + guide_bytes(w);
    return b;
  };
  const int64_t per_stop = steps(w);
  for_tiles<uint8_t, kPixels>(call, w, at, image_i8(call, at.image), (const uint8_t*)call.packed, block_at,
                              [&](const BlockI8& b, auto count, int64_t pixel, const uint8_t* const* table) {
                                with_count<kVectors>(ceil_div(b.width, W), [&](auto n) {
                                  tile<decltype(count)::value, decltype(n)::value>(a, end, b, w.stops, per_stop, pixel, table);
                                });
                              });
}

double cost(const Problem& a, const Constants&) { return cycles(a) + (double)a.r * a.s * a.c * a.k / 8; }

}  // namespace

extern const Kernel dense_i8;
const Kernel dense_i8 = {"dense_i8", "conv", "dense", kIsa, accepts, packed_bytes, pack, workspace_bytes, jobs, run, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
