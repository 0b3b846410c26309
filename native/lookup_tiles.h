// A layer of tables in training, W pixels ("a tile") of one codebook at once, for 16 prototypes or more: see lookup.h.
#pragma once
#include "jobs.h"
#include "lookup.h"
#include "lookup_lanes.h"
#include "soften.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

JT_INLINE void add_to(float* __restrict sum, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
}

#if defined(JETTISON_AVX512) || defined(JETTISON_AVX2)

constexpr int kFew = 3;     // levels whose questions are so few that each lane is compared with all
constexpr int kByLane = 8;  // levels whose slopes each lane adds up for itself: neighbours seldom meet in deeper nodes

constexpr int64_t kNearFloats = 32768;  // of entries, and of what is added up for them: half a second-level cache, or less

// Codebooks at a time: what is added up by lane stays near.
constexpr int64_t near_codebooks(int levels) { return levels > kByLane ? 1 : levels > 6 ? 256 >> levels : 16; }

// W pixels of an image from `pixel` on, or the last ones. In runs of W or W / 2 they find their inputs side by side.
JT_INLINE Tile tile_at(const Trees& t, int64_t pixel) {
  Tile tile = {pixel, min64(t.pixels - pixel, W), W, first(0), t.starts + pixel};
  tile.mask = first(tile.live);
  const auto beside = [&](int64_t run) {
    for (int64_t p = 0; p < tile.live; ++p)
      if (tile.starts[p] != tile.starts[p / run * run] + p % run) return false;
    return true;
  };
  while (tile.run > 1 && !beside(tile.run)) tile.run = tile.run == W ? W / 2 : 1;
  return tile;
}

template <int kLevels>
JT_INLINE void ask(const Trees& t, const float* image, const Tile& tile, int64_t j, f32v (&x)[kLevels]) {
  for (int l = 0; l < kLevels; ++l) x[l] = inputs(tile, image + t.places[l * t.codebooks + j]);
}

template <int kLevels>
void forward_tiles(const Trees& t, const float* image, uint16_t* codes, float* sums) {
  constexpr int64_t kPrototypes = 1 << kLevels;
  const int64_t k = t.outputs, near = max64(1, kNearFloats / (kPrototypes * k));
  for (int64_t i = 0; i < t.pixels * k; ++i) sums[i] = 0;
  for (int64_t some = 0; some < t.codebooks; some += near) {
    const int64_t end = min64(t.codebooks, some + near);
    for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
      const Tile tile = tile_at(t, pixel);
      for (int64_t j = some; j < end; ++j) {
        const Thresholds<kLevels> thresholds(t.thresholds + j * (kPrototypes - 1));
        f32v x[kLevels];
        ask(t, image, tile, j, x);
        i32x code = broadcast(0);
        times<kLevels>([&](auto l) JT_FLAT { code = either(code, thresholds.template answer<l>(x[l], code)); });
        store_codes(codes + j * t.row + pixel, tile, code);
        for (int64_t p = 0; p < tile.live; ++p)
          add_to(sums + (pixel + p) * k, t.entries + (j * kPrototypes + codes[j * t.row + pixel + p]) * k, k);
      }
    }
  }
}

// e[i] lane p = Σ_o g[p][o]·T[leaf[i] of p][o]. entries: of one codebook.
template <int kLeaves>
JT_INLINE void weigh(const Tile& tile, const float* g, const float* entries, int64_t k, const i32x (&leaf)[kLeaves], f32v (&e)[kLeaves]) {
  int32_t at[kLeaves][W];
  f32v part[kLeaves][W];
  for (int i = 0; i < kLeaves; ++i) store_lanes(at[i], times_each(leaf[i], (int32_t)k));
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

// What a tile of pixels gives one codebook's tree. by_lane: slopes of the upper nodes, by node and lane.
template <int kLevels>
JT_INLINE void slopes(const Trees& t, const float* image, const uint16_t* codes, const Tile& tile, int64_t j, float* by_lane,
                      const Slopes& to) {
  constexpr int64_t kPrototypes = 1 << kLevels;
  const Thresholds<kLevels> thresholds(t.thresholds + j * (kPrototypes - 1));
  f32v x[kLevels], e[kLevels + 1];
  i32x leaf[kLevels + 1];  // the other one of every level, and the code
  ask(t, image, tile, j, x);
  const i32x code = load_codes(codes + j * t.row + tile.pixel, tile);
  leaf[kLevels] = code;
  times<kLevels>([&](auto l) JT_FLAT {
    i32x other = differ(both(code, broadcast((2 << l) - 1)), broadcast(1 << l));
    times<kLevels - 1 - l>([&](auto m) JT_FLAT {
      constexpr int level = l + 1 + m;
      other = either(other, thresholds.template answer<level>(x[level], other));
    });
    leaf[l] = other;
  });
  weigh(tile, to.sums + tile.pixel * t.outputs, t.entries + j * kPrototypes * t.outputs, t.outputs, leaf, e);
  times<kLevels>([&](auto l) JT_FLAT {
    const i32x before = both(code, broadcast((1 << l) - 1));
    const f32v change = choose(bit_set<l>(code), sub(e[kLevels], e[l]), sub(e[l], e[kLevels]));
    const f32v slope = choose(tile.mask, soften(sub(x[l], thresholds.template at<l>(before)), change, to.tau), zero());
    constexpr int first = (1 << l) - 1;
    if constexpr (l < kFew) {
      for (int n = 0; n < 1 << l; ++n) {
        float* const at = by_lane + (first + n) * W;
        const f32v had = load(at);
        store(at, choose(equal(before, broadcast(n)), sub(had, slope), had));
      }
    } else {
      float each[W];
      int32_t node[W];
      store(each, slope), store_lanes(node, before);
      if constexpr (l < kByLane)
        for (int64_t p = 0; p < W; ++p) by_lane[(first + node[p]) * W + p] -= each[p];
      else
        for (int64_t p = 0; p < tile.live; ++p) to.thresholds[j * (kPrototypes - 1) + first + node[p]] -= each[p];
    }
    add_inputs(tile, to.image + t.places[l * t.codebooks + j], slope);
  });
}

template <int kLevels>
void backward_tiles(const Trees& t, const float* image, const uint16_t* codes, const Slopes& to) {
  constexpr int64_t kPrototypes = 1 << kLevels, kNodes = kPrototypes - 1, kUpper = (1 << (kLevels < kByLane ? kLevels : kByLane)) - 1,
                    kNear = near_codebooks(kLevels);
  const int64_t k = t.outputs, near = min64(kNear, max64(1, kNearFloats / 2 / (kPrototypes * k)));
  for (int64_t some = 0; some < t.codebooks; some += near) {
    const int64_t end = min64(t.codebooks, some + near);
    float by_lane[kNear][kUpper * W] = {};
    for (int64_t pixel = 0; pixel < t.pixels; pixel += W) {
      const Tile tile = tile_at(t, pixel);
      const float* g = to.sums + pixel * k;
      for (int64_t j = some; j < end; ++j) {
        slopes<kLevels>(t, image, codes, tile, j, by_lane[j - some], to);
        for (int64_t p = 0; p < tile.live; ++p) add_to(to.entries + (j * kPrototypes + codes[j * t.row + pixel + p]) * k, g + p * k, k);
      }
    }
    for (int64_t j = some; j < end; ++j)
      for (int n = 0; n < kUpper; ++n) to.thresholds[j * kNodes + n] += sum(load(by_lane[j - some] + n * W));
  }
}

#endif

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
