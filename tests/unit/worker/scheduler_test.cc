#include "worker/scheduler.h"

#include <set>

#include "base/bytes.h"
#include "base/random.h"

namespace baton {
namespace {


constexpr uint32_t kBlock = 4;

ScheduleRow Waiting(uint32_t tokens) { return {.tokens = tokens}; }
ScheduleRow Running(uint32_t tokens, uint32_t computed, uint32_t blocks) {
  return {.tokens = tokens, .computed = computed, .blocks = blocks, .running = true};
}
ScheduleRow Decoding(uint32_t tokens, uint32_t blocks) { return Running(tokens, tokens - 1, blocks); }
ScheduleRow With(ScheduleRow row, auto change) {
  change(row);
  return row;
}
ScheduleRow Priority(int32_t priority, ScheduleRow row) {
  row.priority = priority;
  return row;
}
ScheduleRow Pinned(ScheduleRow row) {
  row.pinned = true;
  return row;
}

struct Case {
  std::string name;
  ScheduleView view;
  std::vector<ScheduledRow> run;
  std::vector<uint32_t> preempted, expired;
};

ScheduleView View(std::vector<ScheduleRow> rows, size_t available, uint32_t budget = 16, uint32_t chunk = 8, uint32_t slots = 4) {
  return {.rows = std::move(rows), .block_tokens = kBlock, .max_running = slots, .token_budget = budget, .chunk_tokens = chunk, .available_blocks = available};
}

std::vector<Case> GoldenCases() {
  return {
      {"nothing to do", View({}, 10), {}, {}, {}},
      {"a new prompt starts with one chunk", View({Waiting(20)}, 10), {{0, 8, 2}}, {}, {}},
      {"a short prompt runs whole", View({Waiting(5)}, 10), {{0, 5, 2}}, {}, {}},
      {"a running prompt goes on where it was", View({Running(20, 8, 2)}, 10), {{0, 8, 2}}, {}, {}},
      {"its last chunk is what is left", View({Running(20, 16, 4)}, 10), {{0, 4, 1}}, {}, {}},
      {"decode goes before a higher-ranked prompt", View({Running(20, 8, 2), Decoding(6, 2)}, 10), {{1, 1, 0}, {0, 8, 2}}, {}, {}},
      {"decode takes a block only at a block's end", View({Decoding(8, 2), Decoding(9, 2)}, 10), {{0, 1, 0}, {1, 1, 1}}, {}, {}},
      {"budget is shared in rank order", View({Waiting(20), Waiting(20), Waiting(20)}, 30, 12), {{0, 8, 2}, {1, 4, 1}}, {}, {}},
      {"decode rows count against the budget", View({Decoding(3, 1), Decoding(3, 1), Waiting(20)}, 30, 6), {{0, 1, 0}, {1, 1, 0}, {2, 4, 1}}, {}, {}},
      {"all decode rows run and a prompt is never starved", View({Decoding(3, 1), Decoding(3, 1), Waiting(20)}, 30, 1), {{0, 1, 0}, {1, 1, 0}, {2, 1, 1}}, {}, {}},
      {"no more rows than slots", View({Decoding(3, 1), Waiting(3), Waiting(3)}, 30, 16, 8, 2), {{0, 1, 0}, {1, 3, 1}}, {}, {}},
      {"a found prefix is not computed again", View({With(Waiting(20), [](auto& r) { r.computed = 16; })}, 10), {{0, 4, 5}}, {}, {}},
      {"a handed-off prompt starts decoding", View({With(Waiting(9), [](auto& r) { r.computed = 8; r.blocks = 3; })}, 0), {{0, 1, 0}}, {}, {}},
      {"a prompt waits until all of it fits", View({Waiting(20)}, 4), {}, {}, {}},
      {"none overtakes one that waits for blocks", View({Decoding(3, 1), Waiting(20), Waiting(3)}, 4), {{0, 1, 0}}, {}, {}},
      {"what running prompts still need is kept for them", View({Running(20, 8, 2), Waiting(8)}, 4), {{0, 8, 2}}, {}, {}},
      {"what a row started in this step will need is kept", View({Waiting(16), Waiting(8)}, 5), {{0, 8, 2}}, {}, {}},
      {"the lowest rank gives way when decode needs a block", View({Decoding(5, 1), Decoding(3, 1), Decoding(3, 1)}, 0), {{0, 1, 1}, {1, 1, 0}}, {2}, {}},
      {"it gives way to a prompt too", View({Running(20, 8, 2), Decoding(3, 1), Decoding(3, 1)}, 1), {{1, 1, 0}, {0, 8, 2}}, {2}, {}},
      {"as many as needed, no more", View({Running(20, 8, 2), Decoding(3, 1), Decoding(3, 1), Decoding(3, 1)}, 0), {{1, 1, 0}, {0, 8, 2}}, {3, 2}, {}},
      {"nothing is taken in vain", View({Running(20, 8, 2), Decoding(3, 1)}, 0), {{1, 1, 0}}, {}, {}},
      {"none takes from a higher rank", View({Decoding(3, 1), Decoding(5, 1)}, 0), {{0, 1, 0}}, {}, {}},
      {"pinned blocks stay", View({Decoding(5, 1), Pinned(Decoding(3, 1))}, 0), {{1, 1, 0}}, {}, {}},
      {"a row to be pushed starts with all its blocks", View({With(Waiting(20), [](auto& r) { r.reserve_tokens = 20; })}, 5), {{0, 8, 5}}, {}, {}},
      {"and asks for none later", View({With(Running(20, 8, 5), [](auto& r) { r.reserve_tokens = 20; r.pinned = true; })}, 0), {{0, 8, 0}}, {}, {}},
      {"a deferred row lets others pass", View({With(Waiting(8), [](auto& r) { r.deferred = true; }), Waiting(8)}, 10), {{1, 8, 2}}, {}, {}},
      {"a waiting row of equal priority takes nothing from running ones", View({Waiting(8), Decoding(3, 1)}, 1), {{1, 1, 0}}, {}, {}},
      {"a higher priority takes blocks", View({Priority(1, Waiting(8)), Decoding(3, 1)}, 1), {{0, 8, 2}}, {1}, {}},
      {"a higher priority takes a slot", View({Priority(1, Waiting(8)), Decoding(3, 1), Decoding(3, 1)}, 9, 16, 8, 2), {{1, 1, 0}, {0, 8, 2}}, {2}, {}},
      {"but not when it could not start", View({Priority(1, Waiting(80)), Decoding(3, 1), Decoding(3, 1)}, 9, 16, 8, 2), {{1, 1, 0}, {2, 1, 0}}, {}, {}},
      {"blocks given to waiting rows cannot lock the pool", View({Waiting(8), With(Waiting(9), [](auto& r) { r.computed = 7; r.blocks = 2; })}, 0), {{0, 8, 2}}, {1}, {}},
      {"but are kept while others run", View({Decoding(3, 1), Waiting(8), With(Waiting(9), [](auto& r) { r.computed = 7; r.blocks = 2; })}, 0), {{0, 1, 0}}, {}, {}},
      {"a deadline ends running and waiting rows, and its blocks serve others",
       View({With(Decoding(3, 1), [](auto& r) { r.deadline = Instant(Duration(5)); }), With(Waiting(3), [](auto& r) { r.deadline = Instant(Duration(0)); }), Decoding(5, 1)}, 0),
       {{2, 1, 1}}, {}, {0, 1}},
  };
}

TEST(Scheduler, GoldenCases) {
  SchedulePlan plan;
  plan.run.resize(3);  // whatever a plan held before is gone
  for (Case& c : GoldenCases()) {
    c.view.now = Instant(Duration(5));
    Schedule(c.view, plan);
    EXPECT_EQ(plan.run, c.run) << c.name << ": " << testing::PrintToString(plan.run.size());
    EXPECT_EQ(plan.preempted, c.preempted) << c.name;
    EXPECT_EQ(plan.expired, c.expired) << c.name;
  }
}

/// Random views: every plan keeps the rules, whatever the numbers.
TEST(Scheduler, EveryPlanKeepsTheRules) {
  Random random(5);
  SchedulePlan plan;
  for (int round = 0; round < 20000; ++round) {
    ScheduleView view = View({}, random.Below(12), static_cast<uint32_t>(1 + random.Below(20)), static_cast<uint32_t>(1 + random.Below(9)), static_cast<uint32_t>(1 + random.Below(6)));
    view.now = Instant(Duration(10));
    int32_t priority = 3;
    uint32_t running = 0;
    for (size_t n = random.Below(9); n > 0; --n) {
      ScheduleRow row;
      priority -= static_cast<int32_t>(random.Below(2));
      row.priority = priority;
      row.tokens = static_cast<uint32_t>(1 + random.Below(30));
      row.running = running < view.max_running && random.Below(2) == 0;
      running += row.running;
      row.computed = random.Below(3) == 0 ? row.tokens - 1 : static_cast<uint32_t>(random.Below(row.tokens));
      row.blocks = row.running ? static_cast<uint32_t>(CeilDiv(row.computed, kBlock)) : 0;
      row.pinned = row.running && random.Below(5) == 0;
      row.deferred = random.Below(6) == 0;
      if (random.Below(10) == 0) row.deadline = Instant(Duration(random.Below(20)));
      view.rows.push_back(row);
    }
    Schedule(view, plan);
    size_t available = view.available_blocks;
    uint32_t slots = running, tokens = 0, decodes = 0;
    std::set<uint32_t> gone;
    for (const uint32_t i : plan.expired) {
      ASSERT_LE(view.rows[i].deadline, view.now);
      ASSERT_TRUE(gone.insert(i).second);
      available += view.rows[i].blocks;
      slots -= view.rows[i].running;
    }
    for (const uint32_t i : plan.preempted) {
      ASSERT_FALSE(view.rows[i].pinned);
      ASSERT_TRUE(gone.insert(i).second);
      available += view.rows[i].blocks;
      slots -= view.rows[i].running;
    }
    for (const ScheduledRow& run : plan.run) {
      const ScheduleRow& row = view.rows[run.row];
      ASSERT_TRUE(gone.insert(run.row).second) << "runs twice, or was preempted";
      ASSERT_GE(run.tokens, 1u);
      ASSERT_LE(run.tokens, std::max(view.chunk_tokens, 1u));
      ASSERT_LE(row.computed + run.tokens, row.tokens);
      ASSERT_GE((row.blocks + run.new_blocks) * kBlock, row.computed + run.tokens);
      ASSERT_LE(run.new_blocks, available);
      available -= run.new_blocks;
      slots += !row.running;
      tokens += run.tokens;
      ASSERT_TRUE(row.running || !row.deferred);
    }
    for (const ScheduleRow& row : view.rows) decodes += row.running && row.computed + 1 == row.tokens;
    ASSERT_LE(slots, view.max_running);
    ASSERT_LE(tokens, std::max(view.token_budget, decodes + 1));
    const bool anything = std::any_of(view.rows.begin(), view.rows.end(), [&](const ScheduleRow& r) { return r.running && r.deadline > view.now; });
    ASSERT_TRUE(!anything || view.available_blocks < 8 || !plan.run.empty());
  }
}

}  // namespace
}  // namespace baton
