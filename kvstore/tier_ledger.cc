#include "kvstore/tier_ledger.h"

#include "base/check.h"

namespace baton {

void TierLedger::Update(uint32_t id, Slot& slot) {
  const bool candidate = slot.here && slot.children == 0 && slot.holds == 0;
  if (candidate == slot.candidate) return;
  slot.candidate = candidate;
  policy_->SetCandidate(id, candidate);
}

void TierLedger::Add(uint32_t id, const BlockTraits& traits) {
  CHECK(traits.bytes <= UINT32_MAX);
  Slot& slot = slots_.Make(id);
  CHECK(!slot.here);
  slot.here = true;
  slot.bytes = static_cast<uint32_t>(traits.bytes);
  slot.parent = traits.parent;
  bytes_ += traits.bytes;
  ++blocks_;
  policy_->Added(id, traits);
  if (traits.parent != kNoBlock) {
    Slot& parent = slots_.Make(traits.parent);
    ++parent.children;
    Update(traits.parent, parent);
  }
  Update(id, slot);
}

void TierLedger::Remove(uint32_t id, bool evicted) {
  CHECK(Has(id));
  Slot& slot = slots_[id];
  const uint32_t parent_id = slot.parent;
  slot.here = false;
  Update(id, slot);
  policy_->Removed(id, evicted);
  bytes_ -= slot.bytes;
  --blocks_;
  slot.holds = 0;
  if (slot.children == 0) slots_.Erase(id);
  if (parent_id == kNoBlock) return;
  Slot& parent = slots_[parent_id];
  --parent.children;
  Update(parent_id, parent);
  if (parent.children == 0 && !parent.here) slots_.Erase(parent_id);
}

void TierLedger::Hold(uint32_t id) {
  CHECK(Has(id));
  Slot& slot = slots_[id];
  ++slot.holds;
  Update(id, slot);
}

void TierLedger::Unhold(uint32_t id) {
  CHECK(Has(id));
  Slot& slot = slots_[id];
  CHECK(slot.holds > 0);
  --slot.holds;
  Update(id, slot);
}

}  // namespace baton
