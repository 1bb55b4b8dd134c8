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

/// Hashes of blocks given up lately, each with one bit of memory; the oldest are forgotten first.
class GhostList {
 public:
  void Remember(uint64_t hash, bool mark, size_t bound) {
    if (!marks_.insert_or_assign(hash, Ghost{mark, next_}).second) ++stale_;
    order_.push_back({hash, next_++});
    while (order_.size() > bound + stale_ || order_.size() > 2 * bound) Forget();
  }
  /// The mark of a remembered hash, which is then forgotten.
  std::optional<bool> Take(uint64_t hash) {
    const auto it = marks_.find(hash);
    if (it == marks_.end()) return std::nullopt;
    const bool mark = it->second.mark;
    marks_.erase(it);
    ++stale_;
    return mark;
  }

 private:
  struct Ghost {
    bool mark;
    uint64_t stamp;
  };
  void Forget() {
    const auto [hash, stamp] = order_.front();
    order_.pop_front();
    const auto it = marks_.find(hash);
    if (it != marks_.end() && it->second.stamp == stamp) {
      marks_.erase(it);
    } else {
      --stale_;
    }
  }

  std::unordered_map<uint64_t, Ghost> marks_;
  std::deque<std::pair<uint64_t, uint64_t>> order_;  // (hash, stamp); stale_ of them are no longer in marks_
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
    if (evicted && !block.main) ghosts_.Remember(block.key_hash, false, std::max(count_, kLeastGhosts));
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
    const std::optional<bool> ghost = ghosts_.Take(traits.key_hash);
    if (ghost) Learn(*ghost);
    const bool parent_follows = traits.parent < blocks_.size() && blocks_[traits.parent].here && blocks_[traits.parent].follow_up;
    Block& block = At(blocks_, id);
    block = {traits.key_hash, 0, traits.depth, true, parent_follows || (ghost && traits.depth > 0), false};
    ++count_;
    block.rank = Rank(block);
  }
  void Used(uint32_t id) override {
    Block& block = blocks_[id];
    if (block.candidate) candidates_.Set(id, block.rank, false);
    block.follow_up |= block.depth > 0;
    block.rank = Rank(block);
    if (block.candidate) candidates_.Set(id, block.rank, true);
  }
  void SetCandidate(uint32_t id, bool candidate) override {
    blocks_[id].candidate = candidate;
    candidates_.Set(id, blocks_[id].rank, candidate);
  }
  void Removed(uint32_t id, bool evicted) override {
    Block& block = blocks_[id];
    if (block.candidate) SetCandidate(id, false);
    block.here = false;
    --count_;
    if (evicted) ghosts_.Remember(block.key_hash, block.follow_up, std::max(kGhostShare * count_, kLeastGhosts));
  }
  std::optional<uint32_t> Victim() override {
    if (candidates_.empty()) return std::nullopt;
    return candidates_.front();
  }

 private:
  static constexpr size_t kGhostShare = 8;
  struct Block {
    uint64_t key_hash = 0;
    int64_t rank = 0;
    uint32_t depth = 0;
    bool here = false, follow_up = false, candidate = false;
  };
  int64_t Rank(const Block& block) { return ++tick_ + (block.follow_up ? static_cast<int64_t>(head_start_ * static_cast<double>(count_)) : 0); }
  void Learn(bool follow_up) {
    head_start_ = std::clamp(head_start_ * (follow_up ? kStep : 1 / kStep), kLeastHeadStart, kMostHeadStart);
  }
  static constexpr double kStep = 1.002, kLeastHeadStart = 0.05, kMostHeadStart = 4;  // in times the number of blocks held

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
