// The only door between threads: a bounded queue of values. A full mailbox refuses (back-pressure, never unbounded growth).
// A reader that sleeps elsewhere (a kj loop, a futex) gives a wake function; it is called once when the mailbox turns
// from empty to non-empty, so a batch costs one wake.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace baton {

/// Thread: any may Push; one drains.
template <typename T>
class Mailbox {
 public:
  explicit Mailbox(size_t capacity, std::function<void()> wake = {}) : capacity_(capacity), wake_(std::move(wake)) {}
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// False when full or closed; the value is then untouched, still the caller's.
  [[nodiscard]] bool Push(T&& value) {
    bool was_empty;
    {
      std::lock_guard lock(mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      was_empty = items_.empty();
      items_.push_back(std::move(value));
    }
    if (was_empty) {
      ready_.notify_one();
      if (wake_) wake_();
    }
    return true;
  }

  /// Takes everything that is there, in order; never blocks.
  std::vector<T> Drain() {
    std::lock_guard lock(mutex_);
    std::vector<T> out(std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end()));
    items_.clear();
    return out;
  }

  /// Sleeps until something is there, the mailbox is closed, or `timeout` has passed.
  void WaitFor(Duration timeout) {
    std::unique_lock lock(mutex_);
    ready_.wait_for(lock, timeout, [this] { return !items_.empty() || closed_; });
  }

  void Close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    ready_.notify_all();
  }
  bool closed() const {
    std::lock_guard lock(mutex_);
    return closed_;
  }
  size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

 private:
  const size_t capacity_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace baton
