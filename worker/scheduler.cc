#include "worker/scheduler.h"

#include <algorithm>
#include <optional>

#include "base/bytes.h"

namespace baton {
namespace {

class Planner {
 public:
  Planner(const ScheduleView& view, SchedulePlan& plan) : view_(view), plan_(plan), available_(view.available_blocks) {}

  void Run() {
    Expire();
    for (uint32_t i = 0; i < view_.rows.size(); ++i) {
      if (Runs(i) && Remaining(i) == 1) Grow(i, 1);
    }
    Prefill();
    std::erase_if(plan_.run, [this](const ScheduledRow& run) { return Lost(run.row); });
  }

 private:
  const ScheduleRow& Row(uint32_t i) const { return view_.rows[i]; }
  uint32_t Remaining(uint32_t i) const { return Row(i).tokens - Row(i).computed; }
  bool Expired(uint32_t i) const { return Row(i).deadline <= view_.now; }
  bool Lost(uint32_t i) const { return std::find(plan_.preempted.begin(), plan_.preempted.end(), i) != plan_.preempted.end(); }
  bool Runs(uint32_t i) const { return Row(i).running && !Expired(i) && !Lost(i); }

  void Expire() {
    for (uint32_t i = 0; i < view_.rows.size(); ++i) {
      if (Expired(i)) {
        plan_.expired.push_back(i);
        available_ += Row(i).blocks;
      } else if (Row(i).running) {
        ++running_;
      }
    }
  }

  void Preempt(uint32_t victim) {
    plan_.preempted.push_back(victim);
    available_ += Row(victim).blocks;
    if (Row(victim).running) --running_;
    for (const ScheduledRow& run : plan_.run) {
      if (run.row != victim) continue;
      available_ += run.new_blocks;
      used_tokens_ -= run.tokens;
    }
  }

  bool Takeable(uint32_t i) const { return !Row(i).pinned && !Expired(i) && !Lost(i); }
  size_t TakeableBlocks(uint32_t i) const {
    size_t blocks = Row(i).blocks;
    for (const ScheduledRow& run : plan_.run) blocks += run.row == i ? run.new_blocks : 0;
    return blocks;
  }

  /// Takes blocks from rows ranked below `row` that `may_take` allows, the lowest first, until `needed` are there. Nothing is
  /// taken in vain.
  template <typename MayTake>
  bool MakeRoom(uint32_t row, size_t needed, MayTake may_take) {
    if (needed <= available_) return true;
    const auto victim = [&](uint32_t i) { return Takeable(i) && may_take(i); };
    size_t possible = available_;
    for (uint32_t i = row + 1; i < view_.rows.size(); ++i) possible += victim(i) ? TakeableBlocks(i) : 0;
    if (needed > possible) return false;
    for (auto i = static_cast<uint32_t>(view_.rows.size() - 1); needed > available_; --i) {
      if (victim(i) && TakeableBlocks(i) > 0) Preempt(i);
    }
    return true;
  }

  uint32_t BlocksFor(uint32_t row, uint32_t positions) const {
    const auto needed = static_cast<uint32_t>(CeilDiv(std::max(positions, Row(row).reserve_tokens), view_.block_tokens));
    return needed - std::min(needed, Row(row).blocks);
  }

  bool Grow(uint32_t row, uint32_t tokens) {
    const uint32_t blocks = BlocksFor(row, Row(row).computed + tokens);
    if (!MakeRoom(row, blocks, [](uint32_t) { return true; })) return false;
    available_ -= blocks;
    used_tokens_ += tokens;
    plan_.run.push_back({row, tokens, blocks});
    return true;
  }

  /// What the prompts of started rows will still take beyond this step's blocks.
  size_t Promised() const {
    size_t blocks = promised_to_started_;
    for (uint32_t i = 0; i < view_.rows.size(); ++i) {
      if (Runs(i) && Remaining(i) > 1) blocks += BlocksFor(i, Row(i).tokens);
    }
    for (const ScheduledRow& run : plan_.run) {
      if (!Lost(run.row) && Remaining(run.row) > 1 && Row(run.row).running) blocks -= run.new_blocks;
    }
    return blocks;
  }

  /// The slot for a waiting row: a free one (nothing is taken), that of the lowest-ranked running row of a lower priority, or
  /// none.
  bool FindSlot(uint32_t row, std::optional<uint32_t>& taken_from) const {
    if (running_ < view_.max_running) return true;
    for (auto i = static_cast<uint32_t>(view_.rows.size() - 1); i > row; --i) {
      if (!Row(i).running || !Takeable(i) || Row(i).priority >= Row(row).priority) continue;
      taken_from = i;
      return true;
    }
    return false;
  }

  /// Starts a waiting row if its whole prompt fits beside what was promised to others. It takes from lower priorities; from
  /// equal ones, which are all waiting with blocks they were given, only when else nothing could ever run.
  bool Start(uint32_t row, uint32_t tokens) {
    std::optional<uint32_t> slot_of;
    if (!FindSlot(row, slot_of)) return false;
    const uint32_t whole = BlocksFor(row, Row(row).tokens);
    const bool idle = running_ == 0;
    const auto may_take = [&](uint32_t i) { return idle || Row(i).priority < Row(row).priority; };
    if (!MakeRoom(row, whole + Promised(), may_take)) return false;
    if (slot_of.has_value() && !Lost(*slot_of)) Preempt(*slot_of);
    if (!Grow(row, tokens)) return false;
    ++running_;
    promised_to_started_ += whole - plan_.run.back().new_blocks;
    return true;
  }

  void Prefill() {
    const uint32_t budget = std::max(view_.token_budget, used_tokens_ + 1);
    bool starting = true;  // until one cannot: none may overtake it
    for (uint32_t i = 0; i < view_.rows.size() && used_tokens_ < budget; ++i) {
      if (Expired(i) || Lost(i) || (Row(i).running && Remaining(i) == 1)) continue;
      const uint32_t tokens = std::min({Remaining(i), view_.chunk_tokens, budget - used_tokens_});
      if (Row(i).running) {
        Grow(i, tokens);
      } else if (starting && !Row(i).deferred) {
        starting = Start(i, tokens);
      }
    }
  }

  const ScheduleView& view_;
  SchedulePlan& plan_;
  size_t available_;
  size_t promised_to_started_ = 0;  // in this step
  uint32_t running_ = 0, used_tokens_ = 0;
};

}  // namespace

void SchedulePlan::Clear() {
  expired.clear();
  preempted.clear();
  run.clear();
}

void Schedule(const ScheduleView& view, SchedulePlan& plan) {
  plan.Clear();
  Planner(view, plan).Run();
}

}  // namespace baton
