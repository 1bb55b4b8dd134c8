#include "kvstore/cache_policy.h"

#include <algorithm>

#include "kvstore/cost_policy.h"
#include "kvstore/ghost_list.h"
#include "kvstore/paged_array.h"
#include "kvstore/ranked_set.h"

namespace baton {
namespace {

constexpr size_t kLeastGhosts = 1024;

class Lru final : public CachePolicy {
 public:
  std::string_view name() const override { return "lru"; }
  void Added(uint32_t id, const BlockTraits&) override { blocks_.Make(id) = {++tick_, false}; }
  void Used(uint32_t id) override {
    Block& block = blocks_[id];
    if (block.candidate) candidates_.Set(id, block.used, false);
    block.used = ++tick_;
    if (block.candidate) candidates_.Set(id, block.used, true);
  }
  void SetCandidate(uint32_t id, bool candidate) override {
    blocks_[id].candidate = candidate;
    candidates_.Set(id, blocks_[id].used, candidate);
  }
  void Removed(uint32_t id, bool) override {
    if (blocks_[id].candidate) SetCandidate(id, false);
    blocks_.Erase(id);
  }
  std::optional<uint32_t> Victim() override {
    if (candidates_.empty()) return std::nullopt;
    return candidates_.front();
  }

 private:
  struct Block {
    int64_t used = 0;
    bool candidate = false;
  };
  PagedArray<Block> blocks_;
  RankedSet candidates_;
  int64_t tick_ = 0;
};

class S3Fifo final : public CachePolicy {
 public:
  std::string_view name() const override { return "s3fifo"; }
  void Added(uint32_t id, const BlockTraits& traits) override {
    const bool main = ghosts_.Take(traits.key_hash).has_value();
    blocks_.Make(id) = {traits.key_hash, traits.bytes, ++tick_, 0, main, false};
    bytes_[main] += traits.bytes;
    ++count_;
  }
  void Used(uint32_t id) override { blocks_[id].uses = std::min<uint8_t>(blocks_[id].uses + 1, kMostUses); }
  void SetCandidate(uint32_t id, bool candidate) override {
    Block& block = blocks_[id];
    block.candidate = candidate;
    candidates_[block.main].Set(id, block.entered, candidate);
  }
  void Removed(uint32_t id, bool evicted) override {
    Block& block = blocks_[id];
    if (block.candidate) SetCandidate(id, false);
    bytes_[block.main] -= block.bytes;
    --count_;
    if (evicted && !block.main) ghosts_.Remember(block.key_hash, true, std::max(count_, kLeastGhosts));
    blocks_.Erase(id);
  }
  std::optional<uint32_t> Victim() override {
    while (!candidates_[0].empty() || !candidates_[1].empty()) {
      const bool small_is_full = bytes_[0] * kSmallShare > bytes_[0] + bytes_[1];
      const bool main = candidates_[0].empty() || (!small_is_full && !candidates_[1].empty());
      const uint32_t id = candidates_[main].front();
      Block& block = blocks_[id];
      if (block.uses == 0) return id;
      Requeue(id, main ? block.uses - 1 : 0);
    }
    return std::nullopt;
  }

 private:
  static constexpr uint8_t kMostUses = 3;
  static constexpr uint64_t kSmallShare = 10;  // the small queue's tenth of the bytes
  struct Block {
    uint64_t key_hash = 0, bytes = 0;
    int64_t entered = 0;
    uint8_t uses = 0;
    bool main = false, candidate = false;
  };
  /// To the end of the main queue.
  void Requeue(uint32_t id, uint8_t uses) {
    Block& block = blocks_[id];
    candidates_[block.main].Set(id, block.entered, false);
    bytes_[block.main] -= block.bytes;
    block.main = true;
    bytes_[1] += block.bytes;
    block.entered = ++tick_;
    block.uses = uses;
    candidates_[1].Set(id, block.entered, true);
  }

  PagedArray<Block> blocks_;
  RankedSet candidates_[2];  // small, main: each by when it entered the queue
  uint64_t bytes_[2] = {0, 0};
  size_t count_ = 0;
  int64_t tick_ = 0;
  GhostList<bool> ghosts_;  // the value says nothing
};

}  // namespace

Result<std::unique_ptr<CachePolicy>> MakeCachePolicy(std::string_view name) {
  if (name == "lru") return std::unique_ptr<CachePolicy>(std::make_unique<Lru>());
  if (name == "s3fifo") return std::unique_ptr<CachePolicy>(std::make_unique<S3Fifo>());
  if (name == "cost") return std::unique_ptr<CachePolicy>(std::make_unique<CostPolicy>());
  return InvalidError("cache policy '{}' is unknown; use lru, s3fifo or cost", name);
}

}  // namespace baton
