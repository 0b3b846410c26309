#include "pool.h"

#include <chrono>

namespace jettison {
namespace {

// Longer than a small network and the Python between two runs take: a thread that slept may be woken on the
// processor of the one that waits for it, and then a millisecond is lost.
constexpr auto kSpin = std::chrono::milliseconds(2);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until ready() or for kSpin; true when ready.
template <class Ready>
bool spin(Ready ready) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  return ready();
}

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), shares_(threads_) {
  workers_.reserve(threads_ - 1);
  try {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {  // the system permits no more
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    round_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void Pool::take(int thread) {
  for (int i = 0; i < threads_; ++i) {
    Share& share = shares_[(thread + i) % threads_];
    for (;;) {
      const int64_t job = share.next.fetch_add(1, std::memory_order_relaxed);
      if (job >= share.end) break;
      body_(context_, job, thread);
    }
  }
}

void Pool::run(int64_t jobs, Body body, void* context) {
  if (threads_ == 1 || jobs < 2) {
    for (int64_t job = 0; job < jobs; ++job) body(context, job, 0);
    return;
  }
  body_ = body;
  context_ = context;
  for (int i = 0; i < threads_; ++i) {
    shares_[i].next.store(jobs * i / threads_, std::memory_order_relaxed);
    shares_[i].end = jobs * (i + 1) / threads_;
  }
  busy_.store(threads_ - 1, std::memory_order_relaxed);
  round_.fetch_add(1);  // sequentially consistent: a worker either sees it or is counted as sleeping
  if (sleeping_.load()) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take(0);
  while (!spin([this] { return busy_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
}

void Pool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    const auto changed = [&] { return round_.load() != seen; };
    if (!spin(changed)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, changed);
      sleeping_.fetch_sub(1);
    }
    seen = round_.load();
    if (stop_.load()) return;
    take(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace jettison
