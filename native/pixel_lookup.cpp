// See pixel_lookup.h. A table of one tap and one group fills a second-level cache, so that it is taken to many pixels before the next.
#include "pixel_lookup.h"

#include <cmath>
#include <memory>
#include <vector>

#include "jobs.h"
#include "soften.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

constexpr int64_t kTile = 256;          // pixels whose trees are asked together
constexpr int64_t kNearSums = 1 << 17;  // floats: as many sums, or gradients of them, as stay near beside a table
constexpr int64_t kNearPixels = 512;    // whose leaves are weighed together

using Asked = int32_t[kDeepest][kTile];

// Thresholds of one group, whole: a > t is a > ⌊t⌋.
void whole(const PixelTrees& t, const float* thresholds, int64_t g, int32_t* to) {
  const int64_t nodes = ((int64_t)1 << t.levels) - 1;
  for (int64_t i = 0; i < nodes; ++i) to[i] = (int32_t)std::floor(thresholds[g * nodes + i]);
}

// What the trees of n pixels from `first` on ask.
JT_INLINE void ask(const PixelTrees& t, const uint8_t* image, int64_t g, int64_t first, int64_t n, Asked& asked) {
  for (int64_t l = 0; l < t.levels; ++l) {
    const int32_t* question = t.questions + (g * t.levels + l) * 2;
    const int32_t j = question[1], flip = j < 0 ? 255 : 0;
    const uint8_t* __restrict one = image + question[0] * t.pixels + first;
    const uint8_t* __restrict other = image + (j < 0 ? -1 - j : j) * t.pixels + first;
    int32_t* __restrict to = asked[l];
    for (int64_t p = 0; p < n; ++p) to[p] = (one[p] + (other[p] ^ flip) + 1) >> 1;
  }
}

// Down the trees from `level` on; code: the answers so far.
JT_INLINE void walk(const PixelTrees& t, const int32_t* __restrict thresholds, const Asked& asked, int64_t n, int64_t level,
                    int32_t* __restrict code) {
  for (; level < t.levels; ++level) {
    const int32_t* __restrict a = asked[level];
    const int32_t first = (1 << level) - 1;
    for (int64_t p = 0; p < n; ++p) code[p] |= (a[p] > thresholds[first + code[p]] ? 1 : 0) << level;
  }
}

void encode(const PixelTrees& t, int64_t n, const uint8_t* images, const float* thresholds, uint16_t* codes) {
  std::vector<int32_t> whole_ones((size_t)1 << t.levels);
  Asked asked;
  for (int64_t g = 0; g < t.groups; ++g) {
    whole(t, thresholds, g, whole_ones.data());
    for (int64_t i = 0; i < n; ++i)
      for (int64_t first = 0; first < t.pixels; first += kTile) {
        const int64_t some = min64(kTile, t.pixels - first);
        int32_t code[kTile] = {};
        ask(t, images + i * t.channels * t.pixels, g, first, some, asked);
        walk(t, whole_ones.data(), asked, some, 0, code);
        uint16_t* to = codes + (i * t.groups + g) * t.pixels + first;
        for (int64_t p = 0; p < some; ++p) to[p] = (uint16_t)code[p];
      }
  }
}

// to[i] += from[i], n of them: V whole vectors, or with V = 0 however many.
template <int V>
JT_INLINE void add_to(float* __restrict to, const float* __restrict from, int64_t n) {
  if constexpr (V)
    for (int v = 0; v < V; ++v) store(to + v * W, add(load(to + v * W), load(from + v * W)));
  else
    for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// f(V) with V whole vectors for n floats, or 0.
template <class F>
void with_vectors(int64_t n, const F& f) {
  if (n == W) f(Count<1>());
  else if (n == 2 * W) f(Count<2>());
  else if (n == 4 * W) f(Count<4>());
  else if (n == 8 * W) f(Count<8>());
  else f(Count<0>());
}

// f(rows of sums, entry's first float) of every output, table after table.
template <class F>
void each_entry(const PixelTrees& t, int64_t n, const uint16_t* codes, int64_t outputs, const F& f) {
  const int64_t near = max64(1, kNearSums / (t.places * outputs));
  for (int64_t some = 0; some < n; some += near)
    for (int64_t tap = 0; tap < t.taps; ++tap)
      for (int64_t g = 0; g < t.groups; ++g) {
        const int64_t table = (tap * t.groups + g) << t.levels;
        const int32_t* seen = t.seen + tap * t.places;
        for (int64_t i = some; i < min64(n, some + near); ++i) {
          const uint16_t* code = codes + (i * t.groups + g) * t.pixels;
          for (int64_t y = 0; y < t.places; ++y) f((i * t.places + y) * outputs, (table + code[seen[y]]) * outputs);
        }
      }
}

void look_up(const PixelTrees& t, int64_t n, const uint16_t* codes, const float* entries, int64_t outputs, float* sums) {
  for (int64_t i = 0; i < n * t.places * outputs; ++i) sums[i] = 0;
  with_vectors(outputs, [&](auto v) {
    each_entry(t, n, codes, outputs, [&](int64_t row, int64_t entry) JT_FLAT { add_to<v>(sums + row, entries + entry, outputs); });
  });
}

void spread(const PixelTrees& t, int64_t n, const uint16_t* codes, const float* sums, int64_t outputs, float* entries) {
  with_vectors(outputs, [&](auto v) {
    each_entry(t, n, codes, outputs, [&](int64_t row, int64_t entry) JT_FLAT { add_to<v>(entries + entry, sums + row, outputs); });
  });
}

// Leaves of a pixel: first the one it reaches, then those it would reach if the answer on each level were the other.
constexpr int64_t kLeaves = kDeepest + 1;

struct Near {
  int32_t leaf[kNearPixels][kLeaves];
  float weighed[kNearPixels][kLeaves][W];  // partial sums of gradient · entry
  float each[kLeaves][kNearPixels];
};

// acc += g · entries of every leaf of a pixel, in W parts.
template <int V>
JT_INLINE void weigh(const float* g, const float* table, const int32_t* leaf, int64_t leaves, int64_t outputs, float (*acc)[W]) {
  if constexpr (V) {
    f32v slope[V];
    for (int v = 0; v < V; ++v) slope[v] = load(g + v * W);
    for (int64_t i = 0; i < leaves; ++i) {
      const float* entry = table + leaf[i] * (V * W);
      f32v sum = load(acc[i]);
      for (int v = 0; v < V; ++v) sum = fma(slope[v], load(entry + v * W), sum);
      store(acc[i], sum);
    }
  } else {
    for (int64_t i = 0; i < leaves; ++i) {
      const float* entry = table + leaf[i] * outputs;
      f32v sum = load(acc[i]);
      for (int64_t o = 0; o < outputs; o += W) sum = fma(load_first(g + o, outputs - o), load_first(entry + o, outputs - o), sum);
      store(acc[i], sum);
    }
  }
}

// f(image, first pixel, how many, how many before) of the pixels begin … end − 1 of all images, in pieces of at most kTile.
template <class F>
JT_INLINE void pieces(const PixelTrees& t, int64_t begin, int64_t end, const F& f) {
  for (int64_t at = begin; at < end;) {
    const int64_t first = at % t.pixels, some = min64(min64(kTile, end - at), t.pixels - first);
    f(at / t.pixels, first, some, at - begin);
    at += some;
  }
}

void find_leaves(const PixelTrees& t, const uint8_t* images, const uint16_t* codes, const int32_t* thresholds, int64_t g, int64_t begin,
                 int64_t end, Near& near) {
  Asked asked;
  pieces(t, begin, end, [&](int64_t i, int64_t first, int64_t n, int64_t before) {
    ask(t, images + i * t.channels * t.pixels, g, first, n, asked);
    const uint16_t* code = codes + (i * t.groups + g) * t.pixels + first;
    for (int64_t p = 0; p < n; ++p) near.leaf[before + p][0] = code[p];
    for (int64_t l = 0; l < t.levels; ++l) {
      int32_t other[kTile];
      for (int64_t p = 0; p < n; ++p) other[p] = (code[p] & ((1 << l) - 1)) | (~code[p] & (1 << l));
      walk(t, thresholds, asked, n, l + 1, other);
      for (int64_t p = 0; p < n; ++p) near.leaf[before + p][1 + l] = other[p];
    }
  });
}

void slopes(const PixelTrees& t, int64_t n, const uint8_t* images, const uint16_t* codes, const float* thresholds, const float* entries,
            const float* sums, int64_t outputs, float tau, float* for_images, float* for_thresholds) {
  const int64_t nodes = ((int64_t)1 << t.levels) - 1, leaves = t.levels + 1;
  const std::unique_ptr<Near> near(new Near);
  std::vector<int32_t> whole_ones(nodes);
  Asked asked;
  for (int64_t g = 0; g < t.groups; ++g) {
    whole(t, thresholds, g, whole_ones.data());
    const float* own = thresholds + g * nodes;
    for (int64_t begin = 0; begin < n * t.pixels; begin += kNearPixels) {
      const int64_t end = min64(n * t.pixels, begin + kNearPixels);
      find_leaves(t, images, codes, whole_ones.data(), g, begin, end, *near);
      for (int64_t p = 0; p < end - begin; ++p)
        for (int64_t i = 0; i < leaves; ++i) store(near->weighed[p][i], zero());
      with_vectors(outputs, [&](auto v) {
        for (int64_t tap = 0; tap < t.taps; ++tap) {
          const float* table = entries + ((tap * t.groups + g) << t.levels) * outputs;
          pieces(t, begin, end, [&](int64_t i, int64_t first, int64_t some, int64_t before) {
            const int32_t* seen_at = t.seen_at + tap * t.pixels + first;
            for (int64_t p = 0; p < some; ++p)
              if (seen_at[p] >= 0)
                weigh<v>(sums + (i * t.places + seen_at[p]) * outputs, table, near->leaf[before + p], leaves, outputs,
                         near->weighed[before + p]);
          });
        }
      });
      for (int64_t p = 0; p < end - begin; ++p)
        for (int64_t i = 0; i < leaves; ++i) near->each[i][p] = sum(load(near->weighed[p][i]));
      pieces(t, begin, end, [&](int64_t image, int64_t first, int64_t some, int64_t before) {
        ask(t, images + image * t.channels * t.pixels, g, first, some, asked);
        const uint16_t* code = codes + (image * t.groups + g) * t.pixels + first;
        float* to = for_images + image * t.channels * t.pixels + first;
        for (int64_t l = 0; l < t.levels; ++l) {
          const float *here = near->each[0] + before, *there = near->each[1 + l] + before;
          float u[kTile], change[kTile];
          int32_t node[kTile];
          for (int64_t p = 0; p < some; ++p) {
            node[p] = (1 << l) - 1 + (code[p] & ((1 << l) - 1));
            u[p] = (float)asked[l][p] - own[node[p]];
            change[p] = (float)((code[p] >> l & 1) * 2 - 1) * (here[p] - there[p]);
          }
          for (int64_t p = some; p < kTile && p % W; ++p) u[p] = change[p] = 0;
          for (int64_t p = 0; p < some; p += W) store(change + p, soften(load(u + p), load(change + p), tau));
          const int32_t* question = t.questions + (g * t.levels + l) * 2;
          const int32_t i = question[0], j = question[1];
          float* one = to + i * t.pixels;
          for (int64_t p = 0; p < some; ++p) one[p] += 0.5f * change[p];
          float* other = to + (j < 0 ? -1 - j : j) * t.pixels;
          const float half = j < 0 ? -0.5f : 0.5f;
          for (int64_t p = 0; p < some; ++p) other[p] += half * change[p];
          for (int64_t p = 0; p < some; ++p) for_thresholds[g * nodes + node[p]] -= change[p];
        }
      });
    }
  }
}

}  // namespace

extern const PixelLookUp pixel_look_up;
const PixelLookUp pixel_look_up = {kIsa, encode, look_up, spread, slopes};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
