// Hashes of blocks that were given up lately, each with what a policy wants to remember of it; the oldest are forgotten first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>

namespace baton {

/// Thread: one at a time.
template <typename Value>
class GhostList {
 public:
  /// Remembers at most about `bound` hashes, and never more than twice as many notes of them.
  void Remember(uint64_t hash, const Value& value, size_t bound) {
    if (!ghosts_.insert_or_assign(hash, Ghost{value, next_}).second) ++stale_;
    order_.push_back({hash, next_++});
    while (order_.size() > bound + stale_ || order_.size() > 2 * bound) Forget();
  }
  /// What was remembered of a hash, which is then forgotten.
  std::optional<Value> Take(uint64_t hash) {
    const auto it = ghosts_.find(hash);
    if (it == ghosts_.end()) return std::nullopt;
    const Value value = it->second.value;
    ghosts_.erase(it);
    ++stale_;
    return value;
  }
  size_t size() const { return ghosts_.size(); }

 private:
  struct Ghost {
    Value value;
    uint64_t stamp;
  };
  void Forget() {
    const auto [hash, stamp] = order_.front();
    order_.pop_front();
    const auto it = ghosts_.find(hash);
    if (it != ghosts_.end() && it->second.stamp == stamp) {
      ghosts_.erase(it);
    } else {
      --stale_;
    }
  }

  std::unordered_map<uint64_t, Ghost> ghosts_;
  std::deque<std::pair<uint64_t, uint64_t>> order_;  // (hash, stamp); stale_ of them are no longer in ghosts_
  uint64_t next_ = 0;
  size_t stale_ = 0;
};

}  // namespace baton
