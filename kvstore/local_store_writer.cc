// The writer's thread: batches from the queue to the folder, and eviction there.
#include <algorithm>

#include "base/log.h"
#include "kvstore/local_store.h"

namespace baton {
namespace {
constexpr uint64_t kBatchBytes = 32_MiB;  // bounds what one sync waits for
constexpr size_t kMostFailures = 1024;
}  // namespace

void LocalStore::WriterLoop() {
  Lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, FromSeconds(config_.sync_interval_s),
                   [&] { return stop_ || !queue_.empty() || !forgets_.empty() || sync_wanted_ > synced_ticket_; });
    const Batch batch = TakeBatch();
    const EvictionLog::Pending evicted = evictions_.Take();
    if (batch.sync || batch.upto > written_ticket_ || !batch.forgets.empty()) {
      lock.unlock();
      RunBatch(batch);
      lock.lock();
    }
    if (!evicted.entries.empty()) {
      lock.unlock();
      evictions_.Write(evicted);
      lock.lock();
    }
    if (stop_ && queue_.empty() && forgets_.empty()) return;
  }
}

LocalStore::Batch LocalStore::TakeBatch() {
  Batch batch;
  const uint64_t most = std::min<uint64_t>(kBatchBytes, folder_->capacity_bytes() / 4);
  uint64_t bytes = 0;
  while (!queue_.empty() && (batch.writes.empty() || bytes + queue_.front().block->size <= most)) {
    if (Wanted(queue_.front())) {
      bytes += queue_.front().block->size;
      batch.writes.push_back(std::move(queue_.front()));
    }
    queue_.pop_front();
  }
  batch.forgets.swap(forgets_);
  batch.upto = queue_.empty() ? last_ticket_ : queue_.front().ticket - 1;
  const bool wanted = sync_wanted_ > synced_ticket_ && (batch.upto >= sync_wanted_ || queue_.empty());
  const bool due = batch.upto > synced_ticket_ && clock_.Now() - last_sync_ >= FromSeconds(config_.sync_interval_s);
  batch.sync = wanted || due || (stop_ && queue_.empty());
  return batch;
}

bool LocalStore::Wanted(const WriteOp& op) const {
  const uint32_t id = index_.Find(op.block->header.key);
  return id == op.id && index_[id].dirty && index_[id].ticket == op.ticket;
}

void LocalStore::RunBatch(const Batch& batch) {
  std::lock_guard folder_lock(folder_mutex_);
  for (const ForgetOp& op : batch.forgets) {
    if (op.how == Leave::kBad) folder_->Quarantine(op.key, op.place);
    else folder_->Forget(op.key, op.place, op.how == Leave::kWiped);
  }
  std::vector<std::vector<std::byte>> packed(batch.writes.size());
  uint64_t pages = 0;
  for (size_t i = 0; i < batch.writes.size(); ++i) {
    const MemoryBlock& block = *batch.writes[i].block;
    packed[i] = Compress(codec_, block.bytes());
    pages += RecordHeaderPages(block.header, keys_ != nullptr) + CeilDiv(packed[i].empty() ? block.size : packed[i].size(), kPageBytes);
  }
  MakeDiskRoom(batch, pages);
  std::vector<Result<IndexRow>> results;
  std::vector<IndexRow> rows;
  for (size_t i = 0; i < batch.writes.size(); ++i) {
    const bool plain = packed[i].empty();
    results.push_back(WriteBlock(batch.writes[i], plain ? batch.writes[i].block->bytes() : Bytes(packed[i]), plain ? Codec::kNone : codec_));
    if (results.back().ok()) rows.push_back(*results.back());
  }
  const Status committed = folder_->Commit(rows, batch.sync);
  Lock lock(mutex_);
  for (size_t i = 0; i < batch.writes.size(); ++i) {
    Finish(batch.writes[i], committed.ok() || !results[i].ok() ? results[i] : Result<IndexRow>(committed));
  }
  if (!committed.ok()) {
    LOG_WARN("store {}: blocks could not be kept on disk: {}", config_.path, committed.message());
    Fail(synced_ticket_ + 1, batch.upto, committed);
  }
  written_ticket_ = std::max(written_ticket_, batch.upto);
  if (batch.sync) {
    synced_ticket_ = std::max(synced_ticket_, batch.upto);
    last_sync_ = clock_.Now();
  }
  progress_.notify_all();
}

/// What the batch's blocks follow on: they would be orphans without it.
std::vector<LocalStore::DiskHold> LocalStore::HoldParents(const Batch& batch) {
  Lock lock(mutex_);
  std::vector<DiskHold> holds;
  for (const WriteOp& op : batch.writes) {
    const uint32_t parent = Wanted(op) ? index_[op.id].parent : kNoBlock;
    if (parent == kNoBlock || !disk_.Has(parent)) continue;
    disk_.Hold(parent);
    holds.push_back({parent, index_[parent].key, index_[parent].disk});
  }
  return holds;
}

void LocalStore::Unhold(const std::vector<DiskHold>& holds) {
  Lock lock(mutex_);
  for (const DiskHold& hold : holds) {
    // A block that was removed meanwhile took its holds with it.
    if (index_.Find(hold.key) == hold.id && index_[hold.id].disk == hold.place) disk_.Unhold(hold.id);
  }
}

void LocalStore::MakeDiskRoom(const Batch& batch, uint64_t pages) {
  if (uint64_t{folder_->free_pages()} + folder_->freed_pages() < pages) {
    const std::vector<DiskHold> holds = HoldParents(batch);
    while (uint64_t{folder_->free_pages()} + folder_->freed_pages() < pages && EvictFromDisk()) {
    }
    Unhold(holds);
  }
  if (folder_->free_pages() < pages && folder_->freed_pages() > 0) (void)folder_->Commit({}, true);  // an error shows at the batch's own commit
}

bool LocalStore::EvictFromDisk() {
  BlockKey key;
  DiskPlace place;
  {
    Lock lock(mutex_);
    ExpirePins();
    const std::optional<uint32_t> victim = disk_.Victim();
    if (!victim) return false;
    key = index_[*victim].key;
    place = index_[*victim].disk;
    DropDisk(*victim, Leave::kEvicted);
  }
  folder_->Forget(key, place, false);
  return true;
}

std::optional<uint32_t> LocalStore::AllocatePages(uint32_t pages) {
  // Where compressed blocks have left no gap long enough, ever more must go until one opens.
  for (uint64_t more = pages;; more *= 2) {
    if (const auto page = folder_->Allocate(pages)) return page;
    const uint64_t wanted = folder_->freed_pages() + more;
    while (folder_->freed_pages() < wanted && EvictFromDisk()) {
    }
    if (folder_->freed_pages() == 0 || !folder_->Commit({}, true).ok()) return std::nullopt;
  }
}

Result<IndexRow> LocalStore::WriteBlock(const WriteOp& op, Bytes payload, Codec codec) {
  RecordHeader header;
  header.block = op.block->header;
  header.codec = codec;
  header.raw_bytes = static_cast<uint32_t>(op.block->size);
  header.stored_at_s = op.stored_at_s;
  const auto pages = static_cast<uint32_t>(RecordHeaderPages(header.block, op.key_slot != 0) + CeilDiv(payload.size(), kPageBytes));
  const std::optional<uint32_t> page = AllocatePages(pages);
  if (!page) {
    return ExhaustedError("no room for block {} ({} pages) within store.disk_bytes {}: what is there is pinned or being read; raise it",
                          header.block.key.ToHex(), pages, config_.disk_bytes);
  }
  auto row = folder_->Write(header, payload, *page, keys_ ? keys_->at(op.key_slot) : nullptr);
  if (!row.ok()) folder_->Unallocate(*page, pages);
  return row;
}

void LocalStore::Finish(const WriteOp& op, const Result<IndexRow>& row) {
  const BlockKey& key = op.block->header.key;
  const uint32_t id = op.id;
  if (!row.ok()) {
    ++counters_.dropped;
    Fail(op.ticket, op.ticket, row.status());
  }
  if (!Wanted(op)) {
    if (row.ok()) forgets_.push_back({key, row->place, Leave::kWiped});
    return;
  }
  IndexEntry& entry = index_[id];
  entry.dirty = false;
  --dirty_blocks_;
  if (entry.memory) memory_.Unhold(id);
  if (row.ok()) {
    AddToDisk(id, row->place);
    if (!entry.memory) Record(true, key);
  } else if (!entry.memory) {
    Forgotten(id);
  }
}

void LocalStore::Fail(uint64_t first, uint64_t last, const Status& status) {
  if (first > last) return;
  failures_.push_back({first, last, status});
  if (failures_.size() > kMostFailures) failures_.pop_front();
}

}  // namespace baton
