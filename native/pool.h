// Threads that share one loop at a time. They spin for a moment after a loop, since the next layer
// follows within microseconds, and sleep when nothing comes.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace jettison {

class Pool {
 public:
  explicit Pool(int threads);  // threads ≥ 1, the caller's own counts as one
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Held by whoever runs a sequence of loops.
  std::mutex& owner() { return owner_; }

  using Body = void (*)(void* context, int64_t job, int thread);

  // Calls body(context, job, thread) once for each job below `jobs`; returns when all are done.
  // Every thread starts with a consecutive share and takes from the others' when its own is empty.
  // Not to be entered by two threads at once.
  void run(int64_t jobs, Body body, void* context);

 private:
  void stop();  // and wait for all threads that were started
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(int thread);
  void take(int thread);

  const int threads_;
  std::vector<Share> shares_;
  std::vector<std::thread> workers_;
  Body body_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint64_t> round_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex owner_;
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace jettison
