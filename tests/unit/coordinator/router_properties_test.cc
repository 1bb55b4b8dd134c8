// What must hold of every decision, over random clusters: a worker that gets worse is not chosen more, one that gets better not less;
// the printed terms add up and the least of them is what was chosen; who is leaving, full or suspected gets nothing.
#include <set>

#include "base/random.h"
#include "coordinator/router.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

RouteQuery RandomQuery(Random& random) {
  RouteQuery query;
  query.request = RequestId(random.Next64());
  query.prompt_tokens = static_cast<uint32_t>(1 + random.Below(4000));
  query.max_tokens = static_cast<uint32_t>(1 + random.Below(600));
  query.block_tokens = 64;
  query.block_bytes = 1u << (10 + random.Below(8));
  return query;
}

WorkerView RandomWorker(Random& random, uint32_t id, const RouteQuery& query) {
  WorkerView w;
  w.id = WorkerId(id);
  const uint64_t roles = random.Below(8);
  w.prefill = roles < 4;
  w.decode = roles >= 2 && roles < 7;
  w.store = roles == 7;
  w.matched_blocks = static_cast<uint32_t>(random.Below(query.prompt_tokens / query.block_tokens + 1));
  w.load.running = static_cast<uint32_t>(random.Below(12));
  w.load.waiting = static_cast<uint32_t>(random.Below(4));
  w.load.queued_prefill_tokens = random.Below(3) == 0 ? random.Below(5000) : 0;
  if (random.Below(2) != 0) {
    w.load.total_blocks = static_cast<uint32_t>(80 + random.Below(400));
    w.load.free_blocks = static_cast<uint32_t>(random.Below(w.load.total_blocks + 1));
  }
  if (random.Below(2) != 0) w.load.prefill_tokens_per_s = 200 + static_cast<double>(random.Below(2000));
  if (random.Below(2) != 0) w.load.decode_step_s = 0.002 + 0.02 * random.Uniform();
  if (random.Below(2) != 0) w.load.transfer_bytes_per_s = 1e6 * static_cast<double>(1 + random.Below(1000));
  if (random.Below(2) != 0) w.load.store_bytes_per_s = 1e6 * static_cast<double>(1 + random.Below(1000));
  if (random.Below(2) != 0) w.load.step_model = {0.005 * random.Uniform(), 1e-4 + 1e-3 * random.Uniform(), 1e-7 * random.Uniform(), 1e-3 * random.Uniform()};
  return w;
}

class RouterProperties : public ::testing::TestWithParam<uint64_t> {
 protected:
  /// A cluster of some size, with a worker that decodes and has room.
  void Make() {
    query_ = RandomQuery(random_);
    workers_.clear();
    const auto count = static_cast<uint32_t>(1 + random_.Below(8));
    for (uint32_t id = 1; id <= count; ++id) workers_.push_back(RandomWorker(random_, id, query_));
    workers_[random_.Below(count)].decode = true;
    config_ = {};
    config_.work_weight = 0.5 * random_.Uniform();
    config_.reserved_streams = static_cast<double>(random_.Below(3));
    config_.local_prefill_tokens = static_cast<uint32_t>(random_.Below(2) * 64);
  }
  const RouteCandidate* Find(const RouteDecision& decision, WorkerId decode, WorkerId prefill) const {
    for (const RouteCandidate& c : decision.candidates) {
      if (c.decode == decode && c.prefill == prefill) return &c;
    }
    return nullptr;
  }
  /// Each candidate that both decisions list: its total must have gone nowhere but up (or stayed).
  void ExpectNoneCheaper(const RouteDecision& before, const RouteDecision& after) const {
    for (const RouteCandidate& now : after.candidates) {
      const RouteCandidate* was = Find(before, now.decode, now.prefill);
      if (was != nullptr) {
        ASSERT_GE(now.cost.total_s, was->cost.total_s - 1e-9) << now.decode.value << " " << now.prefill.value;
      }
    }
  }
  Random random_{GetParam()};
  RouteQuery query_;
  std::vector<WorkerView> workers_;
  RouterConfig config_;
};

TEST_P(RouterProperties, TermsAddUpAndTheLeastIsChosen) {
  int decided = 0;
  for (int round = 0; round < 400; ++round) {
    Make();
    const RouteDecision decision = Route(config_, query_, workers_);
    if (!decision.ok()) continue;
    ++decided;
    double least = std::numeric_limits<double>::infinity();
    std::set<std::pair<uint32_t, uint32_t>> seen;
    for (const RouteCandidate& c : decision.candidates) {
      const CostTerms& t = c.cost;
      for (const double term : {t.queue_s, t.store_load_s, t.prefill_s, t.transfer_s, t.interference_s, t.decode_s, t.work_s}) ASSERT_TRUE(term >= 0 && std::isfinite(term));
      ASSERT_NEAR(t.total_s, t.queue_s + t.store_load_s + t.prefill_s + t.transfer_s + t.interference_s + t.decode_s + t.work_s, 1e-9 * t.total_s);
      ASSERT_TRUE(seen.emplace(c.decode.value, c.prefill.value).second) << "listed twice";
      ASSERT_LT(c.cached_tokens, query_.prompt_tokens) << "the last token is always computed";
      ASSERT_EQ(c.cached_from == CacheSource::kNone, c.cached_tokens == 0);
      least = std::min(least, t.total_s);
    }
    ASSERT_EQ(decision.chosen.cost.total_s, least);
    ASSERT_NE(Find(decision, decision.chosen.decode, decision.chosen.prefill), nullptr);
    ASSERT_EQ(decision.prefill_order.empty(), decision.chosen.prefill == WorkerId());
    if (!decision.prefill_order.empty()) {
      ASSERT_EQ(decision.prefill_order.front(), decision.chosen.prefill);
    }
    const std::set<WorkerId> alternates(decision.decode_alternates.begin(), decision.decode_alternates.end());
    ASSERT_EQ(alternates.size(), decision.decode_alternates.size());
    ASSERT_EQ(alternates.count(decision.chosen.decode), 0u);
  }
  EXPECT_GT(decided, 100);
}

TEST_P(RouterProperties, MoreWorkMakesNoWayCheaper) {
  for (int round = 0; round < 300; ++round) {
    Make();
    const RouteDecision before = Route(config_, query_, workers_);
    if (!before.ok()) continue;
    auto worse = workers_;
    WorkerView& w = worse[random_.Below(worse.size())];
    const uint64_t what = random_.Below(4);
    if (what == 0) w.load.queued_prefill_tokens += 1 + random_.Below(3000);
    if (what == 1) w.load.waiting += 1 + static_cast<uint32_t>(random_.Below(5));
    if (what == 2) w.load.free_blocks -= std::min(w.load.free_blocks, 1 + static_cast<uint32_t>(random_.Below(200)));
    if (what == 3) w.matched_blocks -= std::min(w.matched_blocks, 1 + static_cast<uint32_t>(random_.Below(20)));
    SCOPED_TRACE(fmt::format("round {} what {} worker {}", round, what, w.id.value));
    // A store's lost blocks may turn loading into computing, which is what loading is chosen against nowhere: not compared.
    if (what == 3 && w.store) continue;
    const RouteDecision after = Route(config_, query_, worse);
    ASSERT_TRUE(after.ok());
    ExpectNoneCheaper(before, after);
    if (after.chosen.decode == w.id || after.chosen.prefill == w.id) {
      const bool was = before.chosen.decode == w.id || before.chosen.prefill == w.id;
      ASSERT_TRUE(was || what == 3) << "it got more to do, and now it is chosen: " << before.reason << " -> " << after.reason;
    }
  }
}

TEST_P(RouterProperties, ASlowerWayIsNotCheaperAndOthersAreNotTouched) {
  for (int round = 0; round < 300; ++round) {
    Make();
    for (WorkerView& w : workers_) {  // all measured: an unmeasured one is assumed to be like the others, which would then change too
      if (w.load.prefill_tokens_per_s == 0) w.load.prefill_tokens_per_s = 900;
      if (w.load.transfer_bytes_per_s == 0) w.load.transfer_bytes_per_s = 1e8;
      if (w.load.store_bytes_per_s == 0) w.load.store_bytes_per_s = 1e8;
      if (w.load.decode_step_s == 0) w.load.decode_step_s = 0.01;
      w.transfer_latency_s = 1e-3;
    }
    const RouteDecision before = Route(config_, query_, workers_);
    if (!before.ok()) continue;
    auto slower = workers_;
    WorkerView& w = slower[random_.Below(slower.size())];
    const double factor = 1 + random_.Uniform();
    const uint64_t what = random_.Below(4);
    if (what == 0) w.load.transfer_bytes_per_s /= factor;
    if (what == 1) w.load.store_bytes_per_s /= factor;
    if (what == 2) w.load.decode_step_s *= factor;
    if (what == 3) w.transfer_latency_s *= factor;
    const RouteDecision after = Route(config_, query_, slower);
    ExpectNoneCheaper(before, after);
    for (const RouteCandidate& now : after.candidates) {
      if (now.decode == w.id || now.prefill == w.id) continue;
      const RouteCandidate* was = Find(before, now.decode, now.prefill);
      if (was != nullptr) {
        ASSERT_EQ(now.cost.total_s, was->cost.total_s);
      }
    }
  }
}

TEST_P(RouterProperties, WhoIsLeavingFullOrSuspectedGetsNothing) {
  for (int round = 0; round < 400; ++round) {
    Make();
    for (WorkerView& w : workers_) {
      w.draining = random_.Below(3) == 0;
      if (random_.Below(4) == 0) w.load.total_blocks = w.load.free_blocks = 1;  // too small for most prompts
      if (random_.Below(4) == 0) query_.avoid.push_back(w.id);
    }
    const auto by_id = [&](WorkerId id) { return *std::find_if(workers_.begin(), workers_.end(), [&](const WorkerView& w) { return w.id == id; }); };
    const auto fits = [&](const WorkerView& w) { return w.load.total_blocks == 0 || uint64_t{w.load.total_blocks} * query_.block_tokens > query_.prompt_tokens; };
    const auto avoided = [&](WorkerId id) { return std::find(query_.avoid.begin(), query_.avoid.end(), id) != query_.avoid.end(); };
    for (const RoutePolicy policy : {RoutePolicy::kCost, RoutePolicy::kRoundRobin, RoutePolicy::kLeastLoaded, RoutePolicy::kPrefixOnly}) {
      config_.policy = policy;
      query_.sequence = random_.Next64();
      const RouteDecision decision = Route(config_, query_, workers_);
      const bool somebody = std::any_of(workers_.begin(), workers_.end(), [&](const WorkerView& w) { return (w.decode || w.prefill) && !w.draining && fits(w); });
      ASSERT_EQ(decision.ok(), somebody) << decision.status.ToString();
      if (!decision.ok()) {
        ASSERT_TRUE(decision.candidates.empty());
        continue;
      }
      std::vector<WorkerId> decodes = decision.decode_alternates;
      decodes.push_back(decision.chosen.decode);
      for (const WorkerId id : decodes) {
        ASSERT_FALSE(by_id(id).draining) << RoutePolicyName(policy);
        ASSERT_TRUE(fits(by_id(id)));
        const bool others = std::any_of(workers_.begin(), workers_.end(), [&](const WorkerView& w) { return (w.decode || w.prefill) && !w.draining && fits(w) && !avoided(w.id); });
        ASSERT_TRUE(!avoided(id) || !others) << "one that just failed, although there were others";
      }
      for (const WorkerId id : decision.prefill_order) {
        ASSERT_TRUE(by_id(id).prefill && !by_id(id).draining && fits(by_id(id)) && !avoided(id));
        ASSERT_NE(id, decision.chosen.decode);
      }
    }
  }
}

TEST_P(RouterProperties, TheOrderOfTheWorkersDecidesNothing) {
  for (int round = 0; round < 200; ++round) {
    Make();
    if (random_.Below(2) != 0) {  // many that are equal: only the tie rule is left
      for (WorkerView& w : workers_) w = [&] { WorkerView same = workers_[0]; same.id = w.id; return same; }();
    }
    const RouteDecision one = Route(config_, query_, workers_);
    auto shuffled = workers_;
    random_.Shuffle(shuffled);
    const RouteDecision other = Route(config_, query_, shuffled);
    ASSERT_EQ(one.status, other.status);
    if (!one.ok()) continue;
    // Means of measured rates are sums in another order: the last bit may differ where somebody is unmeasured, and so may near ties.
    ASSERT_NEAR(one.chosen.cost.total_s, other.chosen.cost.total_s, 1e-12 * (1 + one.chosen.cost.total_s));
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RouterProperties, ::testing::Values(11, 12, 13));

TEST(RouterTies, EqualWorkersTheLeastLoadedThenTheLowestNumber) {
  RouterConfig config;
  config.local_prefill_tokens = 0;
  RouteQuery query;
  query.prompt_tokens = 500;
  std::vector<WorkerView> workers(4);
  for (uint32_t i = 0; i < 4; ++i) {
    workers[i].id = WorkerId(9 - i);
    workers[i].prefill = workers[i].decode = true;
  }
  const RouteDecision decision = Route(config, query, workers);
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision.chosen.decode, WorkerId(6));
  EXPECT_EQ(decision.chosen.prefill, WorkerId()) << "of equal seconds the way without a hand-off";
  EXPECT_EQ(decision.decode_alternates, (std::vector<WorkerId>{WorkerId(7), WorkerId(8), WorkerId(9)}));
  config.policy = RoutePolicy::kRoundRobin;
  std::map<uint32_t, int> turns;
  for (query.sequence = 0; query.sequence < 40; ++query.sequence) ++turns[Route(config, query, workers).chosen.decode.value];
  EXPECT_EQ(turns, (std::map<uint32_t, int>{{6, 10}, {7, 10}, {8, 10}, {9, 10}}));
}

}  // namespace
}  // namespace baton
