#include "app/sim/cache.h"

#include <algorithm>

namespace baton {

size_t SimCache::Match(std::span<const BlockKey> chain) const {
  size_t n = 0;
  while (n < chain.size() && blocks_.count(chain[n]) != 0) ++n;
  return n;
}

size_t SimCache::Unpinned(std::span<const BlockKey> chain) const {
  return static_cast<size_t>(std::count_if(chain.begin(), chain.end(), [this](const BlockKey& key) {
    const auto it = blocks_.find(key);
    return it == blocks_.end() || it->second.pins == 0;
  }));
}

void SimCache::Pin(std::span<const BlockKey> chain) {
  for (const BlockKey& key : chain) {
    const auto [it, added] = blocks_.try_emplace(key);
    if (added) changed_.insert(key);
    if (!added && it->second.pins == 0) recency_.erase(it->second.place);
    ++it->second.pins;
  }
  Evict();
}

void SimCache::Unpin(std::span<const BlockKey> chain) {
  for (size_t i = chain.size(); i-- > 0;) {
    Block& block = blocks_.at(chain[i]);
    if (--block.pins > 0) continue;
    recency_.push_front(chain[i]);
    block.place = recency_.begin();
  }
  Evict();
}

void SimCache::Insert(std::span<const BlockKey> chain) {
  chain = chain.first(std::min(chain.size(), capacity_));  // its end would be the first to go
  Pin(chain);
  Unpin(chain);
}

void SimCache::Evict() {
  while (blocks_.size() > capacity_ && !recency_.empty()) {
    changed_.insert(recency_.back());
    blocks_.erase(recency_.back());
    recency_.pop_back();
  }
}

void SimCache::SetCapacity(size_t blocks) {
  capacity_ = blocks;
  Evict();
}

void SimCache::Clear() {
  blocks_.clear();
  recency_.clear();
  changed_.clear();
}

std::vector<HeldChange> SimCache::DrainChanges() {
  std::vector<HeldChange> changes;
  changes.reserve(changed_.size());
  for (const BlockKey& key : changed_) changes.push_back({blocks_.count(key) != 0, key});
  changed_.clear();
  return changes;
}

}  // namespace baton
