// The policy "cost": gives up what is worth least for its bytes. Blocks are sorted into classes by what their past says of
// their future (how often they came back, how deep they stand in their chain, whether anything ever followed them); when
// blocks of a class come back is learned online (reuse_model.h), from the tier and from the ghosts of what was given up, so a
// conversation that goes on outlives one that never went on, by as much as the traffic shows. Where two are worth about
// the same, the one used longest ago goes; before anything is learned, so all are: plain LRU.
#pragma once

#include <vector>

#include "kvstore/cache_policy.h"
#include "kvstore/ghost_list.h"
#include "kvstore/paged_array.h"
#include "kvstore/ranked_set.h"
#include "kvstore/reuse_model.h"

namespace baton {

class CostPolicy final : public CachePolicy {
 public:
  CostPolicy() : model_(kClasses), candidates_(kClasses) {}
  std::string_view name() const override { return "cost"; }
  void Added(uint32_t id, const BlockTraits& traits) override;
  void Used(uint32_t id) override;
  void SetCandidate(uint32_t id, bool candidate) override;
  void Removed(uint32_t id, bool evicted) override;
  std::optional<uint32_t> Victim() override;

 private:
  static constexpr uint32_t kUses = 4, kDepths = 2, kRoots = kUses * kDepths * 2, kClasses = kRoots + 1;
  struct Block {  // of ten million there are ten million
    uint64_t key_hash = 0;
    int64_t used = 0;
    uint32_t bytes = 0;
    uint8_t cls = 0;
    uint8_t uses : 2 = 0, root : 1 = 0, deep : 1 = 0, followed : 1 = 0, candidate : 1 = 0;
  };
  struct Ghost {
    int64_t used;
    uint8_t cls, uses;
  };
  static uint8_t ClassOf(const Block& block);
  static uint8_t MoreUses(uint32_t uses);
  void BeginWait(Block& block);
  void Followed(uint32_t id);

  PagedArray<Block> blocks_;
  ReuseModel model_;
  std::vector<RankedSet> candidates_;  // by class, each by its last use
  GhostList<Ghost> ghosts_;
  size_t count_ = 0;
  int64_t tick_ = 0, next_learn_ = 0, next_fade_ = 0;
};

}  // namespace baton
