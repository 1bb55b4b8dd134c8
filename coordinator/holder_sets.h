// Sets of workers that hold a block, shared by all blocks with equal sets. A set of one is the worker's own number and costs
// nothing; larger ones are stored once and counted.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

namespace baton {

/// A set of holders: 0 the empty one, below 2^31 the one worker of that number, else a shared set.
using HolderRef = uint32_t;
inline constexpr HolderRef kNoHolder = 0;

/// Thread: one; const methods may run at the same time as each other. The caller owns one count a HolderRef that it keeps:
/// With and Without take over the count of what they are given and hand out one for what they return.
class HolderSets {
 public:
  HolderSets() : by_content_(0, Hash{this}, Equal{this}) {}
  HolderSets(const HolderSets&) = delete;
  HolderSets& operator=(const HolderSets&) = delete;

  HolderRef With(HolderRef set, uint32_t holder);
  HolderRef Without(HolderRef set, uint32_t holder);
  bool Contains(HolderRef set, uint32_t holder) const;
  /// Its members in ascending order. `set` itself is the storage of a set of one, hence the reference; valid until the next change.
  std::span<const uint32_t> Members(const HolderRef& set) const;
  size_t bytes() const;
  size_t shared_sets() const { return by_content_.size(); }

 private:
  struct Shared {
    std::vector<uint32_t> members;
    uint32_t count = 0;  // 0: free
  };
  struct Hash {
    using is_transparent = void;
    const HolderSets* owner;
    size_t operator()(std::span<const uint32_t> members) const;
    size_t operator()(HolderRef set) const { return (*this)(owner->Members(set)); }
  };
  struct Equal {
    using is_transparent = void;
    const HolderSets* owner;
    bool operator()(HolderRef a, HolderRef b) const { return a == b; }
    bool operator()(HolderRef set, std::span<const uint32_t> members) const;
    bool operator()(std::span<const uint32_t> members, HolderRef set) const { return (*this)(set, members); }
  };
  HolderRef Intern(std::vector<uint32_t> members);
  void Release(HolderRef set);

  std::vector<Shared> shared_;
  std::vector<uint32_t> free_;  // indices into shared_
  std::unordered_set<HolderRef, Hash, Equal> by_content_;
  size_t member_bytes_ = 0;
};

}  // namespace baton
