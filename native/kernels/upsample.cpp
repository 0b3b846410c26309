// Resize an image by source positions in float32, as PyTorch does. scale is the input step per output step.
//
//   nearest    row min(⌊i·scale⌋, h − 1)
//   bilinear   position a = max(0, (i + ½)·scale − ½), or i·scale with align_corners;
//              row ⌊a⌋ weighted 1 − t, the next one (at most h − 1) weighted t = a − ⌊a⌋; columns alike
//
// A job is a range of output rows; the vectors run over the channels of a pixel.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

bool nearest(const Problem& a, const Constants&) { return !a.bilinear; }

int64_t rows(const Problem& a) { return a.n * a.out.d[0]; }

double cycles(const Problem& a) {
  const double pixels = (double)rows(a) * a.out.d[1], vectors = (double)ceil_div(a.out.d[2], W);
  return pixels * (16 + vectors * (a.bilinear ? 12 : 4));
}

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

// The two input indices of an output index, and the weight of the second.
struct Source {
  int64_t low, high;
  float t;
};

// ⌊at⌋, at most size − 1; compared as floats, so that no position, however large, leaves the image.
int64_t index_of(float at, int64_t size) { return at < (float)(size - 1) ? (int64_t)at : size - 1; }

Source source(const Problem& a, int64_t index, float scale, int64_t size) {
  if (!a.bilinear) {
    const int64_t at = index_of((float)index * scale, size);
    return {at, at, 0.0f};
  }
  float at = a.align_corners ? (float)index * scale : ((float)index + 0.5f) * scale - 0.5f;
  if (at < 0) at = 0;
  const int64_t low = index_of(at, size);
  const float t = at - (float)low;
  return {low, min64(low + 1, size - 1), t > 1 ? 1.0f : t};
}

JT_INLINE void blend(float* out, const float* const (&x)[4], const Source& y, const Source& z, int64_t c) {
  const f32v down = set1(y.t), up = set1(1.0f - y.t), right = set1(z.t), left = set1(1.0f - z.t);
  for (int64_t i = 0; i < c; i += W) {
    const int64_t n = c - i;
    const f32v above = fma(load_first(x[0] + i, n), left, mul(load_first(x[1] + i, n), right));
    const f32v below = fma(load_first(x[2] + i, n), left, mul(load_first(x[3] + i, n), right));
    store_first(out + i, fma(above, up, mul(below, down)), n);
  }
}

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t h = a.in[0].d[0], w = a.in[0].d[1], c = a.in[0].d[2], p = a.out.d[0], q = a.out.d[1];
  const Range mine = range(rows(a), jobs(a), job);
  for (int64_t row = mine.begin; row < mine.end; ++row) {
    const T* image = (const T*)call.in[0] + row / p * h * w * c;
    T* out = (T*)call.out + row * q * c;
    const Source y = source(a, row % p, a.scale_h, h);
    const T* low = image + y.low * w * c;
    const T* high = image + y.high * w * c;
    for (int64_t j = 0; j < q; ++j, out += c) {
      const Source z = source(a, j, a.scale_w, w);
      if constexpr (sizeof(T) == sizeof(float)) {
        if (a.bilinear) {
          blend(out, {low + z.low * c, low + z.high * c, high + z.low * c, high + z.high * c}, y, z, c);
          continue;
        }
      }
      copy(out, low + z.low * c, c);
    }
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel upsample, upsample_u8;
const Kernel upsample = {"upsample", "upsample", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<float>, cost};
const Kernel upsample_u8 = {"upsample_u8", "upsample", "", kIsa, nearest, nullptr, nullptr, nullptr, jobs, run<uint8_t>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
