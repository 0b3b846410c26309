#include "fusion.h"

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "program.h"

namespace jettison {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int64_t Group::workspace_bytes() const {
  int64_t kernels = 0;
  for (const Band& band : bands) {
    if (band.member < 0 || !members[band.member]->kernel->workspace_bytes) continue;
    const int64_t need = members[band.member]->kernel->workspace_bytes(problems[band.problem]);
    kernels = need > kernels ? need : kernels;
  }
  return aligned(buffer_bytes) + aligned(kernels);
}

void Group::check(int64_t arena_bytes) const {
  const auto need = [&](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  const auto inside = [&](const Place& place, int64_t bytes) {
    const int64_t last = place.at + (place.workspace ? 0 : (images - 1) * place.image) + bytes;
    return bytes >= 0 && place.at >= 0 && place.image >= 0 && last <= (place.workspace ? buffer_bytes : arena_bytes);
  };
  need(images >= 1 && !job_ends.empty() && job_ends.back() == (int64_t)bands.size(), "a group's jobs must cover its bands");
  for (size_t i = 0; i < job_ends.size(); ++i) need(job_ends[i] >= (i ? job_ends[i - 1] : 0), "a group's jobs must follow one another");
  for (const Band& band : bands) {
    if (band.member < 0) {
      need(band.in[0].workspace && band.out.workspace && inside(band.in[0], band.bytes) && inside(band.out, band.bytes),
           "rows that move must lie in the workspace");
      continue;
    }
    need(band.member < (int)members.size() && band.problem >= 0 && band.problem < (int)problems.size(), "a band names an unknown op");
    const Problem& p = problems[band.problem];
    need(p.n == 1 && p.inputs <= kBandInputs && members[band.member]->kernel->element == p.element, "a band does not fit its kernel");
    for (int i = 0; i < p.inputs; ++i)
      need(inside(band.in[i], bytes_of(p.in[i], p.element) + kSlack), "an operand of a band lies outside its memory");
    need(inside(band.out, bytes_of(p.out, p.out_element)), "the result of a band lies outside its memory");
  }
}

void Group::run(int64_t job, char* arena, char* workspace, int64_t* member_ns) const {
  const int64_t each = (int64_t)job_ends.size(), image = job / each, first = job % each ? job_ends[job % each - 1] : 0;
  const auto at = [&](const Place& p) { return p.workspace ? workspace + p.at : arena + p.at + image * p.image; };
  for (int64_t i = first; i < job_ends[job % each]; ++i) {
    const Band& band = bands[i];
    if (band.member < 0) {
      std::memmove(at(band.out), at(band.in[0]), (size_t)band.bytes);
      continue;
    }
    const int64_t start = member_ns ? now_ns() : 0;
    const Problem& p = problems[band.problem];
    const Packed& packed = *members[band.member];
    const void* in[kBandInputs] = {at(band.in[0]), p.inputs > 1 ? at(band.in[1]) : nullptr};
    const Call call{&p, packed.data.data(), in, at(band.out), workspace + aligned(buffer_bytes)};
    const int64_t jobs = packed.kernel->jobs(p);
    for (int64_t j = 0; j < jobs; ++j) packed.kernel->run(call, j);
    if (member_ns) member_ns[band.member] += now_ns() - start;
  }
}

}  // namespace jettison
