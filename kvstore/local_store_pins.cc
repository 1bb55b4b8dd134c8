// Pins: a block that is pinned is held in the tier that lasts (disk, or memory while it is not there) until its deadline.
#include <algorithm>

#include "kvstore/local_store.h"

namespace baton {

void LocalStore::ExpirePins() {
  const Instant now = clock_.Now();
  while (!pin_deadlines_.empty() && pin_deadlines_.begin()->first <= now) ReleasePin(pin_deadlines_.begin()->second);
}

void LocalStore::ReleasePin(uint32_t id) {
  const auto pin = pins_.find(id);
  pin_deadlines_.erase({pin->second, id});
  pins_.erase(pin);
  IndexEntry& entry = index_[id];
  entry.pinned = false;
  pinned_bytes_ -= entry.raw_bytes;
  if (entry.held()) PinTier(entry).Unhold(id);
}

uint64_t LocalStore::max_pinned_bytes() const {
  return (folder_ ? std::max(folder_->capacity_bytes(), config_.memory_bytes) : config_.memory_bytes) / 2;
}

HeldBlocks LocalStore::Describe(std::span<const BlockKey> keys) {
  std::lock_guard lock(mutex_);
  HeldBlocks out;
  for (size_t i = 0; i < keys.size(); ++i) {
    const uint32_t id = FindLive(keys[i]);
    if (id == kNoBlock) continue;
    if (out.held == i) ++out.held;
    out.memory += index_[id].memory != nullptr;
    out.disk += index_[id].disk.on_disk();
    out.bytes += index_[id].raw_bytes;
  }
  return out;
}

Result<size_t> LocalStore::Pin(std::span<const BlockKey> keys, Instant deadline) {
  std::lock_guard lock(mutex_);
  ExpirePins();
  const uint64_t bound = max_pinned_bytes();
  size_t pinned = 0;
  for (const BlockKey& key : keys) {
    const uint32_t id = FindLive(key);
    if (id == kNoBlock) continue;
    IndexEntry& entry = index_[id];
    if (entry.pinned) {
      const auto pin = pins_.find(id);
      pin_deadlines_.erase({pin->second, id});
      pin->second = std::max(pin->second, deadline);
      pin_deadlines_.insert({pin->second, id});
    } else {
      if (pinned_bytes_ + entry.raw_bytes > bound) {
        return ExhaustedError("{} bytes of the store are pinned, at most {} may be; unpin some or wait for their deadlines", pinned_bytes_, bound);
      }
      entry.pinned = true;
      pinned_bytes_ += entry.raw_bytes;
      PinTier(entry).Hold(id);
      pins_[id] = deadline;
      pin_deadlines_.insert({deadline, id});
    }
    ++pinned;
  }
  return pinned;
}

void LocalStore::Unpin(std::span<const BlockKey> keys) {
  std::lock_guard lock(mutex_);
  for (const BlockKey& key : keys) {
    const uint32_t id = index_.Find(key);
    if (id != kNoBlock && index_[id].pinned) ReleasePin(id);
  }
}

}  // namespace baton
