#include "probe.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>

#include "cpu.h"

namespace jettison {

#define STREAMS(isa)                         \
  namespace isa {                            \
  extern const Stream all_streams[kStreams]; \
  }
STREAMS(scalar)
#if defined(JETTISON_X86)
STREAMS(avx2)
STREAMS(avx512)
#endif
#undef STREAMS

const Stream* streams(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return scalar::all_streams;
#if defined(JETTISON_X86)
    case Isa::avx2:
      return avx2::all_streams;
    case Isa::avx512:
      return avx512::all_streams;
#endif
    default:
      return nullptr;
  }
}

Probe::Probe(std::shared_ptr<Pool> pool, const Stream* stream, int64_t bytes) : pool_(std::move(pool)), stream_(stream) {
  if (!stream_ || !supports(stream_->isa)) throw std::invalid_argument("this processor cannot run that stream");
  if (bytes < 0) throw std::invalid_argument("a probe cannot read a negative number of bytes");
  pass_ = (bytes + stream_->unit - 1) / stream_->unit;
  memory_.resize(pool_->threads());
  std::lock_guard<std::mutex> lock(pool_->owner());
  const auto body = [](void* context, int64_t job, int) {
    Probe& p = *static_cast<Probe*>(context);
    try {
      // touched by the thread that reads it; on a large page even if small, else its pages may collide in a cache
      p.memory_[job] = std::make_unique<Buffer>(p.pass_ ? std::max(p.pass_ * p.stream_->unit, kLargePage) : 0);
    } catch (const std::bad_alloc&) {  // must not leave a thread
    }
  };
  pool_->run(pool_->threads(), body, this);
  for (const auto& m : memory_)
    if (!m) throw std::bad_alloc();
}

int64_t Probe::run(int64_t passes, int64_t iterations) const {
  struct Context {
    const Probe* probe;
    int64_t passes, iterations;
  } context{this, passes, iterations};
  const auto body = [](void* c, int64_t job, int) {
    const Context& x = *static_cast<const Context*>(c);
    const char* data = x.probe->memory_[job]->data();
    for (int64_t i = 0; i < x.passes; ++i) x.probe->stream_->run(data, x.iterations);
  };
  std::lock_guard<std::mutex> lock(pool_->owner());
  const auto start = std::chrono::steady_clock::now();
  pool_->run(pool_->threads(), body, &context);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace jettison
