// The books of one tier: what is in it, how many bytes, who has children there, who is held. It offers its policy exactly
// the leaves that nobody holds, so eviction is leaf-first whatever the policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/block_key.h"
#include "kvstore/cache_policy.h"
#include "kvstore/paged_array.h"

namespace baton {

/// Ids are those of the BlockIndex. Thread: one at a time.
class TierLedger {
 public:
  explicit TierLedger(std::unique_ptr<CachePolicy> policy) : policy_(std::move(policy)) {}

  /// A block of less than 4 GiB enters; it must not be here. `traits.parent` may be absent from the tier.
  void Add(uint32_t id, const BlockTraits& traits);
  void Remove(uint32_t id, bool evicted);
  void Use(uint32_t id) {
    if (Has(id)) policy_->Used(id);
  }
  /// While held (by a reader, a pin, a write to come) a block is not chosen. Holds count; the block must be here.
  void Hold(uint32_t id);
  void Unhold(uint32_t id);
  bool Has(uint32_t id) const {
    const Slot* slot = slots_.Find(id);
    return slot != nullptr && slot->here;
  }
  std::optional<uint32_t> Victim() { return policy_->Victim(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t blocks() const { return blocks_; }

 private:
  struct Slot {
    uint32_t bytes = 0;
    uint32_t parent = kNoBlock;
    uint32_t children = 0;
    uint32_t holds : 30 = 0, here : 1 = 0, candidate : 1 = 0;
  };
  void Update(uint32_t id, Slot& slot);

  std::unique_ptr<CachePolicy> policy_;
  PagedArray<Slot> slots_;  // of what is here or has children here
  uint64_t bytes_ = 0, blocks_ = 0;
};

}  // namespace baton
