// What operators ask of a store.
#include <algorithm>

#include "kvstore/local_store.h"

namespace baton {

Status LocalStore::Remove(const BlockKey& key) {
  if (config_.read_only) return InvalidError("the store {} is open for reading only", config_.path);
  Lock lock(mutex_);
  const uint32_t id = index_.Find(key);
  if (id == kNoBlock || (!index_[id].held() && !index_[id].dirty)) return NotFoundError("block {} is not in the store", key.ToHex());
  Vanish(id, true);
  if (!folder_) return OkStatus();
  return WaitTicket(lock, ++last_ticket_, Durability::kSynced);
}

std::vector<BlockStoreEvent> LocalStore::DrainEvents() {
  std::lock_guard lock(mutex_);
  return events_.Drain();
}

std::vector<BlockKey> LocalStore::Keys() const {
  std::lock_guard lock(mutex_);
  std::vector<BlockKey> out;
  for (uint32_t id = 0; id < index_.bound(); ++id) {
    if (index_[id].held() && !Expired(id)) out.push_back(index_[id].key);
  }
  return out;
}

Result<BlockHeader> LocalStore::Peek(const BlockKey& key) {
  Lock lock(mutex_);
  while (true) {
    const uint32_t id = FindLive(key);
    if (id == kNoBlock) return NotFoundError("block {} is not in the store", key.ToHex());
    if (const auto block = index_[id].memory) return block->header;
    BlockHeader header;
    std::vector<std::byte> bytes(index_[id].raw_bytes);
    if (ReadDisk(lock, id, bytes, &header).ok()) return header;
    if (config_.read_only) return NotFoundError("block {} does not verify", key.ToHex());
  }
}

std::optional<double> LocalStore::EvictedAt(const BlockKey& key) const {
  std::lock_guard lock(mutex_);
  return evictions_.Find(key);
}

std::map<std::string, TenantUse> LocalStore::tenants() const {
  std::lock_guard lock(mutex_);
  return tenants_ ? tenants_->All() : std::map<std::string, TenantUse>();
}

std::vector<BlockListing> LocalStore::List() const {
  std::lock_guard lock(mutex_);
  std::vector<BlockListing> out;
  for (uint32_t id = 0; id < index_.bound(); ++id) {
    const IndexEntry& entry = index_[id];
    if (!entry.held() || Expired(id)) continue;
    const uint64_t disk_bytes = entry.disk.on_disk() ? uint64_t{entry.disk.pages()} * kPageBytes : 0;
    out.push_back({entry.key, index_[entry.parent].key, entry.tokens, entry.depth, entry.raw_bytes, disk_bytes, entry.memory != nullptr,
                   static_cast<double>(entry.stored_at_s)});
  }
  return out;
}

BlockStoreStats LocalStore::stats() const {
  std::lock_guard lock(mutex_);
  BlockStoreStats out = counters_;
  out.blocks_memory = memory_.blocks();
  out.bytes_memory = memory_.bytes();
  out.blocks_disk = disk_.blocks();
  out.bytes_disk = disk_.bytes();
  out.blocks_dirty = dirty_blocks_;
  out.pinned = pins_.size();
  return out;
}

std::string LocalStore::identity() const { return folder_ ? folder_->identity() : config_.identity; }

Result<ScrubReport> LocalStore::Scrub(uint64_t bytes_per_s, const std::function<bool()>& stop) {
  ScrubReport report;
  std::vector<BlockKey> keys;
  Lock lock(mutex_);
  for (uint32_t id = 0; id < index_.bound(); ++id) {
    if (index_[id].disk.on_disk()) keys.push_back(index_[id].key);
  }
  const Instant begin = clock_.Now();
  std::vector<std::byte> buffer;
  for (const BlockKey& key : keys) {
    const uint32_t id = index_.Find(key);
    if (id == kNoBlock || !index_[id].disk.on_disk()) continue;
    buffer.resize(index_[id].raw_bytes);
    const Status status = ReadDisk(lock, id, buffer, nullptr);
    ++report.checked;
    ++counters_.scrubbed;
    report.bytes += buffer.size();
    if (status.code() == StatusCode::kNotFound) {
      ++report.locked;
    } else if (!status.ok() && status.code() != StatusCode::kAborted) {
      ++report.corrupt;
      report.corrupt_keys.push_back(key);
    }
    while (stop == nullptr || !stop()) {
      const Duration ahead = bytes_per_s == 0 ? Duration(0)
                                              : FromSeconds(static_cast<double>(report.bytes) / static_cast<double>(bytes_per_s)) - (clock_.Now() - begin);
      if (ahead <= Duration(0)) break;
      progress_.wait_for(lock, std::min<Duration>(ahead, std::chrono::milliseconds(50)));
    }
    if (stop != nullptr && stop()) break;
  }
  return report;
}

void LocalStore::ScrubLoop() {
  for (bool stop = false; !stop;) {
    (void)Scrub(config_.scrub_bytes_per_s, [this] { return stop_; });  // asked with the mutex held
    Lock lock(mutex_);
    stop = progress_.wait_for(lock, FromSeconds(config_.scrub_pause_s), [this] { return stop_; });
  }
}

Result<GcReport> LocalStore::Gc() {
  if (config_.read_only) return InvalidError("the store {} is open for reading only", config_.path);
  GcReport report;
  {
    Lock lock(mutex_);
    for (uint32_t id = 0; id < index_.bound(); ++id) {
      if (!index_[id].held() || !Expired(id)) continue;
      Vanish(id, false);
      ++report.expired;
      ++counters_.expired;
    }
    if (!folder_) return report;
    RETURN_IF_ERROR(WaitTicket(lock, ++last_ticket_, Durability::kSynced));
  }
  std::lock_guard folder_lock(folder_mutex_);
  ASSIGN_OR_RETURN(report.freed_bytes, folder_->Shrink());
  return report;
}

}  // namespace baton
