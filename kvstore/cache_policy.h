// Which block leaves a full tier first. A policy sees only what happens (added, used, removed) and never a clock, a disk
// or a lock, so that the live store and the simulator take the same decisions and a table of cases can pin them down.
// Time is the count of what happened. Only candidates are ever chosen: the tier offers its leaves (blocks without a child
// in the tier) that nobody holds, so a chain goes tail first under every policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace baton {

/// What a policy may know of a block.
struct BlockTraits {
  uint64_t key_hash = 0;     // stable over restarts: ghosts remember it
  uint32_t parent = ~uint32_t{0};  // the parent's id, in this tier or not; kNoBlock: none
  uint32_t depth = 0;        // in its chain
  uint64_t bytes = 0;
};
inline constexpr uint32_t kNoBlock = ~uint32_t{0};

/// Ids are small numbers the tier reuses. Every method is O(log n). Thread: one at a time.
class CachePolicy {
 public:
  virtual ~CachePolicy() = default;
  virtual std::string_view name() const = 0;
  /// A block enters the tier, not yet a candidate.
  virtual void Added(uint32_t id, const BlockTraits& traits) = 0;
  /// A block was read or put again.
  virtual void Used(uint32_t id) = 0;
  /// Whether the block may be chosen.
  virtual void SetCandidate(uint32_t id, bool candidate) = 0;
  /// The block left the tier; `evicted` when for want of room, which a ghost list remembers.
  virtual void Removed(uint32_t id, bool evicted) = 0;
  /// The candidate to give up next, nothing when there is none. May move blocks between the policy's own queues.
  virtual std::optional<uint32_t> Victim() = 0;
};

/// "lru": the candidate used longest ago.
/// "s3fifo": Yang et al., "FIFO queues are all you need for cache eviction", SOSP'23: a small queue of a tenth of the bytes
///   in front of the main one, so that what is used once leaves soon, and a ghost list that lets what returns straight in.
/// "cost": worth, that is hits to be hoped for per byte and time, learned online from when blocks of a class came back
///   (kvstore/cost_policy.h).
/// kInvalid names the choices.
Result<std::unique_ptr<CachePolicy>> MakeCachePolicy(std::string_view name);

}  // namespace baton
