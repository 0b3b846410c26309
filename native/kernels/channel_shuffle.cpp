// Channel j·g + i takes channel i·(c/g) + j (ShuffleNet): a transpose of g × c/g in every pixel.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t rows(const Problem& a) { return a.n * a.in[0].size() / a.in[0].last(); }

double cycles(const Problem& a) { return memory_cycles(2.0 * a.n * a.in[0].size(), a.element) + (double)a.n * a.in[0].size(); }

int64_t jobs(const Problem& a) { return job_count(cycles(a), rows(a)); }

// G > 0: the number of groups, known to the compiler, which then interleaves with vectors.
template <int G, class T>
void shuffle(const T* __restrict x, T* __restrict out, int64_t pixels, int64_t groups, int64_t width) {
  const int64_t g = G ? G : groups;
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += g * width, out += g * width)
    for (int64_t j = 0; j < width; ++j)
      for (int64_t i = 0; i < g; ++i) out[j * g + i] = x[i * width + j];
}

template <class T>
void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const int64_t c = a.in[0].last(), width = c / a.groups;
  const Range mine = range(rows(a), jobs(a), job);
  const T* x = (const T*)call.in[0] + mine.begin * c;
  T* out = (T*)call.out + mine.begin * c;
  const int64_t pixels = mine.end - mine.begin;
  switch (a.groups) {
    case 2:
      return shuffle<2>(x, out, pixels, 2, width);
    case 3:
      return shuffle<3>(x, out, pixels, 3, width);
    case 4:
      return shuffle<4>(x, out, pixels, 4, width);
    case 8:
      return shuffle<8>(x, out, pixels, 8, width);
    default:
      return shuffle<0>(x, out, pixels, a.groups, width);
  }
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel channel_shuffle, channel_shuffle_u8;
const Kernel channel_shuffle = {"channel_shuffle", "channel_shuffle", "",   kIsa,       accept_all, nullptr,
                                nullptr,           nullptr,           jobs, run<float>, cost};
const Kernel channel_shuffle_u8 = {
    "channel_shuffle_u8", "channel_shuffle", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run<uint8_t>, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
