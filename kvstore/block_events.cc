#include "kvstore/block_events.h"

#include <unordered_map>
#include <utility>

namespace baton {

void BlockEvents::Record(bool added, const BlockKey& key, size_t bound) {
  events_.push_back({added, key});
  if (events_.size() > bound) Compact();
}

void BlockEvents::Compact() {
  struct Net {
    bool first, last;
  };
  std::unordered_map<BlockKey, Net> net;
  for (const BlockEvent& e : events_) net.try_emplace(e.key, Net{e.added, e.added}).first->second.last = e.added;
  std::vector<BlockEvent> kept;
  for (size_t i = events_.size(); i > 0; --i) {  // from the end: the last event of a key is the one that stays
    const auto it = net.find(events_[i - 1].key);
    if (it == net.end()) continue;
    if (it->second.first == it->second.last) kept.push_back(events_[i - 1]);
    net.erase(it);
  }
  events_.assign(kept.rbegin(), kept.rend());
}

std::vector<BlockEvent> BlockEvents::Drain() { return std::exchange(events_, {}); }

}  // namespace baton
