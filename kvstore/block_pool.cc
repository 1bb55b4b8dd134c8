// How eviction stays leaf-first at a constant cost: every parent key counts its published children (`count`) and those of
// them that are busy. A block is busy while it is referenced or any published descendant is; busy blocks cannot be given
// up. An idle block without published children is a leaf and waits in `leaves_`, ordered by when it was last used. Giving
// up a leaf may turn its parent into one, with the parent's own (older) time, so the oldest chain goes first, tail first.
#include "kvstore/block_pool.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace baton {
namespace {

/// An anonymous mapping whose pages exist only once touched.
class Arena {
 public:
  explicit Arena(MutableBytes bytes) : bytes_(bytes) {}
  Arena(Arena&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Arena& operator=(Arena&&) = delete;
  ~Arena() {
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
  }
  MutableBytes bytes() const { return bytes_; }

 private:
  MutableBytes bytes_;
};

class Pool final : public BlockPool {
 public:
  /// `owned` is the memory's mapping, or nothing where the caller keeps it.
  Pool(Arena owned, MutableBytes memory, size_t blocks, size_t block_bytes)
      : owned_(std::move(owned)), memory_(memory), block_bytes_(block_bytes), slots_(blocks) {
    free_.reserve(blocks);
    for (size_t i = blocks; i > 0; --i) free_.push_back(static_cast<uint32_t>(i - 1));  // low ids first
  }

  size_t block_bytes() const override { return block_bytes_; }
  MutableBytes arena() override { return memory_; }
  std::byte* data(BlockId id) override {
    CHECK(id.value < slots_.size());
    return memory_.data() + id.value * block_bytes_;
  }

  Result<std::vector<BlockId>> Allocate(size_t n) override;
  void Ref(BlockId id) override;
  void Unref(BlockId id) override;
  BlockId Publish(BlockId id, const BlockKey& key, const BlockKey& parent, const Digest128& digest) override;
  std::vector<BlockId> Lookup(std::span<const BlockKey> chain) override;
  size_t Peek(std::span<const BlockKey> chain) const override;
  std::optional<Digest128> DigestOf(BlockId id) const override;
  std::vector<BlockPoolEvent> DrainEvents() override;
  std::vector<BlockKey> Keys() const override;
  BlockPoolStats stats() const override;

 private:
  struct Slot {
    uint32_t refs = 0;
    bool allocated = false, published = false;
    bool idle = false;  // published and not busy
    uint64_t used = 0;  // tick of the last release
    BlockKey key, parent;
    Digest128 digest;
  };
  struct Children {
    uint32_t count = 0, busy = 0;
  };

  Slot& Live(BlockId id) {
    CHECK(id.value < slots_.size() && slots_[id.value].allocated);
    return slots_[id.value];
  }
  void TakeRef(uint32_t id);
  /// Brings `idle` of `id` and of its ancestors, as far as it changes them, in line with references and children.
  void UpdateIdle(uint32_t id);
  void EvictOldestLeaf();
  void Record(bool added, const BlockKey& key);

  const Arena owned_;
  const MutableBytes memory_;
  const size_t block_bytes_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;  // a stack: a block just freed is reused first, so untouched memory stays untouched
  std::unordered_map<BlockKey, uint32_t> published_;
  std::unordered_map<BlockKey, Children> children_;    // by parent key, published or not
  std::set<std::pair<uint64_t, uint32_t>> leaves_;     // (used, id): idle blocks without published children
  BlockEvents events_;
  uint64_t tick_ = 0;
  size_t idle_ = 0, cached_ = 0;
  uint64_t hits_ = 0, misses_ = 0, evictions_ = 0;
};

Result<std::vector<BlockId>> Pool::Allocate(size_t n) {
  std::lock_guard lock(mutex_);
  if (n > free_.size() + idle_) {
    return ExhaustedError("{} KV blocks asked, {} free and {} evictable of {}; wait for requests to end or raise the block pool's size",
                          n, free_.size(), idle_, slots_.size());
  }
  while (free_.size() < n) EvictOldestLeaf();
  std::vector<BlockId> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t id = free_.back();
    free_.pop_back();
    slots_[id].allocated = true;
    slots_[id].refs = 1;
    out.push_back(BlockId(id));
  }
  return out;
}

void Pool::TakeRef(uint32_t id) {
  Slot& slot = slots_[id];
  CHECK(slot.refs < std::numeric_limits<uint32_t>::max());
  if (slot.refs++ == 0) {
    --cached_;
    UpdateIdle(id);
  }
}

void Pool::Ref(BlockId id) {
  std::lock_guard lock(mutex_);
  Live(id);
  TakeRef(id.value);
}

void Pool::Unref(BlockId id) {
  std::lock_guard lock(mutex_);
  Slot& slot = Live(id);
  CHECK(slot.refs > 0);
  if (--slot.refs > 0) return;
  if (!slot.published) {
    slot = Slot{};
    free_.push_back(id.value);
    return;
  }
  ++cached_;
  slot.used = ++tick_;
  UpdateIdle(id.value);
}

void Pool::UpdateIdle(uint32_t id) {
  while (true) {
    Slot& slot = slots_[id];
    const auto kids = children_.find(slot.key);
    const bool has_kids = kids != children_.end() && kids->second.count > 0;
    const bool idle = slot.refs == 0 && (!has_kids || kids->second.busy == 0);
    if (idle && !has_kids) {
      leaves_.insert({slot.used, id});
    } else {
      leaves_.erase({slot.used, id});
    }
    if (idle == slot.idle) return;
    slot.idle = idle;
    idle_ += idle ? 1 : -1;
    Children& siblings = children_[slot.parent];
    siblings.busy += idle ? -1 : 1;
    const auto parent = published_.find(slot.parent);
    if (parent == published_.end() || parent->second == id) return;
    id = parent->second;
  }
}

BlockId Pool::Publish(BlockId id, const BlockKey& key, const BlockKey& parent, const Digest128& digest) {
  std::lock_guard lock(mutex_);
  Slot& slot = Live(id);
  CHECK(slot.refs > 0);
  CHECK(!(key == parent));
  const auto [it, inserted] = published_.try_emplace(key, id.value);
  if (!inserted) return BlockId(it->second);
  CHECK(!slot.published);
  slot.published = true;
  slot.key = key;
  slot.parent = parent;
  slot.digest = digest;
  Children& siblings = children_[parent];
  ++siblings.count;
  ++siblings.busy;
  if (const auto up = published_.find(parent); up != published_.end()) UpdateIdle(up->second);
  Record(true, key);
  return id;
}

void Pool::EvictOldestLeaf() {
  CHECK(!leaves_.empty());
  const uint32_t id = leaves_.begin()->second;
  leaves_.erase(leaves_.begin());
  const BlockKey key = slots_[id].key, parent = slots_[id].parent;
  slots_[id] = Slot{};
  published_.erase(key);
  free_.push_back(id);
  --idle_;
  --cached_;
  ++evictions_;
  children_.erase(key);
  const auto siblings = children_.find(parent);
  if (--siblings->second.count == 0) children_.erase(siblings);
  if (const auto up = published_.find(parent); up != published_.end()) UpdateIdle(up->second);
  Record(false, key);
}

std::vector<BlockId> Pool::Lookup(std::span<const BlockKey> chain) {
  std::lock_guard lock(mutex_);
  std::vector<BlockId> out;
  for (const BlockKey& key : chain) {
    const auto it = published_.find(key);
    if (it == published_.end()) break;
    out.push_back(BlockId(it->second));
  }
  // Deepest first: once it is referenced its ancestors are busy already, and no walk up is repeated.
  for (size_t i = out.size(); i > 0; --i) TakeRef(out[i - 1].value);
  hits_ += out.size();
  misses_ += chain.size() - out.size();
  return out;
}

size_t Pool::Peek(std::span<const BlockKey> chain) const {
  std::lock_guard lock(mutex_);
  size_t n = 0;
  while (n < chain.size() && published_.contains(chain[n])) ++n;
  return n;
}

std::optional<Digest128> Pool::DigestOf(BlockId id) const {
  std::lock_guard lock(mutex_);
  CHECK(id.value < slots_.size());
  const Slot& slot = slots_[id.value];
  if (!slot.published) return std::nullopt;
  return slot.digest;
}

void Pool::Record(bool added, const BlockKey& key) { events_.Record(added, key, 4 * slots_.size() + 1024); }

std::vector<BlockPoolEvent> Pool::DrainEvents() {
  std::lock_guard lock(mutex_);
  return events_.Drain();
}

std::vector<BlockKey> Pool::Keys() const {
  std::lock_guard lock(mutex_);
  std::vector<BlockKey> out;
  out.reserve(published_.size());
  for (const auto& [key, id] : published_) out.push_back(key);
  return out;
}

BlockPoolStats Pool::stats() const {
  std::lock_guard lock(mutex_);
  BlockPoolStats s;
  s.total = slots_.size();
  s.free = free_.size();
  s.cached = cached_;
  s.referenced = s.total - s.free - s.cached;
  s.hits = hits_;
  s.misses = misses_;
  s.evictions = evictions_;
  return s;
}

}  // namespace

Result<std::unique_ptr<BlockPool>> BlockPool::Create(size_t blocks, size_t block_bytes) {
  return Create(blocks, block_bytes, BlockPoolOptions{});
}

Result<std::unique_ptr<BlockPool>> BlockPool::Create(size_t blocks, size_t block_bytes, const BlockPoolOptions& options) {
  if (!options.memory.empty()) {
    if (block_bytes == 0 || options.memory.size() / block_bytes < blocks || blocks == 0) {
      return InvalidError("{} bytes of memory do not hold {} blocks of {} bytes", options.memory.size(), blocks, block_bytes);
    }
    return std::unique_ptr<BlockPool>(std::make_unique<Pool>(Arena({}), options.memory.first(blocks * block_bytes), blocks, block_bytes));
  }
  if (blocks == 0 || block_bytes == 0) {
    return InvalidError("a block pool of {} blocks of {} bytes: both must be above 0", blocks, block_bytes);
  }
  if (blocks >= std::numeric_limits<uint32_t>::max()) {
    return InvalidError("a block pool of {} blocks: at most {} can be numbered; take larger blocks", blocks,
                        std::numeric_limits<uint32_t>::max() - 1);
  }
  size_t bytes = 0;
  void* at = MAP_FAILED;
  errno = ENOMEM;
  if (CheckedMul(blocks, block_bytes, &bytes)) {
    at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (at == MAP_FAILED) {
    return ExhaustedError("cannot map a KV arena of {} blocks x {} bytes: {}; lower the number of blocks of the pool", blocks,
                          block_bytes, std::strerror(errno));
  }
  if (options.huge_pages) (void)madvise(at, bytes, MADV_HUGEPAGE);  // advice only: without it the pool is slower, not wrong
  const MutableBytes memory(static_cast<std::byte*>(at), bytes);
  return std::unique_ptr<BlockPool>(std::make_unique<Pool>(Arena(memory), memory, blocks, block_bytes));
}

}  // namespace baton
