// See lookup.h. Codebooks of a pixel are worked on together, some at a time: they are the lanes of most loops.
#include "lookup.h"

#include "vec.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kSome = 64;    // codebooks at a time
constexpr int64_t kPixels = 8;   // backward, which share the entries that are read
constexpr int64_t kEach = 1024;  // of a pixel's changes at a time: codebooks · K

// What the trees of some codebooks of one pixel ask.
struct Asked {
  float x[kMostLevels][kSome];
};

JT_INLINE void ask(const Trees& t, const float* __restrict image, const int32_t* __restrict places, int64_t n, Asked* a) {
  for (int64_t level = 0; level < t.levels; ++level, places += t.codebooks) {
    float* __restrict to = a->x[level];
    for (int64_t j = 0; j < n; ++j) to[j] = image[places[j]];
  }
}

// Down the trees from `level` on; node: the answers so far.
JT_INLINE void walk(const Trees& t, const Asked& a, const float* __restrict thresholds, int64_t n, int64_t level,
                    int32_t* __restrict node) {
  const int32_t nodes = (1 << t.levels) - 1;
  for (; level < t.levels; ++level) {
    const float* __restrict x = a.x[level];
    const int32_t first = (1 << level) - 1;
    for (int64_t j = 0; j < n; ++j) node[j] |= (x[j] > thresholds[(int32_t)j * nodes + first + node[j]] ? 1 : 0) << level;
  }
}

void forward(const Trees& t, const float* image, uint8_t* codes, float* sums) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs;
  const int32_t* places = t.places;
  for (int64_t pixel = 0; pixel < t.pixels; ++pixel, places += t.levels * t.codebooks, codes += t.codebooks, sums += k) {
    for (int64_t o = 0; o < k; ++o) sums[o] = 0;
    for (int64_t first = 0; first < t.codebooks; first += kSome) {
      const int64_t n = t.codebooks - first < kSome ? t.codebooks - first : kSome;
      Asked a;
      int32_t code[kSome] = {};
      ask(t, image, places + first, n, &a);
      walk(t, a, t.thresholds + first * (prototypes - 1), n, 0, code);
      for (int64_t j = 0; j < n; ++j) {
        codes[first + j] = (uint8_t)code[j];
        const float* __restrict entry = t.entries + ((first + j) * prototypes + code[j]) * k;
        float* __restrict to = sums;
        for (int64_t o = 0; o < k; ++o) to[o] += entry[o];
      }
    }
  }
}

// slope[j] = change[j] · σ'(u[j] / τ) / τ; n is rounded up to whole vectors.
JT_INLINE void soften(const float* u, const float* change, float tau, int64_t n, float* slope) {
  const f32v one = set1(1.0f), per = set1(1.0f / tau);
  for (int64_t j = 0; j < n; j += W) {
    const f32v s = sigmoid(mul(load(u + j), per));
    store(slope + j, mul(mul(load(change + j), mul(s, sub(one, s))), per));
  }
}

// Of some codebooks of one pixel, from `first` on.
JT_INLINE void slopes(const Trees& t, const Asked& a, const uint8_t* codes, const float* each, const int32_t* places, int64_t first,
                      int64_t n, const Slopes& to) {
  const int32_t prototypes = 1 << t.levels, nodes = prototypes - 1;
  const float* __restrict thresholds = t.thresholds + first * nodes;
  float* for_thresholds = to.thresholds + first * nodes;
  float u[kSome] = {}, change[kSome] = {}, slope[kSome], here[kSome];
  int32_t code[kSome], node[kSome], other[kSome];
  for (int64_t j = 0; j < n; ++j) code[j] = codes[j];
  for (int64_t j = 0; j < n; ++j) here[j] = each[(int32_t)j * prototypes + code[j]];
  for (int64_t level = 0; level < t.levels; ++level, places += t.codebooks) {
    const int32_t before = (1 << level) - 1;
    for (int64_t j = 0; j < n; ++j) {
      node[j] = (int32_t)j * nodes + before + (code[j] & before);
      other[j] = (code[j] & before) | (~code[j] & (1 << level));
      u[j] = a.x[level][j] - thresholds[node[j]];
    }
    walk(t, a, thresholds, n, level + 1, other);
    for (int64_t j = 0; j < n; ++j) {
      const float yes = (float)((code[j] >> level & 1) * 2 - 1);  // 1 or −1: no branch, which could not be foretold
      change[j] = yes * (here[j] - each[(int32_t)j * prototypes + other[j]]);
    }
    soften(u, change, to.tau, n, slope);
    for (int64_t j = 0; j < n; ++j) {  // two trees may ask one input
      to.image[places[j]] += slope[j];
      for_thresholds[node[j]] -= slope[j];
    }
  }
}

// each[p][j][i] = Σ_o g[p][o]·T[j][i][o] for the prototypes i of n codebooks and `pixels` ≤ kPixels pixels.
template <int64_t K>
JT_INLINE void weigh(const float* __restrict turned, const float* __restrict g, int64_t k, int64_t prototypes, int64_t n, int64_t pixels,
                     float* __restrict each) {
  const int64_t width = K ? K : prototypes;
  const float* of[kPixels];
  for (int64_t p = 0; p < kPixels; ++p) of[p] = g + (p < pixels ? p : 0) * k;
  for (int64_t j = 0; j < n; ++j, turned += k * width)
    for (int64_t i = 0; i < width; i += W) {
      f32v acc[kPixels];
      for (int64_t p = 0; p < kPixels; ++p) acc[p] = zero();
      for (int64_t o = 0; o < k; ++o) {
        const f32v entry = load_first(turned + o * width + i, width - i);
        for (int64_t p = 0; p < kPixels; ++p) acc[p] = fma(set1(of[p][o]), entry, acc[p]);
      }
      for (int64_t p = 0; p < pixels; ++p) store_first(each + p * kEach + j * width + i, acc[p], width - i);
    }
}

void backward(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs, some = kEach / prototypes < kSome ? kEach / prototypes : kSome;
  for (int64_t pixel = 0; pixel < t.pixels; pixel += kPixels) {
    const int64_t pixels = t.pixels - pixel < kPixels ? t.pixels - pixel : kPixels;
    const float* g = to.sums + pixel * k;
    for (int64_t first = 0; first < t.codebooks; first += some) {
      const int64_t n = t.codebooks - first < some ? t.codebooks - first : some;
      const float* turned = to.turned + first * k * prototypes;
      float each[kPixels * kEach];
      if (prototypes == W) weigh<W>(turned, g, k, prototypes, n, pixels, each);
      else weigh<0>(turned, g, k, prototypes, n, pixels, each);
      for (int64_t p = 0; p < pixels; ++p) {
        const int32_t* places = t.places + (pixel + p) * t.levels * t.codebooks + first;
        Asked a;
        ask(t, image, places, n, &a);
        slopes(t, a, codes + (pixel + p) * t.codebooks + first, each + p * kEach, places, first, n, to);
      }
    }
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t j = 0; j < t.codebooks; ++j) {
        float* __restrict entry = to.entries + (j * prototypes + codes[(pixel + p) * t.codebooks + j]) * k;
        const float* __restrict from = g + p * k;
        for (int64_t o = 0; o < k; ++o) entry[o] += from[o];
      }
  }
}

}  // namespace

extern const LookUp look_up;
const LookUp look_up = {kIsa, forward, backward};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
