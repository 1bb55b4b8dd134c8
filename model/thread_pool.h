// The compute threads of one model: fork-join inside one Forward, static split, so which thread computes what never
// depends on timing. Waiting threads spin briefly, then sleep, so that ranks on few cores do not starve each other.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace baton {

/// Thread: Run from one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);  // at least 1; the caller of Run is one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }
  /// Calls work(begin, end) on each thread for its contiguous share of [0, count); returns when all are done.
  void Run(size_t count, const std::function<void(size_t begin, size_t end)>& work);

 private:
  void Loop(unsigned index);
  void Share(unsigned index);
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> generation_{0}, pending_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(size_t, size_t)>* work_ = nullptr;
  size_t count_ = 0;
};

}  // namespace baton
