#include "model/thread_pool.h"

#include <algorithm>
#include <bit>

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
  for (unsigned i = 1; i < std::max(threads, 1u); ++i) workers_.emplace_back([this] { Loop(); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  run_.fetch_add(1);
  run_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

/// Does one share of run `run` if it has one left. A share taken keeps Run from returning, so its work is still there.
bool ThreadPool::TakeShare(uint32_t run, unsigned thread) {
  uint64_t seen = ticket_.load(std::memory_order_acquire);
  Ticket ticket;
  do {
    ticket = std::bit_cast<Ticket>(seen);
    if (ticket.run != run || ticket.next >= ticket.shares) return false;
    ++ticket.next;
  } while (!ticket_.compare_exchange_weak(seen, std::bit_cast<uint64_t>(ticket), std::memory_order_acq_rel, std::memory_order_acquire));
  const size_t share = ticket.next - 1u, begin = count_ * share / ticket.shares, end = count_ * (share + 1) / ticket.shares;
  if (begin < end) (*work_)(begin, end, thread);
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  return true;
}

void ThreadPool::Loop() {
  const unsigned thread = next_thread_.fetch_add(1);
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && run_.load(std::memory_order_acquire) == seen; ++spin) Pause();
    run_.wait(seen, std::memory_order_acquire);
    seen = run_.load(std::memory_order_acquire);
    if (stop_) return;
    TakeShare(seen, thread);
  }
}

void ThreadPool::Run(size_t count, const RangeWork& work) {
  if (workers_.empty() || count <= 1) return Alone(count, work);
  const auto shares = static_cast<uint16_t>(threads());
  const uint32_t run = run_.load(std::memory_order_relaxed) + 1;
  work_ = &work;
  count_ = count;
  pending_.store(shares, std::memory_order_relaxed);
  ticket_.store(std::bit_cast<uint64_t>(Ticket{run, shares, 0}), std::memory_order_release);
  run_.store(run, std::memory_order_release);
  run_.notify_all();
  while (TakeShare(run, 0)) {
  }
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
