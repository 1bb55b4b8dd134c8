#include "kvstore/local_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/log.h"

namespace baton {

LocalStore::LocalStore(LocalStoreParts parts)
    : config_(std::move(parts.config)),
      clock_(*parts.clock),
      files_(std::move(parts.files)),
      codec_(parts.codec),
      keys_(std::move(parts.keys)),
      folder_(std::move(parts.folder)),
      memory_(std::move(parts.memory_policy)),
      disk_(std::move(parts.disk_policy)) {
  if (config_.tenant_bytes > 0) tenants_.emplace(index_);
}

void LocalStore::OpenBooks(FileLayer& files) {
  evictions_.Open(files, config_.path + "/evictions", config_.read_only);
  if (tenants_) tenants_->Open(files, config_.path + "/tenants", config_.read_only);
}

LocalStore::~LocalStore() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  progress_.notify_all();
  if (scrubber_.joinable()) scrubber_.join();
  if (writer_.joinable()) writer_.join();
}

Status LocalStore::Start() {
  if (!folder_) return OkStatus();
  {
    std::lock_guard lock(mutex_);
    RETURN_IF_ERROR(folder_->Load(
        [this](const IndexRow& row) {
          const uint32_t id = index_.Intern(row.key);
          if (index_[id].held() || !index_.Link(id, row.parent, row.depth)) {
            forgets_.push_back({row.key, row.place, Leave::kDropped});
            index_.Release(id);
            return;
          }
          IndexEntry& entry = index_[id];
          entry.raw_bytes = row.raw_bytes;
          entry.tokens = row.tokens;
          entry.stored_at_s = row.stored_at_s;
          entry.key_slot = keys_ ? keys_->SlotOfId(row.key_id) : 0;
          if (row.depth == 0 && index_[entry.parent].key_slot == 0) index_[entry.parent].key_slot = entry.key_slot;
          AddToDisk(id, row.place);
        },
        counters_.corrupt));
    if (tenants_) CountTenants();
    last_sync_ = clock_.Now();
  }
  if (config_.read_only) return OkStatus();
  writer_ = std::thread([this] { WriterLoop(); });
  if (config_.scrub_bytes_per_s > 0) scrubber_ = std::thread([this] { ScrubLoop(); });
  return OkStatus();
}

bool LocalStore::Expired(uint32_t id) const {
  const IndexEntry& entry = index_[id];
  if (config_.ttl_s <= 0 || clock_.UnixSeconds() < entry.stored_at_s + config_.ttl_s) return false;
  return !entry.pinned || pins_.at(id) <= clock_.Now();  // a pin that is over may not have been taken off yet
}

uint32_t LocalStore::FindLive(const BlockKey& key) {
  const uint32_t id = index_.Find(key);
  if (id == kNoBlock || !index_[id].held()) return kNoBlock;
  if (!Expired(id)) return id;
  ++counters_.expired;
  evictions_.Record(key, clock_.UnixSeconds());
  Vanish(id, false);
  return kNoBlock;
}

size_t LocalStore::Lookup(std::span<const BlockKey> chain) {
  std::lock_guard lock(mutex_);
  constexpr size_t kSlotsAhead = 16, kEntriesAhead = 8;
  for (size_t i = 0; i < std::min(kSlotsAhead, chain.size()); ++i) index_.PrefetchSlot(chain[i]);
  size_t n = 0;
  for (; n < chain.size(); ++n) {
    if (n + kSlotsAhead < chain.size()) index_.PrefetchSlot(chain[n + kSlotsAhead]);
    if (n + kEntriesAhead < chain.size()) index_.PrefetchEntry(chain[n + kEntriesAhead]);
    if (FindLive(chain[n]) == kNoBlock) break;
  }
  return n;
}

void LocalStore::Touch(uint32_t id) {
  memory_.Use(id);
  disk_.Use(id);
  if (tenants_) tenants_->Use(id);
}

Status LocalStore::Miss(const BlockKey& key) {
  ++counters_.misses;
  return NotFoundError("block {} is not in the store", key.ToHex());
}

bool LocalStore::DropIfCorrupt(uint32_t id, const std::shared_ptr<const MemoryBlock>& block) {
  if (Xxh3(block->bytes()) == block->header.digest) return false;
  std::lock_guard lock(mutex_);
  ++counters_.corrupt;
  if (index_[id].memory == block) {
    // A write of it that still waits would only put the damage on disk.
    if (index_[id].dirty) {
      Vanish(id, false);
    } else {
      DropMemory(id, false);
    }
  }
  return true;
}

Status LocalStore::ReadDisk(Lock& lock, uint32_t id, MutableBytes out, BlockHeader* header) {
  const BlockKey key = index_[id].key;
  const DiskPlace place = index_[id].disk;
  const uint64_t ticket = index_[id].ticket;
  disk_.Hold(id);
  lock.unlock();
  const Status status = folder_->Read(key, place, out, header);
  lock.lock();
  const bool same = index_.Find(key) == id && index_[id].ticket == ticket && index_[id].disk == place;
  if (same) disk_.Unhold(id);
  if (status.ok()) return OkStatus();
  if (!same) return AbortedError("block {} went while it was read", key.ToHex());
  if (status.code() == StatusCode::kNotFound) {  // sealed by another's key: only a read-only store keeps such
    if (!config_.read_only) DropDisk(id, Leave::kDropped);
    return status;
  }
  ++counters_.corrupt;
  if (config_.read_only) return status;
  LOG_WARN("store {}: quarantined a block that does not verify: {}", config_.path, status.message());
  ++counters_.quarantined;
  DropDisk(id, Leave::kBad);
  return status;
}

Status LocalStore::ReadInto(const BlockKey& key, MutableBytes out, BlockHeader* header) {
  Lock lock(mutex_);
  while (true) {
    const uint32_t id = FindLive(key);
    if (id == kNoBlock) return Miss(key);
    if (index_[id].raw_bytes != out.size()) {
      return InvalidError("block {} has {} bytes, the room for it {}", key.ToHex(), index_[id].raw_bytes, out.size());
    }
    if (const auto block = index_[id].memory) {
      Touch(id);
      lock.unlock();
      const bool good = CopyWithXxh3(block->bytes(), out.data()) == block->header.digest;
      if (good && header != nullptr) *header = block->header;
      if (!good) DropIfCorrupt(id, block);
      lock.lock();
      if (!good) continue;  // it may still be on disk
      ++counters_.hits_memory;
      return OkStatus();
    }
    BlockHeader read;
    const uint64_t ticket = index_[id].ticket;
    if (!ReadDisk(lock, id, out, &read).ok()) {
      if (config_.read_only) return Miss(key);
      continue;  // it is dropped, or came anew meanwhile
    }
    ++counters_.hits_disk;
    lock.unlock();
    if (header != nullptr) *header = read;
    if (out.size() <= config_.memory_bytes) {
      const auto copy = MemoryBlock::Make(out.size());
      std::memcpy(copy->data.get(), out.data(), out.size());
      copy->header = std::move(read);
      lock.lock();
      Promote(id, ticket, copy);
    }
    return OkStatus();
  }
}

Result<BlockView> LocalStore::View(const BlockKey& key) {
  Lock lock(mutex_);
  while (true) {
    const uint32_t id = FindLive(key);
    if (id == kNoBlock) return Miss(key);
    if (const auto block = index_[id].memory) {
      Touch(id);
      lock.unlock();
      const bool bad = DropIfCorrupt(id, block);
      lock.lock();
      if (bad) continue;
      ++counters_.hits_memory;
      return BlockView{block->header, block->bytes(), false, block};
    }
    const uint64_t ticket = index_[id].ticket;
    const auto block = MemoryBlock::Make(index_[id].raw_bytes);
    if (!ReadDisk(lock, id, block->mutable_bytes(), &block->header).ok()) {
      if (config_.read_only) return Miss(key);
      continue;
    }
    ++counters_.hits_disk;
    Promote(id, ticket, block);
    return BlockView{block->header, block->bytes(), true, block};
  }
}

Result<StoredBlock> LocalStore::Read(const BlockKey& key) {
  ASSIGN_OR_RETURN(BlockView view, View(key));
  return StoredBlock{std::move(view.header), std::vector<std::byte>(view.bytes.begin(), view.bytes.end()), view.from_disk};
}

void LocalStore::Promote(uint32_t id, uint64_t ticket, std::shared_ptr<const MemoryBlock> block) {
  if (index_.Find(block->header.key) != id || index_[id].ticket != ticket || !index_[id].disk.on_disk()) return;
  disk_.Use(id);
  if (index_[id].memory || block->size > config_.memory_bytes || !TryMakeRoom(block->size, block->header.parent)) return;
  index_[id].memory = std::move(block);
  memory_.Add(id, Traits(id, index_[id].raw_bytes));
}

Status LocalStore::Put(const BlockHeader& header, Bytes bytes, Durability durability) {
  if (config_.read_only) return InvalidError("the store {} is open for reading only", config_.path);
  if (bytes.empty() || bytes.size() > DiskFolder::kMaxBlockBytes) {
    return InvalidError("a block of {} bytes; 1 to {} can be stored", bytes.size(), DiskFolder::kMaxBlockBytes);
  }
  if (config_.block_bytes != 0 && bytes.size() != config_.block_bytes) {
    return InvalidError("block {} has {} bytes, this store's blocks have {}", header.key.ToHex(), bytes.size(), config_.block_bytes);
  }
  if (header.token_ids.size() > BlockHeader::kMaxTokenIds || header.extra.size() > BlockHeader::kMaxExtraBytes) {
    return InvalidError("block {} has {} token ids and {} bytes of extra; at most {} and {} can be stored", header.key.ToHex(),
                        header.token_ids.size(), header.extra.size(), BlockHeader::kMaxTokenIds, BlockHeader::kMaxExtraBytes);
  }
  if (durability != Durability::kMemory && !folder_) return InvalidError("a store without a folder keeps nothing durably; set store.path");
  {
    Lock lock(mutex_);
    if (const uint32_t id = FindLive(header.key); id != kNoBlock) return PutAgain(lock, id, durability);
  }
  const auto block = MemoryBlock::Make(bytes.size());
  block->header = header;
  if (!(CopyWithXxh3(bytes, block->data.get()) == header.digest)) {
    return InvalidError("block {}: its digest does not match its bytes; it was changed on the way here", header.key.ToHex());
  }
  Lock lock(mutex_);
  const bool in_memory = bytes.size() <= config_.memory_bytes;
  if (!in_memory && !folder_) return ExhaustedError("a block of {} bytes does not fit in store.memory_bytes {}", bytes.size(), config_.memory_bytes);
  if (in_memory) RETURN_IF_ERROR(MakeRoom(lock, bytes.size(), header.parent));
  if (const uint32_t id = FindLive(header.key); id != kNoBlock) return PutAgain(lock, id, durability);
  uint64_t ticket = 0;
  RETURN_IF_ERROR(MakeTenantRoom(header, bytes.size()));
  RETURN_IF_ERROR(Insert(block, &ticket));
  if (in_memory && durability == Durability::kMemory) return OkStatus();
  return WaitTicket(lock, ticket, durability == Durability::kSynced ? durability : Durability::kWritten);
}

Status LocalStore::Insert(const std::shared_ptr<MemoryBlock>& block, uint64_t* ticket) {
  const BlockHeader& header = block->header;
  const uint32_t id = index_.Intern(header.key);
  if (!index_.Link(id, header.parent, header.depth)) {
    index_.Release(id);
    return InvalidError("block {} of depth {} does not fit the chain it names: its parent or children have other depths", header.key.ToHex(), header.depth);
  }
  IndexEntry& entry = index_[id];
  if (entry.dirty) {  // the same block is on its way to disk for another caller
    *ticket = entry.ticket;
    ++counters_.duplicates;
    return OkStatus();
  }
  ++counters_.puts;
  entry.raw_bytes = static_cast<uint32_t>(block->size);
  entry.tokens = header.tokens;
  entry.stored_at_s = static_cast<uint32_t>(std::ceil(clock_.UnixSeconds()));
  if (block->size <= config_.memory_bytes) {
    entry.memory = block;
    memory_.Add(id, Traits(id, block->size));
    Record(true, header.key);
  }
  ChooseKey(id, header.tenant);
  if (folder_) Enqueue(id, block);
  if (tenants_) tenants_->Add(id, block->size);
  evictions_.Forget(header.key);
  *ticket = entry.ticket;
  return OkStatus();
}

/// Within a tenant's quota its own blocks make room, so that it never evicts another's beyond it.
Status LocalStore::MakeTenantRoom(const BlockHeader& header, uint64_t bytes) {
  if (!tenants_) return OkStatus();
  if (bytes > config_.tenant_bytes) {
    return ExhaustedError("a block of {} bytes is more than a tenant may have in the store ({}, store.tenant_bytes)", bytes, config_.tenant_bytes);
  }
  if (header.depth == 0) tenants_->Name(header.parent, header.tenant);
  const TenantBooks::Tenant tenant = tenants_->Of(header.parent);
  const auto spared = [&](uint32_t id) { return index_[id].pinned || index_[id].key == header.parent; };
  ExpirePins();
  while (tenants_->bytes(tenant) + bytes > config_.tenant_bytes) {
    const std::optional<uint32_t> victim = tenants_->Victim(tenant, spared);
    if (!victim) {
      return ExhaustedError("tenant '{}' may have {} bytes in the store (store.tenant_bytes), and all that it has are held or lead to this block",
                            tenants_->name(tenant), config_.tenant_bytes);
    }
    ++counters_.evictions;
    evictions_.Record(index_[*victim].key, clock_.UnixSeconds());
    Vanish(*victim, false);
  }
  return OkStatus();
}

void LocalStore::CountTenants() {
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < index_.bound(); ++id) {
    if (index_[id].held()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(), [this](uint32_t a, uint32_t b) { return std::tie(index_[a].depth, index_[a].stored_at_s) < std::tie(index_[b].depth, index_[b].stored_at_s); });
  for (const uint32_t id : ids) tenants_->Add(id, index_[id].raw_bytes);
}

Status LocalStore::PutAgain(Lock& lock, uint32_t id, Durability durability) {
  ++counters_.duplicates;
  Touch(id);
  if (!folder_) return OkStatus();
  const IndexEntry& entry = index_[id];
  if (!entry.disk.on_disk() && !entry.dirty) Enqueue(id, entry.memory);  // an earlier write failed, or it was evicted there
  return durability == Durability::kMemory ? OkStatus() : WaitTicket(lock, index_[id].ticket, durability);
}

/// A chain is sealed with one key: the tenant's whom its first block names.
void LocalStore::ChooseKey(uint32_t id, const std::string& tenant) {
  if (!keys_) return;
  IndexEntry& entry = index_[id];
  IndexEntry& parent = index_[entry.parent];
  entry.key_slot = tenant.empty() && parent.key_slot != 0 ? parent.key_slot : keys_->SlotOf(tenant);
  if (entry.depth == 0) parent.key_slot = entry.key_slot;
}

void LocalStore::Enqueue(uint32_t id, std::shared_ptr<const MemoryBlock> block) {
  IndexEntry& entry = index_[id];
  entry.dirty = true;
  ++dirty_blocks_;
  entry.ticket = ++last_ticket_;
  if (entry.memory) memory_.Hold(id);
  queue_.push_back({id, entry.ticket, std::move(block), entry.stored_at_s, entry.key_slot});
  wake_.notify_one();
}

/// The block to come keeps its parent, and so its whole chain, unless that is on disk: without it nothing could lead to it.
bool LocalStore::TryMakeRoom(uint64_t bytes, const BlockKey& parent) {
  ExpirePins();
  const uint32_t kept = index_.Find(parent);
  const bool hold = kept != kNoBlock && memory_.Has(kept) && !index_[kept].disk.on_disk();
  if (hold) memory_.Hold(kept);
  while (memory_.bytes() + bytes > config_.memory_bytes) {
    const std::optional<uint32_t> victim = memory_.Victim();
    if (!victim) break;
    DropMemory(*victim, true);
  }
  if (hold) memory_.Unhold(kept);
  return memory_.bytes() + bytes <= config_.memory_bytes;
}

Status LocalStore::MakeRoom(Lock& lock, uint64_t bytes, const BlockKey& parent) {
  const auto deadline = std::chrono::steady_clock::now() + FromSeconds(config_.wait_s);
  while (!TryMakeRoom(bytes, parent)) {
    if (dirty_blocks_ == 0) return ExhaustedError("the store's memory is full of pinned blocks; unpin some or raise store.memory_bytes");
    if (progress_.wait_until(lock, deadline) == std::cv_status::timeout) {
      return DeadlineError("the store's disk did not take {} waiting blocks within {} s", dirty_blocks_, config_.wait_s);
    }
  }
  return OkStatus();
}

Status LocalStore::WaitTicket(Lock& lock, uint64_t ticket, Durability durability) {
  const bool synced = durability == Durability::kSynced;
  if (synced && ticket > sync_wanted_) {
    sync_wanted_ = ticket;
    wake_.notify_one();
  }
  const uint64_t& reached = synced ? synced_ticket_ : written_ticket_;
  if (!progress_.wait_for(lock, FromSeconds(config_.wait_s), [&] { return reached >= ticket; })) {
    return DeadlineError("the store's disk did not finish within {} s", config_.wait_s);
  }
  for (const Failure& failure : failures_) {
    if (failure.first <= ticket && ticket <= failure.last) return failure.status;
  }
  return OkStatus();
}

Status LocalStore::Flush() {
  if (!folder_ || config_.read_only) return OkStatus();
  Lock lock(mutex_);
  const uint64_t ticket = last_ticket_, since = flushed_ticket_;
  if (const Status status = WaitTicket(lock, ticket, Durability::kSynced); status.code() == StatusCode::kDeadline) return status;
  flushed_ticket_ = std::max(flushed_ticket_, ticket);
  for (const Failure& failure : failures_) {
    if (failure.last > since && failure.first <= ticket) return failure.status;
  }
  return OkStatus();
}

BlockTraits LocalStore::Traits(uint32_t id, uint64_t bytes) const {
  const IndexEntry& entry = index_[id];
  return {entry.key.Prefix64(), entry.parent, entry.depth, bytes};
}

void LocalStore::AddToDisk(uint32_t id, const DiskPlace& place) {
  if (index_[id].pinned) memory_.Unhold(id);  // the pin moves to the tier that lasts
  index_[id].disk = place;
  disk_.Add(id, Traits(id, uint64_t{place.pages()} * kPageBytes));
  if (index_[id].pinned) disk_.Hold(id);
}

void LocalStore::DropMemory(uint32_t id, bool evicted) {
  memory_.Remove(id, evicted);
  index_[id].memory.reset();
  if (!index_[id].held() && !index_[id].dirty) Gone(id, evicted);
}

void LocalStore::DropDisk(uint32_t id, Leave how) {
  IndexEntry& entry = index_[id];
  const bool evicted = how == Leave::kEvicted;
  disk_.Remove(id, evicted);
  if (!evicted) {  // the evicting writer forgets it itself, within its batch
    forgets_.push_back({entry.key, entry.disk, how});
    wake_.notify_one();
  }
  entry.disk = {};
  if (entry.pinned && entry.memory) memory_.Hold(id);
  if (!entry.held() && !entry.dirty) Gone(id, evicted);
}

void LocalStore::Vanish(uint32_t id, bool wipe) {
  IndexEntry& entry = index_[id];
  if (entry.dirty) --dirty_blocks_;
  entry.dirty = false;  // its write, if it waits, finds that it is not wanted
  const bool on_disk = entry.disk.on_disk(), in_memory = entry.memory != nullptr;
  if (in_memory) DropMemory(id, false);
  if (on_disk) DropDisk(id, wipe ? Leave::kWiped : Leave::kDropped);
  if (!in_memory && !on_disk) Forgotten(id);  // it was on its way to disk only
}

void LocalStore::Gone(uint32_t id, bool evicted) {
  if (evicted) {
    ++counters_.evictions;
    counters_.evicted_age_s = std::max(0.0, clock_.UnixSeconds() - index_[id].stored_at_s);
    evictions_.Record(index_[id].key, clock_.UnixSeconds());
  }
  Record(false, index_[id].key);
  if (index_[id].pinned) ReleasePin(id);
  index_[id].ticket = 0;
  Forgotten(id);
}

void LocalStore::Forgotten(uint32_t id) {
  if (tenants_) tenants_->Remove(id);
  index_.Release(id);
}

}  // namespace baton
