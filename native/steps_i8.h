// Lists of steps, for AVX2: vpmaddubsw multiplies fast, but adds the two products of a pair in 16 bits and saturates.
//
// A step is four inputs of a pixel times four weights of each of W output channels. Two steps may share what follows the
// multiplication:
//
//   double   acc += madd(maddubs(x0, w0) + maddubs(x1, w1), 1)    3 multiplications for two steps
//   single   acc += madd(maddubs(x, w), 1)                        2 for one
//
// Both are exact for all inputs: the weights of every 16-bit sum add up to at most kMostWeight on either side of zero. So
// they are packed: pairs of weights fit (pair_fits), what does not fit takes a step more, and at every stop steps are
// looked for that fit together.
//
//   of a block: how many doubles and singles at every stop, int32 | where the inputs of a step are, int32 | entries, one for a step
//   entry: indices (of a gather) | weights
#pragma once
#include <cstdlib>

#include "conv_i8.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

JT_INLINE int64_t list_bytes(int64_t stops, int64_t steps) { return align64((2 * stops + steps) * (int64_t)sizeof(int32_t)); }

// pair_reach of every pair of a step, and the largest of all.
struct Reach {
  uint8_t high[2 * W], low[2 * W];
  int most;
  int32_t step;
};

JT_INLINE Reach reach_of(const int8_t* weights, int32_t step) {
  Reach r{{}, {}, 0, step};
  for (int i = 0; i < 2 * W; ++i) {
    const PairReach pair = pair_reach(weights[2 * i], weights[2 * i + 1]);
    r.high[i] = (uint8_t)pair.high;
    r.low[i] = (uint8_t)pair.low;
    r.most = (int)max64(r.most, max64(pair.high, pair.low));
  }
  return r;
}

JT_INLINE bool fit(const Reach& a, int i, const Reach& b, int j) {
  return (a.high[i] + b.high[j] <= kMostWeight) & (a.low[i] + b.low[j] <= kMostWeight);
}

// For every output, whether the pairs of a and b fit as they are, and whether they do when those of b change places.
struct Fits {
  bool straight[W], crossed[W];
};

JT_INLINE Fits fits_of(const Reach& a, const Reach& b) {
  Fits f;
  for (int o = 0; o < W; ++o) {
    f.straight[o] = fit(a, 2 * o, b, 2 * o) & fit(a, 2 * o + 1, b, 2 * o + 1);
    f.crossed[o] = fit(a, 2 * o, b, 2 * o + 1) & fit(a, 2 * o + 1, b, 2 * o);
  }
  return f;
}

// Largest first, so that what is hard to match has a choice.
JT_INLINE int by_most(const void* x, const void* y) {
  const Reach *a = (const Reach*)x, *b = (const Reach*)y;
  return a->most != b->most ? b->most - a->most : a->step - b->step;
}

// Writes the list of one block, stop by stop. Gathers: entries hold indices, and the two pairs of an output may change places.
template <bool Gathers>
class StepList {
 public:
  static constexpr int64_t kEntryBytes = (Gathers ? 2 : 1) * kPairsBytes;

  // most: steps of a stop. list: list_bytes, entries: kEntryBytes of each step.
  StepList(int64_t stops, int64_t most, uint8_t* list, uint8_t* entries)
      : counts_((int32_t*)list),
        inputs_(counts_ + 2 * stops),
        entries_(entries),
        reach_((Reach*)std::malloc((size_t)most * sizeof(Reach))),
        copy_((uint8_t*)std::malloc((size_t)(most * (kEntryBytes + (int64_t)sizeof(int32_t))))) {}
  ~StepList() {
    std::free(reach_);
    std::free(copy_);
  }
  StepList(const StepList&) = delete;
  StepList& operator=(const StepList&) = delete;

  // Where the next step's entry is to be written, before add.
  uint8_t* entry() const { return entry(steps_); }
  void add(int64_t input, int64_t steps = 1) {
    for (; steps > 0; --steps) inputs_[steps_++] = (int32_t)input;
  }

  void end_stop() {
    for (int64_t i = 0; i < steps_; ++i) reach_[i] = reach_of((const int8_t*)entry(i) + kEntryBytes - kPairsBytes, (int32_t)i);
    std::qsort(reach_, (size_t)steps_, sizeof(Reach), by_most);
    std::memcpy(copy_, entries_, (size_t)(steps_ * kEntryBytes));
    int32_t* inputs = (int32_t*)(copy_ + steps_ * kEntryBytes);
    std::memcpy(inputs, inputs_, (size_t)steps_ * sizeof(int32_t));
    const auto put = [&](int64_t to, int64_t step) {
      std::memcpy(entry(to), copy_ + step * kEntryBytes, kEntryBytes);
      inputs_[to] = inputs[step];
    };
    int64_t doubles = 0, singles = 0;
    for (int64_t left = steps_; left > 0;) {
      const int64_t partner = find(left);
      if (partner > 0) {
        put(2 * doubles, reach_[0].step);
        put(2 * doubles + 1, reach_[partner].step);
        if (Gathers) match(fits_of(reach_[0], reach_[partner]), entry(2 * doubles + 1));
        remove(partner, left--);
        ++doubles;
      } else {
        put(steps_ - ++singles, reach_[0].step);
      }
      remove(0, left--);
    }
    counts_[0] = (int32_t)doubles, counts_[1] = (int32_t)singles;
    counts_ += 2, inputs_ += steps_, entries_ += steps_ * kEntryBytes, steps_ = 0;
  }

 private:
  static constexpr int64_t kTried = 64;  // partners, the smallest first

  uint8_t* entry(int64_t step) const { return entries_ + step * kEntryBytes; }

  // Which of those left the first one fits together with, or 0.
  int64_t find(int64_t left) const {
    for (int64_t i = left - 1; i > 0 && i >= left - kTried; --i) {
      const Fits f = fits_of(reach_[0], reach_[i]);
      bool all = true;
      for (int o = 0; o < W; ++o) all &= f.straight[o] | (Gathers & f.crossed[o]);
      if (all) return i;
    }
    return 0;
  }

  void remove(int64_t i, int64_t left) { std::memmove(reach_ + i, reach_ + i + 1, (size_t)(left - i - 1) * sizeof(Reach)); }

  static void match(const Fits& f, uint8_t* entry) {
    for (int o = 0; o < W; ++o)
      for (uint8_t* pairs = entry + 4 * o; !f.straight[o] && pairs < entry + kEntryBytes; pairs += kPairsBytes) {
        uint16_t pair[2];
        std::memcpy(pair, pairs, 4);
        const uint16_t crossed[2] = {pair[1], pair[0]};
        std::memcpy(pairs, crossed, 4);
      }
  }

  int32_t *counts_, *inputs_;
  uint8_t* entries_;  // of this stop
  int64_t steps_ = 0;
  Reach* reach_;
  uint8_t* copy_;
};

// PB pixels × W output channels, as listed.
template <bool Gathers, int Most, int PB>
JT_INLINE void listed_tile(const Problem& a, const EpilogueI8& end, const BlockI8& b, int64_t stops, int64_t pixel,
                           const uint8_t* const* table) {
  constexpr int64_t kEntryBytes = StepList<Gathers>::kEntryBytes, kWeights = kEntryBytes - kPairsBytes;
  const auto inputs_of = [](const uint8_t* p, [[maybe_unused]] const uint8_t* entry) JT_FLAT {
    if constexpr (Gathers) return gather(entry, load_window(p));
    else return broadcast_quad(p);
  };
  i32v acc[PB][1];
  start(b.bias, acc);
  const int32_t *counts = (const int32_t*)b.counts, *inputs = counts + 2 * stops;
  const uint8_t* e = b.weights;
  do {
    const uint8_t* in[PB];
    times<PB>([&](auto p) JT_FLAT { in[p] = table[p]; });
    for (int32_t n = counts[0]; n > 0; --n) {
      const int64_t first = inputs[0], second = inputs[1];
      const i8p w0 = load_pairs(e + kWeights), w1 = load_pairs(e + kEntryBytes + kWeights);
      times<PB>([&](auto p) JT_FLAT {
        acc[p][0] = dot_two_pairs(acc[p][0], inputs_of(in[p] + first, e), w0, inputs_of(in[p] + second, e + kEntryBytes), w1);
      });
      inputs += 2, e += 2 * kEntryBytes;
    }
    for (int32_t n = counts[1]; n > 0; --n) {
      const int64_t first = *inputs;
      const i8p w = load_pairs(e + kWeights);
      times<PB>([&](auto p) JT_FLAT { acc[p][0] = dot_pairs(acc[p][0], inputs_of(in[p] + first, e), w); });
      ++inputs, e += kEntryBytes;
    }
    counts += 2, table += Most;
  } while (--stops);
  finish_i8<PB, 1>(a, end, b, acc, pixel);
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
