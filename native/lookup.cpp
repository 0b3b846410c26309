// See lookup.h. Two ways through a layer: W pixels of one codebook together (lookup_tiles.h), or some codebooks of one pixel, plain
// loops, where there are no vectors or fewer than 16 prototypes.
#include "lookup.h"

#include "jobs.h"
#include "lookup_tiles.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kSome = 64;  // codebooks at a time

// What the trees of some codebooks of one pixel ask.
struct Asked {
  float x[kDeepest][kSome];
};

JT_INLINE void ask(const Trees& t, const float* image, int64_t pixel, int64_t first, int64_t n, Asked* a) {
  const float* __restrict from = image + t.starts[pixel];
  for (int64_t level = 0; level < t.levels; ++level) {
    const int32_t* __restrict places = t.places + level * t.codebooks + first;
    float* __restrict to = a->x[level];
    for (int64_t j = 0; j < n; ++j) to[j] = from[places[j]];
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

void forward_plain(const Trees& t, const float* image, uint16_t* codes, float* sums) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs;
  for (int64_t pixel = 0; pixel < t.pixels; ++pixel, sums += k) {
    for (int64_t o = 0; o < k; ++o) sums[o] = 0;
    for (int64_t first = 0; first < t.codebooks; first += kSome) {
      const int64_t n = min64(t.codebooks - first, kSome);
      Asked a;
      int32_t code[kSome] = {};
      ask(t, image, pixel, first, n, &a);
      walk(t, a, t.thresholds + first * (prototypes - 1), n, 0, code);
      for (int64_t j = 0; j < n; ++j) {
        codes[(first + j) * t.row + pixel] = (uint16_t)code[j];
        add_to(sums, t.entries + ((first + j) * prototypes + code[j]) * k, k);
      }
    }
  }
}

// Σ_o g[o]·T[o] of one leaf.
JT_INLINE float weigh(const float* g, const float* entries, int64_t k) {
  f32v acc = zero();
  for (int64_t o = 0; o < k; o += W) acc = fma(load_first(g + o, k - o), load_first(entries + o, k - o), acc);
  return sum(acc);
}

// Of n codebooks of one pixel, from `first` on. g: the gradient of its sums.
JT_INLINE void slopes(const Trees& t, const Asked& a, const uint16_t* codes, const float* g, int64_t pixel, int64_t first, int64_t n,
                      const Slopes& to) {
  const int32_t prototypes = 1 << t.levels, nodes = prototypes - 1;
  const float* __restrict thresholds = t.thresholds + first * nodes, *entries = t.entries + first * prototypes * t.outputs;
  float *for_thresholds = to.thresholds + first * nodes, *for_image = to.image + t.starts[pixel];
  float u[kSome] = {}, change[kSome] = {}, here[kSome];
  int32_t code[kSome], node[kSome], other[kSome];
  const auto leaf = [&](int64_t j, int32_t i) { return weigh(g, entries + (j * prototypes + i) * t.outputs, t.outputs); };
  for (int64_t j = 0; j < n; ++j) code[j] = codes[(first + j) * t.row + pixel];
  for (int64_t j = 0; j < n; ++j) here[j] = leaf(j, code[j]);
  for (int64_t level = 0; level < t.levels; ++level) {
    const int32_t before = (1 << level) - 1, *places = t.places + level * t.codebooks + first;
    for (int64_t j = 0; j < n; ++j) {
      node[j] = (int32_t)j * nodes + before + (code[j] & before);
      other[j] = (code[j] & before) | (~code[j] & (1 << level));
      u[j] = a.x[level][j] - thresholds[node[j]];
    }
    walk(t, a, thresholds, n, level + 1, other);
    for (int64_t j = 0; j < n; ++j) {
      const float yes = (float)((code[j] >> level & 1) * 2 - 1);  // 1 or −1: no branch, which could not be foretold
      change[j] = yes * (here[j] - leaf(j, other[j]));
    }
    for (int64_t j = 0; j < n; j += W) store(change + j, soften(load(u + j), load(change + j), to.tau));
    for (int64_t j = 0; j < n; ++j) {  // two trees may ask one input
      for_image[places[j]] += change[j];
      for_thresholds[node[j]] -= change[j];
    }
  }
}

void backward_plain(const Trees& t, const float* image, const uint16_t* codes, const Slopes& to) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs;
  for (int64_t pixel = 0; pixel < t.pixels; ++pixel) {
    const float* g = to.sums + pixel * k;
    for (int64_t first = 0; first < t.codebooks; first += kSome) {
      const int64_t n = min64(t.codebooks - first, kSome);
      Asked a;
      ask(t, image, pixel, first, n, &a);
      slopes(t, a, codes, g, pixel, first, n, to);
    }
    for (int64_t j = 0; j < t.codebooks; ++j) add_to(to.entries + (j * prototypes + codes[j * t.row + pixel]) * k, g, k);
  }
}

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)

constexpr int kTiled = 4;  // levels, from where on there are tiles

// f(levels) where there are tiles for so many, else rest().
template <class F, class Rest>
void with_levels(int64_t levels, const F& f, const Rest& rest) {
  if (levels < kTiled) return rest();
  times<kDeepest - kTiled + 1>([&](auto more) {
    constexpr int some = kTiled + decltype(more)::value;
    if (levels == some) f(Count<some>());
  });
}

void forward(const Trees& t, const float* image, uint16_t* codes, float* sums) {
  with_levels(t.levels, [&](auto l) { forward_tiles<l>(t, image, codes, sums); }, [&] { forward_plain(t, image, codes, sums); });
}

void backward(const Trees& t, const float* image, const uint16_t* codes, const Slopes& to) {
  with_levels(t.levels, [&](auto l) { backward_tiles<l>(t, image, codes, to); }, [&] { backward_plain(t, image, codes, to); });
}

#else

void forward(const Trees& t, const float* image, uint16_t* codes, float* sums) { forward_plain(t, image, codes, sums); }
void backward(const Trees& t, const float* image, const uint16_t* codes, const Slopes& to) { backward_plain(t, image, codes, to); }

#endif

}  // namespace

extern const LookUp look_up;
const LookUp look_up = {kIsa, forward, backward};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
