#include "app/sim/store.h"

#include <utility>

#include "base/check.h"
#include "kvstore/memory_block.h"

namespace baton {
namespace {

std::unique_ptr<CachePolicy> Policy(std::string_view name) {
  auto policy = MakeCachePolicy(name);
  CHECK(policy.ok());
  return std::move(*policy);
}
/// What stands for "in the tier" in the index's entries: it keeps an entry as long as it has one of the two.
const std::shared_ptr<const MemoryBlock>& AnyBlock() {
  static const std::shared_ptr<const MemoryBlock> block = MemoryBlock::Make(1);
  return block;
}
constexpr DiskPlace kAnyPlace{.stored_bytes = 1};

}  // namespace

Result<std::unique_ptr<SimStore>> SimStore::Create(uint64_t memory_blocks, uint64_t disk_blocks, std::string_view policy) {
  RETURN_IF_ERROR(MakeCachePolicy(policy).status());
  return std::make_unique<SimStore>(memory_blocks, disk_blocks, policy);
}

SimStore::SimStore(uint64_t memory_blocks, uint64_t disk_blocks, std::string_view policy)
    : memory_capacity_(memory_blocks), disk_capacity_(disk_blocks), memory_(Policy(policy)), disk_(Policy(policy)) {}

uint32_t SimStore::FindHeld(const BlockKey& key) const {
  const uint32_t id = index_.Find(key);
  return id != kNoBlock && Held(id) ? id : kNoBlock;
}

size_t SimStore::Lookup(std::span<const BlockKey> chain) const {
  size_t n = 0;
  while (n < chain.size() && FindHeld(chain[n]) != kNoBlock) ++n;
  return n;
}

void SimStore::Mark(uint32_t id) { changed_.insert(index_[id].key); }

void SimStore::Drop(uint32_t id, bool from_memory, bool evicted) {
  Entry& entry = entries_[id];
  if (from_memory) {
    memory_.Remove(id, evicted);
    entry.in_memory = false;
    index_[id].memory.reset();
  } else {
    disk_.Remove(id, evicted);
    entry.on_disk = false;
    index_[id].disk = {};
  }
  if (Held(id)) return;
  evictions_ += evicted ? 1 : 0;
  Mark(id);
  index_.Release(id);
}

/// As LocalStore: the block to come keeps its parent, in memory unless that is on disk.
bool SimStore::MakeRoom(TierLedger& tier, uint64_t capacity, uint32_t parent) {
  const bool hold = parent != kNoBlock && tier.Has(parent) && (&tier == &disk_ || !entries_[parent].on_disk);
  if (hold) tier.Hold(parent);
  while (tier.blocks() + 1 > capacity) {
    const auto victim = tier.Victim();
    if (!victim) break;
    Drop(*victim, &tier == &memory_, true);
  }
  if (hold) tier.Unhold(parent);
  return tier.blocks() + 1 <= capacity;
}

SimTier SimStore::Read(const BlockKey& key) {
  const uint32_t id = FindHeld(key);
  if (id == kNoBlock) return SimTier::kNone;
  if (entries_[id].in_memory) {
    memory_.Use(id);
    disk_.Use(id);
    return SimTier::kMemory;
  }
  disk_.Use(id);
  if (memory_capacity_ > 0 && MakeRoom(memory_, memory_capacity_, index_[id].parent)) {
    const IndexEntry& entry = index_[id];
    index_[id].memory = AnyBlock();
    entries_[id].in_memory = true;
    memory_.Add(id, {entry.key.Prefix64(), entry.parent, entry.depth, 1});
  }
  return SimTier::kDisk;
}

bool SimStore::PutOne(const BlockKey& key, const BlockKey& parent, uint32_t depth) {
  if (const uint32_t id = FindHeld(key); id != kNoBlock) {
    memory_.Use(id);
    disk_.Use(id);
    return true;
  }
  if (memory_capacity_ > 0 && !MakeRoom(memory_, memory_capacity_, index_.Find(parent))) return false;
  const uint32_t id = index_.Intern(key);
  if (!index_.Link(id, parent, depth)) {
    index_.Release(id);
    return false;
  }
  if (id >= entries_.size()) entries_.resize(id + 1);
  const BlockTraits traits{key.Prefix64(), index_[id].parent, depth, 1};
  if (memory_capacity_ > 0) {
    index_[id].memory = AnyBlock();
    entries_[id].in_memory = true;
    memory_.Add(id, traits);
    memory_.Hold(id);  // until it is on disk
  }
  if (disk_capacity_ > 0 && MakeRoom(disk_, disk_capacity_, traits.parent)) {
    index_[id].disk = kAnyPlace;
    entries_[id].on_disk = true;
    disk_.Add(id, traits);
  }
  if (entries_[id].in_memory) memory_.Unhold(id);
  if (Held(id)) Mark(id);
  else index_.Release(id);
  return true;
}

bool SimStore::Put(std::span<const BlockKey> chain, size_t from) {
  for (size_t i = from; i < chain.size(); ++i) {
    if (!PutOne(chain[i], i == 0 ? BlockKey() : chain[i - 1], static_cast<uint32_t>(i))) return false;
  }
  return true;
}

void SimStore::Restart() {
  changed_.clear();
  for (uint32_t id = 0; id < entries_.size(); ++id) {
    if (entries_[id].in_memory) Drop(id, true, false);
    if (Held(id)) Mark(id);
  }
}

std::vector<HeldChange> SimStore::DrainChanges() {
  std::vector<HeldChange> changes;
  changes.reserve(changed_.size());
  for (const BlockKey& key : changed_) changes.push_back({FindHeld(key) != kNoBlock, key});
  changed_.clear();
  return changes;
}

}  // namespace baton
