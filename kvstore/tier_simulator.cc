#include "kvstore/tier_simulator.h"

#include <limits>
#include <set>
#include <utility>

#include "base/hash.h"

namespace baton {

bool TierSimulator::MakeRoom(uint32_t parent) {
  if (tier_.blocks() < capacity_) return true;
  // As in the store: what a block is put behind does not leave for it.
  const bool hold = parent != kNoBlock && tier_.Has(parent);
  if (hold) tier_.Hold(parent);
  const auto victim = tier_.Victim();
  if (hold) tier_.Unhold(parent);
  if (!victim) return false;
  tier_.Remove(*victim, true);
  return true;
}

size_t TierSimulator::Replay(std::span<const uint64_t> request) {
  size_t found = 0;
  uint32_t parent = kNoBlock;
  accesses_ += request.size();
  for (size_t depth = 0; depth < request.size(); ++depth) {
    const uint32_t id = ids_.try_emplace(request[depth], static_cast<uint32_t>(ids_.size())).first->second;
    if (tier_.Has(id)) {
      if (found == depth) ++found;
      tier_.Use(id);
    } else if (MakeRoom(parent)) {
      tier_.Add(id, {Xxh3_64(std::as_bytes(std::span(&request[depth], 1))), parent, static_cast<uint32_t>(depth), 1});
    } else {
      break;  // the request alone fills the tier
    }
    parent = id;
  }
  hits_ += found;
  return found;
}

double OfflineHitRatio(const BlockTrace& trace, size_t capacity) {
  std::vector<uint64_t> accesses;
  for (const auto& request : trace) accesses.insert(accesses.end(), request.begin(), request.end());
  constexpr size_t kNever = std::numeric_limits<size_t>::max();
  std::vector<size_t> next(accesses.size(), kNever);
  std::unordered_map<uint64_t, size_t> seen;
  for (size_t i = accesses.size(); i-- > 0;) {
    const auto [it, fresh] = seen.try_emplace(accesses[i], i);
    if (!fresh) next[i] = std::exchange(it->second, i);
  }
  std::set<size_t> held;  // when the held blocks are used next: one access names one block
  size_t hits = 0;
  for (size_t i = 0; i < accesses.size(); ++i) {
    hits += held.erase(i);
    if (next[i] == kNever) continue;
    held.insert(next[i]);
    if (held.size() > capacity) held.erase(std::prev(held.end()));
  }
  return accesses.empty() ? 0 : static_cast<double>(hits) / static_cast<double>(accesses.size());
}

}  // namespace baton
