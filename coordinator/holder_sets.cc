#include "coordinator/holder_sets.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/hash.h"

namespace baton {
namespace {

constexpr HolderRef kSharedBit = 0x80000000u;
bool IsShared(HolderRef set) { return (set & kSharedBit) != 0; }
uint32_t IndexOf(HolderRef set) { return set & ~kSharedBit; }

}  // namespace

size_t HolderSets::Hash::operator()(std::span<const uint32_t> members) const { return Xxh3_64(std::as_bytes(members)); }

bool HolderSets::Equal::operator()(HolderRef set, std::span<const uint32_t> members) const {
  return std::ranges::equal(owner->Members(set), members);
}

std::span<const uint32_t> HolderSets::Members(const HolderRef& set) const {
  if (set == kNoHolder) return {};
  if (!IsShared(set)) return {&set, 1};
  return shared_[IndexOf(set)].members;
}

bool HolderSets::Contains(HolderRef set, uint32_t holder) const {
  return std::ranges::binary_search(Members(set), holder);
}

HolderRef HolderSets::With(HolderRef set, uint32_t holder) {
  CHECK(holder != 0 && !IsShared(holder));
  if (set == kNoHolder) return holder;
  if (Contains(set, holder)) return set;
  const auto old = Members(set);
  std::vector<uint32_t> members;
  members.reserve(old.size() + 1);
  const auto at = std::ranges::lower_bound(old, holder);
  members.insert(members.end(), old.begin(), at);
  members.push_back(holder);
  members.insert(members.end(), at, old.end());
  Release(set);
  return Intern(std::move(members));
}

HolderRef HolderSets::Without(HolderRef set, uint32_t holder) {
  if (!Contains(set, holder)) return set;
  const auto old = Members(set);
  if (old.size() == 1) return kNoHolder;
  std::vector<uint32_t> members;
  members.reserve(old.size() - 1);
  std::ranges::copy_if(old, std::back_inserter(members), [holder](uint32_t m) { return m != holder; });
  Release(set);
  return members.size() == 1 ? members.front() : Intern(std::move(members));
}

HolderRef HolderSets::Intern(std::vector<uint32_t> members) {
  const auto found = by_content_.find(std::span<const uint32_t>(members));
  if (found != by_content_.end()) {
    ++shared_[IndexOf(*found)].count;
    return *found;
  }
  uint32_t index = static_cast<uint32_t>(shared_.size());
  if (free_.empty()) {
    shared_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  member_bytes_ += members.size() * sizeof(uint32_t);
  shared_[index] = {std::move(members), 1};
  by_content_.insert(index | kSharedBit);
  return index | kSharedBit;
}

void HolderSets::Release(HolderRef set) {
  if (!IsShared(set)) return;
  Shared& shared = shared_[IndexOf(set)];
  if (--shared.count > 0) return;
  by_content_.erase(set);
  member_bytes_ -= shared.members.size() * sizeof(uint32_t);
  shared.members = {};
  free_.push_back(IndexOf(set));
}

size_t HolderSets::bytes() const {
  constexpr size_t kNodeBytes = 32, kAllocationBytes = 16;  // of a node of by_content_, and what malloc adds
  return shared_.capacity() * sizeof(Shared) + free_.capacity() * sizeof(uint32_t) + member_bytes_ +
         by_content_.size() * (kNodeBytes + kAllocationBytes) + by_content_.bucket_count() * sizeof(void*);
}

}  // namespace baton
