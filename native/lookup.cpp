// See lookup.h. Two ways through a layer: 16 pixels of one codebook together, for AVX-512 and 16, 32 or 64 prototypes, where
// thresholds are found in registers; else some codebooks of one pixel together, plain loops.
#include "lookup.h"

#include "jobs.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kSome = 64;  // codebooks at a time

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

// Σ_o g[o]·T[o] of one leaf.
JT_INLINE float weigh(const float* g, const float* entries, int64_t k) {
  f32v acc = zero();
  for (int64_t o = 0; o < k; o += W) acc = fma(load_first(g + o, k - o), load_first(entries + o, k - o), acc);
  return sum(acc);
}

// Of n codebooks of one pixel, from `first` on. g: the gradient of its sums.
JT_INLINE void slopes(const Trees& t, const Asked& a, const uint8_t* codes, const float* g, int64_t pixel, int64_t first, int64_t n,
                      const Slopes& to) {
  const int32_t prototypes = 1 << t.levels, nodes = prototypes - 1;
  const float* __restrict thresholds = t.thresholds + first * nodes, *entries = t.entries + first * prototypes * t.outputs;
  float *for_thresholds = to.thresholds + first * nodes, *for_image = to.image + t.starts[pixel];
  float u[kSome] = {}, change[kSome] = {}, here[kSome];
  int32_t code[kSome], node[kSome], other[kSome];
  const auto leaf = [&](int64_t j, int32_t i) { return weigh(g, entries + (j * prototypes + i) * t.outputs, t.outputs); };
  for (int64_t j = 0; j < n; ++j) code[j] = codes[(first + j) * t.pixels + pixel];
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

void backward_plain(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  const int64_t prototypes = (int64_t)1 << t.levels, k = t.outputs;
  for (int64_t pixel = 0; pixel < t.pixels; ++pixel) {
    const float* g = to.sums + pixel * k;
    for (int64_t first = 0; first < t.codebooks; first += kSome) {
      const int64_t n = min64(t.codebooks - first, kSome);
      Asked a;
      ask(t, image, pixel, first, n, &a);
      slopes(t, a, codes, g, pixel, first, n, to);
    }
    for (int64_t j = 0; j < t.codebooks; ++j) add_to(to.entries + (j * prototypes + codes[j * t.pixels + pixel]) * k, g, k);
  }
}

#if defined(JETTISON_AVX512)

constexpr int64_t kNear = 16;  // codebooks at a time, so that what is added up by lane stays near
constexpr int kFew = 3;        // levels whose questions are so few that each lane is compared with all

// 16 pixels of an image from `pixel` on, or the last ones. In runs of 16 or 8 they find their inputs side by side.
struct Tile {
  int64_t pixel, live, run;
  __mmask16 mask;
  const int32_t* starts;
};

JT_INLINE Tile tile_at(const Trees& t, int64_t pixel) {
  Tile tile = {pixel, min64(t.pixels - pixel, W), W, 0, t.starts + pixel};
  tile.mask = first(tile.live);
  const auto beside = [&](int64_t run) {
    for (int64_t p = 0; p < tile.live; ++p)
      if (tile.starts[p] != tile.starts[p / run * run] + p % run) return false;
    return true;
  };
  while (tile.run > 1 && !beside(tile.run)) tile.run = tile.run == W ? W / 2 : 1;
  return tile;
}

// What the tile's pixels find in their image at `from`.
JT_INLINE f32v inputs(const Tile& tile, const float* from) {
  if (tile.run == W) return _mm512_maskz_loadu_ps(tile.mask, from + tile.starts[0]);
  if (tile.run == 1) return _mm512_mask_i32gather_ps(zero(), tile.mask, _mm512_maskz_loadu_epi32(tile.mask, tile.starts), from, 4);
  const __m256 lower = _mm256_maskz_loadu_ps((__mmask8)tile.mask, from + tile.starts[0]);
  if (tile.live <= 8) return _mm512_zextps256_ps512(lower);
  return _mm512_insertf32x8(_mm512_castps256_ps512(lower), _mm256_maskz_loadu_ps((__mmask8)(tile.mask >> 8), from + tile.starts[8]), 1);
}

JT_INLINE void add_inputs(const Tile& tile, float* to, f32v x) {
  if (tile.run == 1) {
    float each[W];
    store(each, x);
    for (int64_t p = 0; p < tile.live; ++p) to[tile.starts[p]] += each[p];
    return;
  }
  for (int64_t p = 0; p < tile.live; p += tile.run) {
    const __mmask16 some = (__mmask16)(tile.mask & (0xffffu >> (W - tile.run) << p));
    float* const at = to + tile.starts[p] - p;
    _mm512_mask_storeu_ps(at, some, add(_mm512_maskz_loadu_ps(some, at), x));
  }
}

// A tree's thresholds.
template <int kLevels>
struct Thresholds {
  f32v first_four, fifth, sixth[2];

  explicit Thresholds(const float* p) : first_four(_mm512_maskz_loadu_ps(first(15), p)) {
    if (kLevels > 4) fifth = load(p + 15);
    if (kLevels > 5) sixth[0] = load(p + 31), sixth[1] = load(p + 47);
  }

  // Those of level l where `before` is answered.
  f32v at(int l, __m512i before) const {
    if (l < 4) return _mm512_permutexvar_ps(_mm512_add_epi32(before, _mm512_set1_epi32((1 << l) - 1)), first_four);
    if (l < 5) return _mm512_permutexvar_ps(before, fifth);
    return _mm512_permutex2var_ps(sixth[0], before, sixth[1]);
  }

  // The answer of level l: its bit, and nothing else.
  __m512i answer(f32v x, int l, __m512i before) const {
    return _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(x, at(l, before), _CMP_GT_OQ), 1 << l);
  }
};

template <int kLevels>
JT_INLINE void ask(const Trees& t, const float* image, const Tile& tile, int64_t j, f32v (&x)[kLevels]) {
  for (int l = 0; l < kLevels; ++l) x[l] = inputs(tile, image + t.places[l * t.codebooks + j]);
}

template <int kLevels>
void forward_tiles(const Trees& t, const float* image, uint8_t* codes, float* sums) {
  constexpr int64_t kPrototypes = 1 << kLevels;
  const int64_t k = t.outputs;
  for (int64_t i = 0; i < t.pixels * k; ++i) sums[i] = 0;
  for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
    const Tile tile = tile_at(t, pixel);
    for (int64_t j = 0; j < t.codebooks; ++j) {
      const Thresholds<kLevels> thresholds(t.thresholds + j * (kPrototypes - 1));
      f32v x[kLevels];
      ask(t, image, tile, j, x);
      __m512i code = _mm512_setzero_si512();
      for (int l = 0; l < kLevels; ++l) code = _mm512_or_si512(code, thresholds.answer(x[l], l, code));
      _mm512_mask_cvtepi32_storeu_epi8(codes + j * t.pixels + pixel, tile.mask, code);
      for (int64_t p = 0; p < tile.live; ++p)
        add_to(sums + (pixel + p) * k, t.entries + (j * kPrototypes + codes[j * t.pixels + pixel + p]) * k, k);
    }
  }
}

// Lane i: the sum of x[i].
JT_INLINE f32v sums_of(const f32v (&x)[W]) {
  f32v a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i) a[i] = add(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
  const auto pairs = [](f32v p, f32v q, bool upper) {
    const __m512d x = _mm512_castps_pd(p), y = _mm512_castps_pd(q);
    return _mm512_castpd_ps(upper ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  };
  for (int i = 0; i < 4; ++i) b[i] = add(pairs(a[2 * i], a[2 * i + 1], false), pairs(a[2 * i], a[2 * i + 1], true));
  for (int i = 0; i < 2; ++i)
    c[i] = add(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  return add(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// e[i] lane p = Σ_o g[p][o]·T[leaf[i] of p][o]. entries: of one codebook.
template <int kLeaves>
JT_INLINE void weigh(const Tile& tile, const float* g, const float* entries, int64_t k, const __m512i (&leaf)[kLeaves],
                     f32v (&e)[kLeaves]) {
  int32_t at[kLeaves][W];
  f32v part[kLeaves][W];
  for (int i = 0; i < kLeaves; ++i) _mm512_storeu_si512(at[i], _mm512_mullo_epi32(leaf[i], _mm512_set1_epi32((int32_t)k)));
  for (int64_t p = 0; p < W; ++p) {
    const float* own = g + (p < tile.live ? p : 0) * k;
    f32v acc[kLeaves];
    for (int i = 0; i < kLeaves; ++i) acc[i] = zero();
    int64_t o = 0;
    for (; o + W <= k; o += W) {
      const f32v x = load(own + o);
      for (int i = 0; i < kLeaves; ++i) acc[i] = fma(x, load(entries + at[i][p] + o), acc[i]);
    }
    if (o < k) {
      const f32v x = load_first(own + o, k - o);
      for (int i = 0; i < kLeaves; ++i) acc[i] = fma(x, load_first(entries + at[i][p] + o, k - o), acc[i]);
    }
    for (int i = 0; i < kLeaves; ++i) part[i][p] = acc[i];
  }
  for (int i = 0; i < kLeaves; ++i) e[i] = sums_of(part[i]);
}

// What a tile of pixels gives one codebook's tree. for_thresholds: by node and lane.
template <int kLevels>
JT_INLINE void slopes(const Trees& t, const float* image, const uint8_t* codes, const Tile& tile, int64_t j, float* for_thresholds,
                      const Slopes& to) {
  constexpr int64_t kPrototypes = 1 << kLevels;
  const Thresholds<kLevels> thresholds(t.thresholds + j * (kPrototypes - 1));
  f32v x[kLevels], e[kLevels + 1];
  __m512i leaf[kLevels + 1];  // the other one of every level, and the code
  ask(t, image, tile, j, x);
  const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(tile.mask, codes + j * t.pixels + tile.pixel));
  leaf[kLevels] = code;
  for (int l = 0; l < kLevels; ++l) {
    __m512i other = _mm512_xor_si512(_mm512_and_si512(code, _mm512_set1_epi32((2 << l) - 1)), _mm512_set1_epi32(1 << l));
    for (int m = l + 1; m < kLevels; ++m) other = _mm512_or_si512(other, thresholds.answer(x[m], m, other));
    leaf[l] = other;
  }
  weigh(tile, to.sums + tile.pixel * t.outputs, t.entries + j * kPrototypes * t.outputs, t.outputs, leaf, e);
  for (int l = 0; l < kLevels; ++l) {
    const __m512i before = _mm512_and_si512(code, _mm512_set1_epi32((1 << l) - 1));
    const __mmask16 yes = _mm512_test_epi32_mask(code, _mm512_set1_epi32(1 << l));
    const f32v change = _mm512_mask_sub_ps(sub(e[l], e[kLevels]), yes, e[kLevels], e[l]);
    const f32v slope = _mm512_maskz_mov_ps(tile.mask, soften(sub(x[l], thresholds.at(l, before)), change, to.tau));
    float* const level = for_thresholds + ((1 << l) - 1) * W;
    if (l < kFew) {
      for (int n = 0; n < 1 << l; ++n)
        store(level + n * W,
              _mm512_mask_sub_ps(load(level + n * W), _mm512_cmpeq_epi32_mask(before, _mm512_set1_epi32(n)), load(level + n * W), slope));
    } else {
      float each[W];
      int32_t node[W];
      store(each, slope), _mm512_storeu_si512(node, before);
      for (int64_t p = 0; p < W; ++p) level[node[p] * W + p] -= each[p];
    }
    add_inputs(tile, to.image + t.places[l * t.codebooks + j], slope);
  }
}

template <int kLevels>
void backward_tiles(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  constexpr int64_t kPrototypes = 1 << kLevels, kNodes = kPrototypes - 1;
  const int64_t k = t.outputs;
  for (int64_t some = 0; some < t.codebooks; some += kNear) {
    const int64_t end = min64(t.codebooks, some + kNear);
    float for_thresholds[kNear][kNodes * W] = {};
    for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
      const Tile tile = tile_at(t, pixel);
      const float* g = to.sums + pixel * k;
      for (int64_t j = some; j < end; ++j) {
        slopes<kLevels>(t, image, codes, tile, j, for_thresholds[j - some], to);
        for (int64_t p = 0; p < tile.live; ++p) add_to(to.entries + (j * kPrototypes + codes[j * t.pixels + pixel + p]) * k, g + p * k, k);
      }
    }
    for (int64_t j = some; j < end; ++j)
      for (int n = 0; n < kNodes; ++n) to.thresholds[j * kNodes + n] += sum(load(for_thresholds[j - some] + n * W));
  }
}

void forward(const Trees& t, const float* image, uint8_t* codes, float* sums) {
  (t.levels == 4   ? forward_tiles<4>
   : t.levels == 5 ? forward_tiles<5>
   : t.levels == 6 ? forward_tiles<6>
                   : forward_plain)(t, image, codes, sums);
}

void backward(const Trees& t, const float* image, const uint8_t* codes, const Slopes& to) {
  (t.levels == 4   ? backward_tiles<4>
   : t.levels == 5 ? backward_tiles<5>
   : t.levels == 6 ? backward_tiles<6>
                   : backward_plain)(t, image, codes, to);
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
