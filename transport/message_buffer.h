// The bytes of a message, and a pool of them: a fresh buffer of a megabyte costs more in page faults than its bytes in copies.
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"

namespace baton {

/// Owned bytes that are not cleared.
class MessageBuffer {
 public:
  MessageBuffer() = default;
  explicit MessageBuffer(size_t capacity) : data_(std::make_unique_for_overwrite<std::byte[]>(capacity)), capacity_(capacity) {}
  MessageBuffer(MessageBuffer&& other) noexcept
      : data_(std::move(other.data_)), capacity_(std::exchange(other.capacity_, 0)), size_(std::exchange(other.size_, 0)) {}
  MessageBuffer& operator=(MessageBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    capacity_ = std::exchange(other.capacity_, 0);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  std::byte* data() { return data_.get(); }
  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }
  Bytes bytes() const { return {data_.get(), size_}; }
  /// Up to capacity; what is new is not cleared.
  void Resize(size_t bytes) {
    CHECK(bytes <= capacity_);
    size_ = bytes;
  }
  /// Grows where the capacity does not suffice.
  void Append(Bytes more) {
    if (more.empty()) return;
    if (size_ + more.size() > capacity_) Grow(size_ + more.size());
    std::memcpy(data_.get() + size_, more.data(), more.size());
    size_ += more.size();
  }

 private:
  void Grow(size_t capacity) {
    MessageBuffer bigger(std::max(capacity, 2 * capacity_));
    if (size_ > 0) std::memcpy(bigger.data_.get(), data_.get(), size_);
    bigger.size_ = size_;
    *this = std::move(bigger);
  }

  std::unique_ptr<std::byte[]> data_;
  size_t capacity_ = 0, size_ = 0;
};

/// Thread: one.
class BufferPool {
 public:
  /// An empty buffer with room for that much.
  MessageBuffer Take(size_t bytes) {
    if (bytes <= kSmallBytes) return MessageBuffer(kSmallBytes);
    if (bytes > kBigBytes) return MessageBuffer(bytes);
    if (free_.empty()) return MessageBuffer(kBigBytes);
    MessageBuffer buffer = std::move(free_.back());  // the last given back is the one that is still in the cache
    free_.pop_back();
    return buffer;
  }
  void Give(MessageBuffer buffer) {
    if (buffer.capacity() != kBigBytes || free_.size() >= kMostFree) return;
    buffer.Resize(0);
    free_.push_back(std::move(buffer));
  }
  size_t free_buffers() const { return free_.size(); }

  static constexpr size_t kSmallBytes = 512, kBigBytes = 640_KiB, kMostFree = 32;

 private:
  std::vector<MessageBuffer> free_;
};

}  // namespace baton
