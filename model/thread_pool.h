// The compute threads of one model: fork-join inside one Forward. Waiting threads spin briefly, then sleep, and the caller
// does the shares of threads that have not come by then, so that ranks on few cores do not starve each other. Which thread
// computes what never decides a bit: every output is computed whole by one thread, in one order.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace baton {

/// Thread: Run and RunEach from one thread at a time.
class ThreadPool {
 public:
  /// work(begin, end, thread): thread is 0 to threads() - 1, for scratch memory.
  using RangeWork = std::function<void(size_t begin, size_t end, unsigned thread)>;
  using UnitWork = std::function<void(size_t unit, unsigned thread)>;

  explicit ThreadPool(unsigned threads);  // at least 1; the caller of Run is one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  unsigned threads() const { return static_cast<unsigned>(workers_.size()) + 1; }
  /// Calls work for contiguous shares of [0, count), one a thread; returns when all are done. For equal units.
  void Run(size_t count, const RangeWork& work);
  /// As Run where each thread's share is at least `grain`; less is not worth waking anybody, and the caller does it.
  void RunLarge(size_t count, size_t grain, const RangeWork& work) {
    if (count >= grain * threads()) Run(count, work);
    else Alone(count, work);
  }
  /// Calls work for each unit of [0, count), each thread taking the next when it has finished one; returns when all are
  /// done. For units of unlike size.
  void RunEach(size_t count, const UnitWork& work);

 private:
  static void Alone(size_t count, const RangeWork& work) {
    if (count > 0) work(0, count, 0);
  }
  /// What a Run has to give: its number, how many shares it has and the next one nobody has taken.
  struct Ticket {
    uint32_t run;
    uint16_t shares, next;
  };
  void Loop();
  bool TakeShare(uint32_t run, unsigned thread);
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> run_{0}, pending_{0};  // shares not finished
  std::atomic<uint64_t> ticket_{0};
  std::atomic<unsigned> next_thread_{1};
  std::atomic<bool> stop_{false};
  const RangeWork* work_ = nullptr;  // these two may be read by whoever holds a share
  size_t count_ = 0;
};

}  // namespace baton
