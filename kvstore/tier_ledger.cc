#include "kvstore/tier_ledger.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton {

TierLedger::Slot& TierLedger::At(uint32_t id) {
  if (id >= slots_.size()) slots_.resize(std::max<size_t>(size_t{id} + 1, slots_.size() * 3 / 2));
  return slots_[id];
}

void TierLedger::Update(uint32_t id) {
  Slot& slot = slots_[id];
  const bool candidate = slot.here && slot.children == 0 && slot.holds == 0;
  if (candidate == slot.candidate) return;
  slot.candidate = candidate;
  policy_->SetCandidate(id, candidate);
}

void TierLedger::Add(uint32_t id, const BlockTraits& traits) {
  Slot& slot = At(id);
  CHECK(!slot.here);
  slot.here = true;
  slot.bytes = traits.bytes;
  slot.parent = traits.parent;
  bytes_ += traits.bytes;
  ++blocks_;
  policy_->Added(id, traits);
  if (traits.parent != kNoBlock) {
    ++At(traits.parent).children;
    Update(traits.parent);
  }
  Update(id);
}

void TierLedger::Remove(uint32_t id, bool evicted) {
  CHECK(Has(id));
  Slot& slot = slots_[id];
  slot.here = false;
  Update(id);
  policy_->Removed(id, evicted);
  bytes_ -= slot.bytes;
  --blocks_;
  slot.holds = 0;
  if (slot.parent == kNoBlock) return;
  --slots_[slot.parent].children;
  Update(slot.parent);
}

void TierLedger::Hold(uint32_t id) {
  CHECK(Has(id));
  ++slots_[id].holds;
  Update(id);
}

void TierLedger::Unhold(uint32_t id) {
  CHECK(Has(id) && slots_[id].holds > 0);
  --slots_[id].holds;
  Update(id);
}

}  // namespace baton
