#include "model/thread_pool.h"

#include <algorithm>

namespace baton {
namespace {

constexpr int kSpins = 2000;  // some 20 µs: longer than the gap between two matmuls, shorter than a scheduler's slice

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(unsigned threads) {
  for (unsigned i = 1; i < std::max(threads, 1u); ++i) workers_.emplace_back([this, i] { Loop(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Share(unsigned index) {
  const size_t n = threads(), begin = count_ * index / n, end = count_ * (index + 1) / n;
  if (begin < end) (*work_)(begin, end, index);
}

void ThreadPool::Loop(unsigned index) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) Pause();
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    Share(index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

void ThreadPool::Run(size_t count, const RangeWork& work) {
  if (count == 0) return;
  if (workers_.empty() || count == 1) return work(0, count, 0);
  work_ = &work;
  count_ = count;
  pending_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  Share(0);
  for (int spin = 0; spin < kSpins && pending_.load(std::memory_order_acquire) != 0; ++spin) Pause();
  for (uint32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;) pending_.wait(left, std::memory_order_acquire);
}

void ThreadPool::RunEach(size_t count, const UnitWork& work) {
  if (workers_.empty() || count <= 1) {
    for (size_t unit = 0; unit < count; ++unit) work(unit, 0);
    return;
  }
  std::atomic<size_t> next{0};
  Run(threads(), [&](size_t, size_t, unsigned thread) {
    for (size_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(unit, thread);
  });
}

}  // namespace baton
