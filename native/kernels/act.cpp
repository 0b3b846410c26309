// act(x), element by element; on u8 a look-up in the op's table of 256 answers.
#include "../elementwise.h"

namespace jettison {
namespace JETTISON_ISA_NAME {
namespace {

int64_t size(const Problem& a) { return a.n * a.in[0].size(); }

double cycles(const Problem& a) {
  const double each = a.element == Element::u8 ? (kIsa == Isa::avx512 ? 0.1 : 1.0) : act_cycles(a.act) / W;
  return memory_cycles(2.0 * size(a), a.element) + (double)size(a) * each;
}

int64_t jobs(const Problem& a) { return job_count(cycles(a), ceil_div(size(a), 64)); }

void run(const Call& call, int64_t job) {
  const Problem& a = *call.problem;
  const Range mine = elements(size(a), jobs(a), job);
  const float* x = (const float*)call.in[0] + mine.begin;
  each(mine.end - mine.begin, a.act, a.alpha, (float*)call.out + mine.begin,
       [=](int64_t i, int64_t left) { return load_first(x + i, left); });
}

bool has_table(const Problem&, const Constants& c) { return c.find("table"); }
int64_t table_bytes(const Problem&, const Constants&) { return 256; }
void pack_table(const Problem&, const Constants& c, void* packed) { std::memcpy(packed, c.find("table"), 256); }

void run_u8(const Call& call, int64_t job) {
  const Range mine = elements(size(*call.problem), jobs(*call.problem), job);
  const uint8_t* table = (const uint8_t*)call.packed;
  const uint8_t* x = (const uint8_t*)call.in[0];
  uint8_t* out = (uint8_t*)call.out;
  int64_t i = mine.begin;
#if defined(JETTISON_AVX512)  // 128 entries per permute, chosen between by the index' highest bit
  const __m512i a = load_bytes(table), b = load_bytes(table + 64), c = load_bytes(table + 128), d = load_bytes(table + 192);
  for (; i < mine.end; i += 64) {
    const __m512i q = load_bytes(x + i);
    const __m512i y = _mm512_mask_mov_epi8(_mm512_permutex2var_epi8(a, q, b), _mm512_movepi8_mask(q), _mm512_permutex2var_epi8(c, q, d));
    store_bytes_first(out + i, y, mine.end - i);
  }
#endif
  for (; i < mine.end; ++i) out[i] = table[x[i]];
}

double cost(const Problem& a, const Constants&) { return cycles(a); }

}  // namespace

extern const Kernel act, act_u8;
const Kernel act = {"act", "act", "", kIsa, accept_all, nullptr, nullptr, nullptr, jobs, run, cost};
const Kernel act_u8 = {"act_u8", "act", "", kIsa, has_table, table_bytes, pack_table, nullptr, jobs, run_u8, cost, Element::u8};

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
