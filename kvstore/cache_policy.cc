#include "kvstore/cache_policy.h"

#include <algorithm>
#include <deque>
#include <set>
#include <unordered_map>
#include <utility>

namespace baton {
namespace {

/// Candidates by a rank; the lowest goes first, the lower id among equals.
class RankedSet {
 public:
  void Set(uint32_t id, int64_t rank, bool in) {
    if (in) {
      set_.insert({rank, id});
    } else {
      set_.erase({rank, id});
    }
  }
  bool empty() const { return set_.empty(); }
  uint32_t front() const { return set_.begin()->second; }

 private:
  std::set<std::pair<int64_t, uint32_t>> set_;
};

/// Hashes of blocks given up lately, each with a number; the oldest are forgotten first.
class GhostList {
 public:
  void Remember(uint64_t hash, int64_t value, size_t bound) {
    if (!values_.insert_or_assign(hash, Ghost{value, next_}).second) ++stale_;
    order_.push_back({hash, next_++});
    while (order_.size() > bound + stale_ || order_.size() > 2 * bound) Forget();
  }
  /// The number of a remembered hash, which is then forgotten.
  std::optional<int64_t> Take(uint64_t hash) {
    const auto it = values_.find(hash);
    if (it == values_.end()) return std::nullopt;
    const int64_t value = it->second.value;
    values_.erase(it);
    ++stale_;
    return value;
  }

 private:
  struct Ghost {
    int64_t value;
    uint64_t stamp;
  };
  void Forget() {
    const auto [hash, stamp] = order_.front();
    order_.pop_front();
    const auto it = values_.find(hash);
    if (it != values_.end() && it->second.stamp == stamp) {
      values_.erase(it);
    } else {
      --stale_;
    }
  }

  std::unordered_map<uint64_t, Ghost> values_;
  std::deque<std::pair<uint64_t, uint64_t>> order_;  // (hash, stamp); stale_ of them are no longer in values_
  uint64_t next_ = 0;
  size_t stale_ = 0;
};

constexpr size_t kLeastGhosts = 1024;

template <typename T>
T& At(std::vector<T>& blocks, uint32_t id) {
  if (id >= blocks.size()) blocks.resize(std::max<size_t>(id + 1, blocks.size() * 3 / 2));
  return blocks[id];
}

class Lru final : public CachePolicy {
 public:
  std::string_view name() const override { return "lru"; }
  void Added(uint32_t id, const BlockTraits&) override { At(blocks_, id) = {++tick_, false}; }
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
  std::vector<Block> blocks_;
  RankedSet candidates_;
  int64_t tick_ = 0;
};

class S3Fifo final : public CachePolicy {
 public:
  std::string_view name() const override { return "s3fifo"; }
  void Added(uint32_t id, const BlockTraits& traits) override {
    const bool main = ghosts_.Take(traits.key_hash).has_value();
    At(blocks_, id) = {traits.key_hash, traits.bytes, ++tick_, 0, main, false};
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
    if (evicted && !block.main) ghosts_.Remember(block.key_hash, 0, std::max(count_, kLeastGhosts));
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

  std::vector<Block> blocks_;
  RankedSet candidates_[2];  // small, main: each by when it entered the queue
  uint64_t bytes_[2] = {0, 0};
  size_t count_ = 0;
  int64_t tick_ = 0;
  GhostList ghosts_;
};

class CostAware final : public CachePolicy {
 public:
  std::string_view name() const override { return "cost"; }
  void Added(uint32_t id, const BlockTraits& traits) override {
    const std::optional<int64_t> ghost = ghosts_.Take(traits.key_hash);
    const bool came_back = ghost.has_value() && traits.depth > 0;
    if (came_back) Learn(tick_ - *ghost);
    const bool inherits = traits.parent < blocks_.size() && blocks_[traits.parent].follow_up;
    At(blocks_, id) = {traits.key_hash, 0, 0, traits.depth, inherits || came_back, false};
    Rank(blocks_[id]);
    ++count_;
  }
  void Used(uint32_t id) override {
    Block& block = blocks_[id];
    if (block.candidate) candidates_.Set(id, block.rank, false);
    if (block.depth > 0) {
      Learn(tick_ - block.used);
      block.follow_up = true;
    }
    Rank(block);
    if (block.candidate) candidates_.Set(id, block.rank, true);
  }
  void SetCandidate(uint32_t id, bool candidate) override {
    blocks_[id].candidate = candidate;
    candidates_.Set(id, blocks_[id].rank, candidate);
  }
  void Removed(uint32_t id, bool evicted) override {
    Block& block = blocks_[id];
    if (block.candidate) SetCandidate(id, false);
    block.follow_up = false;
    --count_;
    if (evicted) ghosts_.Remember(block.key_hash, block.used, std::max(kGhostShare * count_, kLeastGhosts));
  }
  std::optional<uint32_t> Victim() override {
    if (candidates_.empty()) return std::nullopt;
    return candidates_.front();
  }

 private:
  struct Block {
    uint64_t key_hash = 0;
    int64_t used = 0, rank = 0;
    uint32_t depth = 0;
    bool follow_up = false, candidate = false;
  };
  void Rank(Block& block) {
    block.used = ++tick_;
    block.rank = tick_ + (block.follow_up ? static_cast<int64_t>(head_start_) : 0);
  }
  /// Moves the head start towards the quantile of pauses: up and down in the proportion that makes it stand still there.
  void Learn(int64_t pause) {
    head_start_ *= static_cast<double>(pause) > head_start_ ? 1 + kRate * kQuantile : 1 - kRate * (1 - kQuantile);
    head_start_ = std::clamp(head_start_, 1.0, 1 + kMostHeadStart * static_cast<double>(count_));
  }
  static constexpr size_t kGhostShare = 8;  // ghosts for each block held
  // Tuned on the synthetic trace, judged on the conversation trace (docs/block_format.md). The head start is at most four
  // times the blocks held: what returns later than that could not have been kept anyway.
  static constexpr double kQuantile = 0.5, kRate = 0.005, kMostHeadStart = 4;

  std::vector<Block> blocks_;
  RankedSet candidates_;
  size_t count_ = 0;
  int64_t tick_ = 0;
  double head_start_ = 1;
  GhostList ghosts_;
};

}  // namespace

Result<std::unique_ptr<CachePolicy>> MakeCachePolicy(std::string_view name) {
  if (name == "lru") return std::unique_ptr<CachePolicy>(std::make_unique<Lru>());
  if (name == "s3fifo") return std::unique_ptr<CachePolicy>(std::make_unique<S3Fifo>());
  if (name == "cost") return std::unique_ptr<CachePolicy>(std::make_unique<CostAware>());
  return InvalidError("cache policy '{}' is unknown; use lru, s3fifo or cost", name);
}

}  // namespace baton
