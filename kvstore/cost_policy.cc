#include "kvstore/cost_policy.h"

#include <algorithm>

namespace baton {
namespace {

// Tuned on the synthetic trace, judged on the conversation trace (docs/block_format.md).
constexpr size_t kGhostShare = 8;           // ghosts for each block held
constexpr size_t kLeastGhosts = 1024;
constexpr double kDoubt = 50, kDoubtShare = 0.02;  // blocks, and blocks for each block held: a large tier asks about ages few were seen at
constexpr uint32_t kDeep = 32;              // blocks before it: a chain that long goes on less often
constexpr double kAlike = 1.3;              // values within this factor are the same
constexpr int64_t kLearnEvery = 256;        // ticks at least, or a 64th of the blocks held
constexpr int64_t kFadeEvery = 64, kFadeLeast = 1 << 16;  // turnovers of the tier, and ticks at least, until what was seen counts half

}  // namespace

uint8_t CostPolicy::MoreUses(uint32_t uses) { return static_cast<uint8_t>(std::min(uses + 1, kUses - 1)); }

uint8_t CostPolicy::ClassOf(const Block& block) {
  if (block.root) return kRoots;
  return static_cast<uint8_t>((block.uses * kDepths + block.deep) * 2 + block.followed);
}

void CostPolicy::BeginWait(Block& block) {
  block.used = ++tick_;
  block.cls = ClassOf(block);
  model_.Began(block.cls);
  const auto count = static_cast<int64_t>(count_);
  if (tick_ >= next_fade_) {
    if (next_fade_ > 0) model_.Fade();
    next_fade_ = tick_ + std::max(kFadeEvery * count, kFadeLeast);
  }
  if (tick_ >= next_learn_) {
    model_.Learn(tick_, kDoubt + kDoubtShare * static_cast<double>(count_));
    next_learn_ = tick_ + std::max(kLearnEvery, count / 64);
  }
}

void CostPolicy::Added(uint32_t id, const BlockTraits& traits) {
  Block& block = blocks_.Make(id);
  block.key_hash = traits.key_hash;
  block.bytes = static_cast<uint32_t>(std::min<uint64_t>(traits.bytes, UINT32_MAX));
  block.root = traits.depth == 0;
  block.deep = traits.depth >= kDeep;
  if (const std::optional<Ghost> ghost = ghosts_.Take(traits.key_hash)) {
    model_.Returned(ghost->cls, tick_ + 1 - ghost->used);
    block.uses = MoreUses(ghost->uses);
  }
  ++count_;
  BeginWait(block);
  if (blocks_.Has(traits.parent)) Followed(traits.parent);
}

/// The block got a child: no longer a chain's loose end, which may be a part of an answer that is never asked for again.
void CostPolicy::Followed(uint32_t id) {
  Block& block = blocks_[id];
  if (block.followed) return;
  const bool candidate = block.candidate;
  if (candidate) SetCandidate(id, false);
  block.followed = true;
  const uint8_t before = block.cls;
  block.cls = ClassOf(block);
  model_.Moved(before, block.cls);
  if (candidate) SetCandidate(id, true);
}

void CostPolicy::Used(uint32_t id) {
  Block& block = blocks_[id];
  const bool candidate = block.candidate;
  if (candidate) SetCandidate(id, false);
  model_.Returned(block.cls, tick_ + 1 - block.used);
  block.uses = MoreUses(block.uses);
  BeginWait(block);
  if (candidate) SetCandidate(id, true);
}

void CostPolicy::SetCandidate(uint32_t id, bool candidate) {
  Block& block = blocks_[id];
  block.candidate = candidate;
  candidates_[block.cls].Set(id, block.used, candidate);
}

void CostPolicy::Removed(uint32_t id, bool evicted) {
  Block& block = blocks_[id];
  if (block.candidate) SetCandidate(id, false);
  --count_;
  if (evicted) ghosts_.Remember(block.key_hash, {block.used, block.cls, block.uses}, std::max(kGhostShare * count_, kLeastGhosts));
  blocks_.Erase(id);
}

std::optional<uint32_t> CostPolicy::Victim() {
  // Within a class what waited longest is taken for worth least, so only the classes' oldest are compared.
  double value[kClasses], least = 0;
  bool any = false;
  for (uint32_t cls = 0; cls < kClasses; ++cls) {
    if (candidates_[cls].empty()) continue;
    const Block& block = blocks_[candidates_[cls].front()];
    value[cls] = model_.Value(cls, tick_ - block.used) / static_cast<double>(std::max(block.bytes, 1u));
    least = any ? std::min(least, value[cls]) : value[cls];
    any = true;
  }
  if (!any) return std::nullopt;
  uint32_t oldest = kClasses;
  for (uint32_t cls = 0; cls < kClasses; ++cls) {
    if (candidates_[cls].empty() || value[cls] > least * kAlike) continue;
    if (oldest == kClasses || candidates_[cls].lowest() < candidates_[oldest].lowest()) oldest = cls;
  }
  return candidates_[oldest].front();
}

}  // namespace baton
