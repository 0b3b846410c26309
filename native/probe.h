// Times a stream on all threads of a pool at once.
#pragma once
#include <memory>
#include <vector>

#include "pool.h"
#include "program.h"
#include "streams.h"

namespace jettison {

class Probe {
 public:
  // Every thread gets `bytes` of memory of its own to read, rounded up to the stream's unit.
  Probe(std::shared_ptr<Pool> pool, const Stream* stream, int64_t bytes);
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  int64_t unit() const { return stream_->unit; }
  // Iterations that read the memory once.
  int64_t pass() const { return pass_; }
  // Nanoseconds until every thread has done its `passes`, each of `iterations`.
  int64_t run(int64_t passes, int64_t iterations) const;

 private:
  std::shared_ptr<Pool> pool_;
  const Stream* stream_;
  int64_t pass_;
  std::vector<std::unique_ptr<Buffer>> memory_;
};

}  // namespace jettison
