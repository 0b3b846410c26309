// See lookup.h. Two ways through a layer: 16 pixels of one codebook together, for AVX-512 and 16 prototypes, where thresholds
// and leaves are found in registers; else some codebooks of one pixel together, plain loops.
#include "lookup.h"

#include "jobs.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kPixels = 8;   // backward, which share the entries that are read
constexpr int64_t kSome = 64;    // codebooks at a time
constexpr int64_t kEach = 1024;  // of a pixel's changes at a time: codebooks · K

// slope[i] = change[i] · σ'(u[i] / τ) / τ
JT_INLINE f32v soften(f32v u, f32v change, float tau) {
  const f32v one = set1(1.0f), per = set1(1.0f / tau), s = sigmoid(mul(u, per));
  return mul(mul(change, mul(s, sub(one, s))), per);
}

JT_INLINE void add_to(float* __restrict sum, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

// What the trees of some codebooks of one pixel ask.
struct Asked {
  float x[kMostLevels][kSome];
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

void forward_plain(const Trees& t, const float* image, uint8_t* codes, float* sums) {
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
        codes[(first + j) * t.pixels + pixel] = (uint8_t)code[j];
        add_to(sums, t.entries + ((first + j) * prototypes + code[j]) * k, k);
      }
    }
  }
}

// Of n codebooks of one pixel, from `first` on. each: [codebook][K].
JT_INLINE void slopes(const Trees& t, const Asked& a, const uint8_t* codes, const float* each, int64_t pixel, int64_t first, int64_t n,
                      const Slopes& to) {
  const int32_t prototypes = 1 << t.levels, nodes = prototypes - 1;
  const float* __restrict thresholds = t.thresholds + first * nodes;
  float *for_thresholds = to.thresholds + first * nodes, *for_image = to.image + t.starts[pixel];
  float u[kSome] = {}, change[kSome] = {}, here[kSome];
  int32_t code[kSome], node[kSome], other[kSome];
  for (int64_t j = 0; j < n; ++j) code[j] = codes[(first + j) * t.pixels + pixel];
  for (int64_t j = 0; j < n; ++j) here[j] = each[(int32_t)j * prototypes + code[j]];
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
      change[j] = yes * (here[j] - each[(int32_t)j * prototypes + other[j]]);
    }
    for (int64_t j = 0; j < n; j += W) store(change + j, soften(load(u + j), load(change + j), to.tau));
    for (int64_t j = 0; j < n; ++j) {  // two trees may ask one input
      for_image[places[j]] += change[j];
      for_thresholds[node[j]] -= change[j];
    }
  }
}

// each[p][j][i] = Σ_o g[p][o]·T[j][i][o] for the prototypes i of n codebooks and `pixels` ≤ kPixels pixels.
JT_INLINE void weigh(const float* turned, const float* g, int64_t k, int64_t prototypes, int64_t n, int64_t pixels, float* each) {
  const float* of[kPixels];
  for (int64_t p = 0; p < kPixels; ++p) of[p] = g + (p < pixels ? p : 0) * k;
  for (int64_t j = 0; j < n; ++j, turned += k * prototypes)
    for (int64_t i = 0; i < prototypes; i += W) {
      f32v acc[kPixels];
      for (int64_t p = 0; p < kPixels; ++p) acc[p] = zero();
      for (int64_t o = 0; o < k; ++o) {
        const f32v entry = load_first(turned + o * prototypes + i, prototypes - i);
        for (int64_t p = 0; p < kPixels; ++p) acc[p] = fma(set1(of[p][o]), entry, acc[p]);
      }
      for (int64_t p = 0; p < pixels; ++p) store_first(each + p * kEach + j * prototypes + i, acc[p], prototypes - i);
    }
}

void backward_plain(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs, some = min64(kEach / prototypes, kSome);
  for (int64_t pixel = 0; pixel < t.pixels; pixel += kPixels) {
    const int64_t pixels = min64(t.pixels - pixel, kPixels);
    const float* g = to.sums + pixel * k;
    for (int64_t first = 0; first < t.codebooks; first += some) {
      const int64_t n = min64(t.codebooks - first, some);
      float each[kPixels * kEach];
      weigh(to.turned + first * k * prototypes, g, k, prototypes, n, pixels, each);
      for (int64_t p = 0; p < pixels; ++p) {
        Asked a;
        ask(t, image, pixel + p, first, n, &a);
        slopes(t, a, codes, each + p * kEach, pixel + p, first, n, to);
      }
    }
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t j = 0; j < t.codebooks; ++j) add_to(to.entries + (j * prototypes + codes[j * t.pixels + pixel + p]) * k, g + p * k, k);
  }
}

#if defined(JETTISON_AVX512)

constexpr int64_t kLevels = 4, kNodes = 15;
static_assert(W == kColumns, "a tile is as wide as a vector");

bool in_registers(const Trees& t) { return t.levels == kLevels; }

// 16 pixels of an image from `pixel` on, or the last ones.
struct Tile {
  int64_t pixel, live;
  __mmask16 mask;
  __m512i starts;
};

JT_INLINE Tile tile_at(const Trees& t, int64_t pixel) {
  const int64_t live = min64(t.pixels - pixel, W);
  const __mmask16 mask = first(live);
  return {pixel, live, mask, _mm512_maskz_loadu_epi32(mask, t.starts + pixel)};
}

JT_INLINE void ask(const Trees& t, const float* image, const Tile& tile, int64_t j, f32v (&x)[kLevels]) {
  for (int l = 0; l < kLevels; ++l)
    x[l] = _mm512_mask_i32gather_ps(zero(), tile.mask, tile.starts, image + t.places[l * t.codebooks + j], 4);
}

// The answer of level l, given those before: its bit, and nothing else.
JT_INLINE __m512i answer(f32v thresholds, f32v x, int l, __m512i before) {
  const f32v threshold = _mm512_permutexvar_ps(_mm512_add_epi32(before, _mm512_set1_epi32((1 << l) - 1)), thresholds);
  return _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ), 1 << l);
}

// Lane i of leaves[code[i]].
JT_INLINE f32v choose(const f32v (&leaves)[W], __m512i code) {
  f32v v[W / 2];
  for (int i = 0; i < 8; ++i)
    v[i] = _mm512_mask_blend_ps(_mm512_test_epi32_mask(code, _mm512_set1_epi32(1)), leaves[2 * i], leaves[2 * i + 1]);
  for (int i = 0; i < 4; ++i) v[i] = _mm512_mask_blend_ps(_mm512_test_epi32_mask(code, _mm512_set1_epi32(2)), v[2 * i], v[2 * i + 1]);
  for (int i = 0; i < 2; ++i) v[i] = _mm512_mask_blend_ps(_mm512_test_epi32_mask(code, _mm512_set1_epi32(4)), v[2 * i], v[2 * i + 1]);
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(code, _mm512_set1_epi32(8)), v[0], v[1]);
}

JT_INLINE f32v thresholds_of(const Trees& t, int64_t j) { return _mm512_maskz_loadu_ps(first(kNodes), t.thresholds + j * kNodes); }

void forward(const Trees& t, const float* image, uint8_t* codes, float* sums) {
  if (!in_registers(t)) return forward_plain(t, image, codes, sums);
  const int64_t k = t.outputs;
  for (int64_t i = 0; i < t.pixels * k; ++i) sums[i] = 0;
  for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
    const Tile tile = tile_at(t, pixel);
    for (int64_t j = 0; j < t.codebooks; ++j) {
      const f32v thresholds = thresholds_of(t, j);
      f32v x[kLevels];
      ask(t, image, tile, j, x);
      __m512i code = _mm512_setzero_si512();
      for (int l = 0; l < kLevels; ++l) code = _mm512_or_si512(code, answer(thresholds, x[l], l, code));
      _mm512_mask_cvtepi32_storeu_epi8(codes + j * t.pixels + pixel, tile.mask, code);
      for (int64_t p = 0; p < tile.live; ++p) add_to(sums + (pixel + p) * k, t.entries + (j * W + codes[j * t.pixels + pixel + p]) * k, k);
    }
  }
}

// What a tile of pixels gives one codebook's trees. leaves: e of every prototype.
JT_INLINE void slopes(const Trees& t, const float* image, const uint8_t* codes, const Tile& tile, int64_t j, const f32v (&leaves)[W],
                      float* for_thresholds, const Slopes& to) {
  const f32v thresholds = thresholds_of(t, j);
  f32v x[kLevels];
  ask(t, image, tile, j, x);
  const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(tile.mask, codes + j * t.pixels + tile.pixel));
  const f32v here = choose(leaves, code);
  for (int l = 0; l < kLevels; ++l) {
    const __m512i before = _mm512_and_si512(code, _mm512_set1_epi32((1 << l) - 1));
    const __mmask16 yes = _mm512_test_epi32_mask(code, _mm512_set1_epi32(1 << l));
    __m512i other = _mm512_mask_or_epi32(before, _knot_mask16(yes), before, _mm512_set1_epi32(1 << l));
    for (int m = l + 1; m < kLevels; ++m) other = _mm512_or_si512(other, answer(thresholds, x[m], m, other));
    const f32v there = choose(leaves, other), change = _mm512_mask_sub_ps(sub(there, here), yes, here, there);
    const __m512i node = _mm512_add_epi32(before, _mm512_set1_epi32((1 << l) - 1));
    const f32v slope = _mm512_maskz_mov_ps(tile.mask, soften(sub(x[l], _mm512_permutexvar_ps(node, thresholds)), change, to.tau));
    for (int n = (1 << l) - 1; n < (2 << l) - 1; ++n) {
      const __mmask16 asks = _mm512_cmpeq_epi32_mask(node, _mm512_set1_epi32(n));
      store(for_thresholds + n * W, _mm512_mask_sub_ps(load(for_thresholds + n * W), asks, load(for_thresholds + n * W), slope));
    }
    float each[W];
    store(each, slope);
    float* for_image = to.image + t.places[l * t.codebooks + j];
    for (int64_t p = 0; p < tile.live; ++p) for_image[t.starts[tile.pixel + p]] += each[p];
  }
}

void backward(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  if (!in_registers(t)) return backward_plain(t, image, codes, to);
  const int64_t k = t.outputs;
  for (int64_t some = 0; some < t.codebooks; some += kSome) {  // so that what is added up by lane stays near
    const int64_t end = min64(t.codebooks, some + kSome);
    float for_thresholds[kSome][kNodes * W] = {};
    for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
      const Tile tile = tile_at(t, pixel);
      const float* g = to.sums + pixel * k;
      for (int64_t o = 0; o < k; ++o)
        for (int64_t p = 0; p < W; ++p) to.columns[o * W + p] = p < tile.live ? g[p * k + o] : 0.0f;
      for (int64_t j = some; j < end; ++j) {
        f32v leaves[W];
        for (int i = 0; i < W; ++i) leaves[i] = zero();
        const float* turned = to.turned + j * k * W;
        for (int64_t o = 0; o < k; ++o, turned += W) {
          const f32v column = load(to.columns + o * W);
          for (int i = 0; i < W; ++i) leaves[i] = fma(column, set1(turned[i]), leaves[i]);
        }
        slopes(t, image, codes, tile, j, leaves, for_thresholds[j - some], to);
        for (int64_t p = 0; p < tile.live; ++p) add_to(to.entries + (j * W + codes[j * t.pixels + pixel + p]) * k, g + p * k, k);
      }
    }
    for (int64_t j = some; j < end; ++j)
      for (int n = 0; n < kNodes; ++n) to.thresholds[j * kNodes + n] += sum(load(for_thresholds[j - some] + n * W));
  }
}

#else

void forward(const Trees& t, const float* image, uint8_t* codes, float* sums) { forward_plain(t, image, codes, sums); }
void backward(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) { backward_plain(t, image, codes, to); }

#endif

}  // namespace

extern const LookUp look_up;
const LookUp look_up = {kIsa, forward, backward};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
