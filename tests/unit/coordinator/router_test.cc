#include "coordinator/router.h"

#include <set>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Round figures: 1,000 tokens/s of prefill, 10 ms a step, 1 MB/s of transfer and store, blocks of 100 tokens and 1,000 bytes.
RouterConfig Config() {
  RouterConfig config;
  config.local_prefill_tokens = 50;
  config.expected_answer_tokens = 100;
  config.decode_knee_streams = 10;
  config.reserved_streams = 0;  // has a test of its own
  config.work_weight = 0;  // has a test of its own
  config.default_prefill_tokens_per_s = 1000;
  config.default_decode_step_s = 0.01;
  config.default_transfer_bytes_per_s = 1e6;
  config.default_transfer_latency_s = 0.001;
  config.default_store_bytes_per_s = 1e6;
  return config;
}
RouteQuery Query(uint32_t prompt_tokens, uint32_t max_tokens = 0) {
  RouteQuery query;
  query.prompt_tokens = prompt_tokens;
  query.max_tokens = max_tokens;
  query.block_tokens = 100;
  query.block_bytes = 1000;
  return query;
}
WorkerView Worker(uint32_t id, const std::string& roles, uint32_t matched_blocks = 0) {
  WorkerView view;
  view.id = WorkerId(id);
  view.prefill = roles.find('p') != std::string::npos;
  view.decode = roles.find('d') != std::string::npos;
  view.store = roles.find('s') != std::string::npos;
  view.matched_blocks = matched_blocks;
  return view;
}
template <typename Change>
WorkerView With(WorkerView view, Change change) {
  change(view);
  return view;
}
WorkerView Running(WorkerView view, uint32_t running) { return With(view, [&](WorkerView& v) { v.load.running = running; }); }
WorkerView Queued(WorkerView view, uint64_t tokens) { return With(view, [&](WorkerView& v) { v.load.queued_prefill_tokens = tokens; }); }
WorkerView Draining(WorkerView view) { return With(view, [](WorkerView& v) { v.draining = true; }); }

const RouteCandidate& Find(const RouteDecision& decision, uint32_t decode, uint32_t prefill) {
  for (const RouteCandidate& c : decision.candidates) {
    if (c.decode.value == decode && c.prefill.value == prefill) return c;
  }
  ADD_FAILURE() << "no candidate decode=" << decode << " prefill=" << prefill;
  static const RouteCandidate kNone;
  return kNone;
}

// ---- golden table of every term ----

struct TermCase {
  const char* what;
  RouteQuery query;
  std::vector<WorkerView> workers;
  uint32_t decode, prefill;  // the candidate looked at; prefill 0 = local
  CostTerms want;
  uint32_t cached_tokens = 0;
  CacheSource from = CacheSource::kNone;
};
class RouterTerms : public ::testing::TestWithParam<TermCase> {};

TEST_P(RouterTerms, AreTheSecondsOfTheTable) {
  const TermCase& c = GetParam();
  const RouteDecision decision = Route(Config(), c.query, c.workers);
  ASSERT_TRUE(decision.ok()) << decision.status.ToString();
  const RouteCandidate& got = Find(decision, c.decode, c.prefill);
  EXPECT_NEAR(got.cost.queue_s, c.want.queue_s, 1e-9) << c.what;
  EXPECT_NEAR(got.cost.store_load_s, c.want.store_load_s, 1e-9) << c.what;
  EXPECT_NEAR(got.cost.prefill_s, c.want.prefill_s, 1e-9) << c.what;
  EXPECT_NEAR(got.cost.transfer_s, c.want.transfer_s, 1e-9) << c.what;
  EXPECT_NEAR(got.cost.interference_s, c.want.interference_s, 1e-9) << c.what;
  EXPECT_NEAR(got.cost.decode_s, c.want.decode_s, 1e-9) << c.what;
  const CostTerms& w = c.want;
  EXPECT_NEAR(got.cost.total_s, w.queue_s + w.store_load_s + w.prefill_s + w.transfer_s + w.interference_s + w.decode_s, 1e-9) << c.what;
  EXPECT_EQ(got.cached_tokens, c.cached_tokens) << c.what;
  EXPECT_EQ(got.cached_from, c.from) << c.what;
}

INSTANTIATE_TEST_SUITE_P(
    Golden, RouterTerms,
    ::testing::Values(
        //               queue load prefill transfer interference decode
        TermCase{"cold, local, idle", Query(1000), {Worker(1, "d")}, 1, 0, {0, 0, 1.0, 0, 0, 0}},
        TermCase{"cold, remote: 10 blocks are 10 ms on the wire, hidden by 1 s of computing", Query(1000), {Worker(1, "d"), Worker(2, "p")}, 1, 2, {0, 0, 1.0, 0.001, 0, 0}},
        TermCase{"a slow wire shows what computing does not hide", Query(1000),
                 {Worker(1, "d"), With(Worker(2, "p"), [](WorkerView& v) { v.load.transfer_bytes_per_s = 5000; })}, 1, 2, {0, 0, 1.0, 2 - 1 + 0.001, 0, 0}},
        TermCase{"a measured latency", Query(1000), {Worker(1, "d"), With(Worker(2, "p"), [](WorkerView& v) { v.transfer_latency_s = 0.02; })}, 1, 2, {0, 0, 1.0, 0.02, 0, 0}},
        TermCase{"queued tokens over the rate", Query(1000), {Worker(1, "d"), Queued(Worker(2, "p"), 3000)}, 1, 2, {3.0, 0, 1.0, 0.001, 0, 0}},
        TermCase{"its own queue counts for local", Query(1000), {Queued(Worker(1, "pd"), 500)}, 1, 0, {0.5, 0, 1.0, 0, 0, 0}},
        TermCase{"a measured rate", Query(1000), {Worker(1, "d"), With(Queued(Worker(2, "p"), 3000), [](WorkerView& v) { v.load.prefill_tokens_per_s = 2000; })}, 1, 2, {1.5, 0, 0.5, 0.001, 0, 0}},
        TermCase{"one measured rate is assumed of the others", Query(1000), {Worker(1, "d"), With(Worker(2, "p"), [](WorkerView& v) { v.load.prefill_tokens_per_s = 2000; })}, 1, 0, {0, 0, 0.5, 0, 0, 0}},
        TermCase{"decode's own pool", Query(1000), {Worker(1, "d", 4)}, 1, 0, {0, 0, 0.6, 0, 0, 0}, 400, CacheSource::kDecode},
        TermCase{"prefill's own pool", Query(1000), {Worker(1, "d"), Worker(2, "p", 4)}, 1, 2, {0, 0, 0.6, 0.001, 0, 0}, 400, CacheSource::kPrefill},
        TermCase{"only missing blocks are sent", Query(1000),
                 {Worker(1, "d", 8), With(Worker(2, "p", 10), [](WorkerView& v) { v.load.transfer_bytes_per_s = 1000; })}, 1, 2, {0, 0, 0.001, 2 - 0.001 + 0.001, 0, 0}, 999, CacheSource::kPrefill},
        TermCase{"the store's blocks beyond its own are read", Query(1000), {Worker(1, "d", 2), Worker(3, "s", 6)}, 1, 0, {0, 0.004, 0.4, 0, 0, 0}, 600, CacheSource::kStore},
        TermCase{"the store has no more than the pool", Query(1000), {Worker(1, "d", 6), Worker(3, "s", 6)}, 1, 0, {0, 0, 0.4, 0, 0, 0}, 600, CacheSource::kDecode},
        TermCase{"the last token is always computed", Query(1000), {Worker(1, "d", 10)}, 1, 0, {0, 0, 0.001, 0, 0, 0}, 999, CacheSource::kDecode},
        TermCase{"local stalls 4 streams for 1 s each", Query(1000), {Running(Worker(1, "d"), 4)}, 1, 0, {0, 0, 1.0, 0, 4.0, 0}},
        TermCase{"remote stalls nobody", Query(1000), {Running(Worker(1, "d"), 4), Worker(2, "p")}, 1, 2, {0, 0, 1.0, 0.001, 0, 0}},
        TermCase{"unless the prefill worker decodes too", Query(1000), {Running(Worker(1, "d"), 4), Running(Worker(2, "pd"), 2)}, 1, 2, {0, 0, 1.0, 0.001, 2.0, 0}},
        TermCase{"100 answer tokens beside 10 streams: each token 10 ms / (10 + 10) later, ten times", Query(1000, 100), {Running(Worker(1, "d"), 10), Worker(2, "p")}, 1, 2, {0, 0, 1.0, 0.001, 0, 0.5}},
        TermCase{"max_tokens counts as far as answers usually go", Query(1000, 100000), {Running(Worker(1, "d"), 10), Worker(2, "p")}, 1, 2, {0, 0, 1.0, 0.001, 0, 0.5}},
        TermCase{"waiting requests go first", Query(1000), {With(Worker(1, "d"), [](WorkerView& v) { v.load.waiting = 3; })}, 1, 0, {0, 0, 1.0, 0, 0, 0.03}},
        TermCase{"11 blocks needed, 6 free of 16: half of what runs must end", Query(1000, 100),
                 {With(Worker(1, "d"), [](WorkerView& v) { v.load.free_blocks = 6, v.load.total_blocks = 16; })}, 1, 0, {0, 0, 1.0, 0, 0, 0.5}},
        TermCase{"blocks that it holds need no place", Query(1000, 100),
                 {With(Worker(1, "d", 5), [](WorkerView& v) { v.load.free_blocks = 6, v.load.total_blocks = 16; })}, 1, 0, {0, 0, 0.5, 0, 0, 0}, 500, CacheSource::kDecode}),
    [](const auto& info) { return "Case" + std::to_string(info.index); });

// ---- golden table of choices ----

struct ChoiceCase {
  const char* what;
  RouteQuery query;
  std::vector<WorkerView> workers;
  const char* reason;
  std::vector<uint32_t> prefill_order = {}, decode_alternates = {};
};
class RouterChoice : public ::testing::TestWithParam<ChoiceCase> {};

std::vector<uint32_t> Values(const std::vector<WorkerId>& ids) {
  std::vector<uint32_t> values;
  for (const WorkerId id : ids) values.push_back(id.value);
  return values;
}

TEST_P(RouterChoice, IsThatOfTheTable) {
  const ChoiceCase& c = GetParam();
  const RouteDecision decision = Route(Config(), c.query, c.workers);
  ASSERT_TRUE(decision.ok()) << decision.status.ToString();
  EXPECT_EQ(decision.reason, c.reason) << c.what;
  EXPECT_EQ(Values(decision.prefill_order), c.prefill_order) << c.what;
  EXPECT_EQ(Values(decision.decode_alternates), c.decode_alternates) << c.what;
  std::vector<WorkerView> reversed(c.workers.rbegin(), c.workers.rend());
  EXPECT_EQ(Route(Config(), c.query, reversed).reason, c.reason) << "the workers' order must not matter: " << c.what;
}

RouteQuery Avoiding(RouteQuery query, std::vector<uint32_t> workers) {
  for (const uint32_t w : workers) query.avoid.push_back(WorkerId(w));
  return query;
}

INSTANTIATE_TEST_SUITE_P(
    Golden, RouterChoice,
    ::testing::Values(
        ChoiceCase{"an idle decode worker computes a cold prompt itself: no hand-off", Query(1000), {Worker(1, "d"), Worker(2, "p")},
                   "decode=1 prefill=local cached=0/none why=\"local 1 s <= prefill 2: 1 s\""},
        ChoiceCase{"with a stream to stall, prefill is elsewhere", Query(1000), {Running(Worker(1, "d"), 1), Worker(2, "p")},
                   "decode=1 prefill=2 cached=0/none why=\"prefill 2: 1 s < local 2 s\"", {2}},
        ChoiceCase{"few uncached tokens stay local whatever runs", Query(449), {Running(Worker(1, "d", 4), 9), Worker(2, "p")},
                   "decode=1 prefill=local cached=400/decode why=\"49 uncached tokens < 50\""},
        ChoiceCase{"at the threshold seconds decide", Query(450), {Running(Worker(1, "d", 4), 9), Worker(2, "p", 4)},
                   "decode=1 prefill=2 cached=400/prefill why=\"prefill 2: 0.051 s < local 0.5 s\"", {2}},
        ChoiceCase{"the cache draws the prompt", Query(1000), {Worker(1, "d"), Worker(2, "d", 8), Worker(3, "p")},
                   "decode=2 prefill=local cached=800/decode why=\"local 0.2 s <= prefill 3: 1 s\"", {}, {1}},
        ChoiceCase{"until its queue costs more than computing again", Query(1000), {Worker(1, "d"), Queued(Worker(2, "d", 8), 900)},
                   "decode=1 prefill=local cached=0/none why=\"no other prefill worker\"", {}, {2}},
        ChoiceCase{"the better prefill worker first, the others after it", Query(1000),
                   {Running(Worker(1, "d"), 3), Queued(Worker(2, "p"), 500), Queued(Worker(3, "p"), 100), Queued(Worker(4, "p"), 300)},
                   "decode=1 prefill=3 cached=0/none why=\"prefill 3: 1.1 s < local 4 s\"", {3, 4, 2}},
        ChoiceCase{"a full tie goes to the lowest ids", Query(1000), {Running(Worker(7, "d"), 1), Running(Worker(5, "d"), 1), Worker(9, "p"), Worker(8, "p")},
                   "decode=5 prefill=8 cached=0/none why=\"prefill 8: 1 s < local 2 s\"", {8, 9}, {7}},
        ChoiceCase{"a worker of both roles alone", Query(1000), {Worker(1, "pd")},
                   "decode=1 prefill=local cached=0/none why=\"no other prefill worker\""},
        ChoiceCase{"two of both roles: the other one can prefill", Query(1000), {Running(Worker(1, "pd", 5), 1), Running(Worker(2, "pd"), 8)},
                   "decode=1 prefill=local cached=500/decode why=\"local 1 s <= prefill 2: 9 s\"", {}, {2}},
        ChoiceCase{"draining workers get nothing", Query(1000), {Draining(Worker(1, "d", 9)), Running(Worker(2, "d"), 1), Draining(Worker(3, "p")), Worker(4, "p")},
                   "decode=2 prefill=4 cached=0/none why=\"prefill 4: 1 s < local 2 s\"", {4}},
        ChoiceCase{"who just failed is avoided", Avoiding(Query(1000), {1, 3}), {Worker(1, "d", 9), Running(Worker(2, "d"), 1), Worker(3, "p", 9), Worker(4, "p")},
                   "decode=2 prefill=4 cached=0/none why=\"prefill 4: 1 s < local 2 s\"", {4}},
        ChoiceCase{"an avoided prefill worker is not needed", Avoiding(Query(1000), {2}), {Running(Worker(1, "d"), 1), Worker(2, "p")},
                   "decode=1 prefill=local cached=0/none why=\"no other prefill worker\""},
        ChoiceCase{"no decode worker: prefill takes both roles", Query(1000), {Worker(2, "p"), Queued(Worker(3, "p"), 10)},
                   "decode=2 prefill=local cached=0/none why=\"no decode worker, a prefill worker does both; local 1 s <= prefill 3: 1.01 s\"", {}, {3}},
        ChoiceCase{"the only decode worker failed: the survivor takes both roles", Avoiding(Query(1000), {1}), {Worker(1, "d"), Worker(2, "p")},
                   "decode=2 prefill=local cached=0/none why=\"no decode worker, a prefill worker does both; no other prefill worker\""},
        ChoiceCase{"nobody else is left", Avoiding(Query(1000), {1}), {Worker(1, "d")},
                   "decode=1 prefill=local cached=0/none why=\"all others failed, one that just failed is tried again; no other prefill worker\""},
        ChoiceCase{"an empty prompt", Query(0), {Worker(1, "d"), Worker(2, "p")}, "decode=1 prefill=local cached=0/none why=\"0 uncached tokens < 50\""}),
    [](const auto& info) { return "Case" + std::to_string(info.index); });

// ---- the rest ----

TEST(Router, NoDecodeWorkerIsUnavailableAndSaysWhen) {
  RouterConfig config = Config();
  config.prefill_may_decode = false;
  const RouteDecision decision = Route(config, Query(1000), std::vector{Worker(1, "s"), Worker(2, "p")});
  EXPECT_EQ(decision.status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(decision.status.message(), HasSubstr("no decode worker"));
  EXPECT_EQ(decision.retry_after_s, config.unavailable_retry_s);
  EXPECT_EQ(Route(Config(), Query(1000), {}).status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(Route(Config(), Query(1000), std::vector{Draining(Worker(1, "d"))}).status.code(), StatusCode::kUnavailable);
}

TEST(Router, APromptThatFitsNoWorkerIsInvalid) {
  const auto sized = [](uint32_t id, uint32_t blocks) { return With(Worker(id, "d"), [&](WorkerView& v) { v.load.total_blocks = v.load.free_blocks = blocks; }); };
  const RouteDecision decision = Route(Config(), Query(1000), std::vector{sized(1, 5), sized(2, 10)});
  EXPECT_EQ(decision.status.code(), StatusCode::kInvalid);
  EXPECT_THAT(decision.status.message(), HasSubstr("needs 11 KV blocks, the largest worker has 10"));
  EXPECT_EQ(Route(Config(), Query(1000), std::vector{sized(1, 5), sized(2, 11)}).chosen.decode, WorkerId(2));
}

TEST(Router, PoliciesOtherThanCost) {
  const std::vector<WorkerView> workers = {Running(Worker(1, "d", 3), 5), Running(Worker(2, "d"), 1), Running(Worker(3, "d", 9), 7), Worker(4, "p"), Queued(Worker(5, "p", 2), 10)};
  RouterConfig config = Config();
  config.policy = RoutePolicy::kLeastLoaded;
  RouteDecision decision = Route(config, Query(1000), workers);
  EXPECT_EQ(decision.chosen.decode, WorkerId(2));
  EXPECT_EQ(decision.chosen.prefill, WorkerId(4));
  EXPECT_THAT(decision.reason, HasSubstr("why=\"policy least_loaded\""));
  config.policy = RoutePolicy::kPrefixOnly;
  decision = Route(config, Query(1000), workers);
  EXPECT_EQ(decision.chosen.decode, WorkerId(3));
  EXPECT_EQ(decision.chosen.prefill, WorkerId(5));
  config.policy = RoutePolicy::kRoundRobin;
  std::vector<uint32_t> turns;
  for (uint64_t i = 0; i < 6; ++i) {
    RouteQuery query = Query(1000);
    query.sequence = i;
    turns.push_back(Route(config, query, workers).chosen.decode.value);
  }
  EXPECT_THAT(turns, ElementsAre(1, 2, 3, 1, 2, 3));
}

TEST(Router, ADecodeWorkerIsKeptFreeForAnswersToCome) {
  RouterConfig config = Config();
  config.reserved_streams = 1;
  const std::vector<WorkerView> workers = {Worker(1, "d"), Worker(2, "p")};
  const RouteDecision decision = Route(config, Query(1000), workers);
  EXPECT_EQ(decision.chosen.prefill, WorkerId(2));
  EXPECT_NEAR(Find(decision, 1, 0).cost.interference_s, 1.0, 1e-9) << "as if one stream ran";
  EXPECT_NEAR(Route(config, Query(1000), std::vector{Worker(3, "pd")}).chosen.cost.interference_s, 0, 1e-9) << "a worker of both roles is for both";
}

TEST(Router, WaitingForTheSameWorkBeatsDoingItAgain) {
  // Worker 1 computes this very prompt for a sibling: 1 s of queue, then all cached. Worker 2 would need the same second.
  const std::vector<WorkerView> workers = {Queued(Worker(1, "d", 10), 1000), Worker(2, "d")};
  EXPECT_EQ(Route(Config(), Query(1000), workers).chosen.decode, WorkerId(2));
  RouterConfig config = Config();
  config.work_weight = 0.2;
  const RouteDecision decision = Route(config, Query(1000), workers);
  EXPECT_EQ(decision.chosen.decode, WorkerId(1));
  EXPECT_NEAR(Find(decision, 2, 0).cost.work_s, 0.2, 1e-9);
  EXPECT_NEAR(Find(decision, 2, 0).cost.total_s, 1.2, 1e-9);
}

TEST(Router, PolicyNames) {
  for (const RoutePolicy policy : {RoutePolicy::kCost, RoutePolicy::kRoundRobin, RoutePolicy::kLeastLoaded, RoutePolicy::kPrefixOnly}) {
    const auto parsed = ParseRoutePolicy(RoutePolicyName(policy));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, policy);
  }
  EXPECT_THAT(ParseRoutePolicy("random").status().message(), HasSubstr("round_robin"));
}

TEST(Router, EveryWorkerIsAmongTheCandidates) {
  const std::vector<WorkerView> workers = {Running(Worker(1, "d"), 1), Running(Worker(2, "d"), 2), Worker(3, "p"), Worker(4, "p"), Worker(5, "pd")};
  const RouteDecision decision = Route(Config(), Query(1000), workers);
  std::map<uint32_t, int> decodes, prefills;
  for (const RouteCandidate& c : decision.candidates) ++decodes[c.decode.value], ++prefills[c.prefill.value];
  for (const uint32_t id : {1, 2, 5}) EXPECT_GE(decodes[id], 2) << id;
  for (const uint32_t id : {3, 4}) EXPECT_GE(prefills[id], 1) << id;
  std::set<std::pair<uint32_t, uint32_t>> pairs;
  for (const RouteCandidate& c : decision.candidates) {
    EXPECT_TRUE(pairs.emplace(c.decode.value, c.prefill.value).second) << "listed twice";
    EXPECT_NE(c.decode, c.prefill);
    EXPECT_GE(c.cost.total_s, decision.chosen.cost.total_s);
  }
}

/// The planner groups decode workers to be fast; the answer must be that of trying every pair.
TEST(Router, ChoosesTheLeastOfAllPairs) {
  Random random(7);
  for (int round = 0; round < 500; ++round) {
    std::vector<WorkerView> workers;
    for (uint32_t id = 1; id <= 9; ++id) {
      WorkerView view = Worker(id, std::array{"p", "d", "pd", "s"}[random.Below(4)], static_cast<uint32_t>(random.Below(11)));
      view.load.running = static_cast<uint32_t>(random.Below(6));
      view.load.queued_prefill_tokens = random.Below(1500);
      view.load.transfer_bytes_per_s = 500.0 * static_cast<double>(1 + random.Below(20));
      view.load.prefill_tokens_per_s = 250.0 * static_cast<double>(1 + random.Below(8));
      workers.push_back(view);
    }
    RouterConfig config = Config();
    config.work_weight = 0.1;
    const RouteDecision decision = Route(config, Query(1000, 100), workers);
    if (!decision.ok() || decision.reason.find("does both") != std::string::npos) continue;
    double least = 1e9;
    for (const WorkerView& d : workers) {
      if (!d.decode) continue;
      for (const WorkerView& p : workers) {  // a cluster of this pair and the stores alone: its best is the pair's or local
        std::vector<WorkerView> pair = {d};
        if (p.prefill && p.id != d.id) pair.push_back(p);
        for (const WorkerView& s : workers) {
          if (s.store) pair.push_back(s);
        }
        for (const RouteCandidate& c : Route(config, Query(1000, 100), pair).candidates) least = std::min(least, c.cost.total_s);
      }
    }
    ASSERT_NEAR(decision.chosen.cost.total_s, least, 1e-9) << "round " << round;
  }
}

// ---- what steps were measured to cost, and ways that differ ----

WorkerView Measured(WorkerView view) {
  return With(view, [](WorkerView& v) { v.load.step_model = {.base_s = 0.01, .token_s = 1e-3, .pair_s = 1e-6, .row_s = 0.002}; });
}

TEST(RouterFit, PrefillCountsChunksPairsAndTheStreamsBeside) {
  RouterConfig config = Config();
  config.prefill_chunk_tokens = 250;
  const RouteDecision decision = Route(config, Query(1000), std::vector{Measured(Worker(1, "d"))});
  EXPECT_NEAR(decision.chosen.cost.prefill_s, 4 * 0.01 + 1000 * 1e-3 + 1e-6 * 1000 * 500, 1e-9);
  const RouteDecision cached = Route(config, Query(1000), std::vector{Measured(Worker(1, "d", 5))});
  EXPECT_NEAR(cached.chosen.cost.prefill_s, 2 * 0.01 + 500 * 1e-3 + 1e-6 * 500 * (500 + 250), 1e-9) << "what is cached must still be looked at";
  const RouteDecision beside = Route(config, Query(1000), std::vector{Running(Measured(Worker(1, "d")), 3)});
  EXPECT_NEAR(beside.chosen.cost.prefill_s - decision.chosen.cost.prefill_s, 4 * 3 * 0.002, 1e-9);
}

TEST(RouterFit, OneMoreStreamCostsTheOthersARow) {
  const RouteDecision decision = Route(Config(), Query(60, 100), std::vector{Running(Measured(Worker(1, "d")), 5)});
  EXPECT_NEAR(decision.chosen.cost.decode_s, 100 * 0.002 * 5, 1e-9);
}

TEST(RouterFit, UnmeasuredWorkersKeepTheirRates) {
  const RouteDecision decision = Route(Config(), Query(1000), std::vector{Worker(1, "d"), Measured(Worker(2, "d"))});
  EXPECT_NEAR(Find(decision, 1, 0).cost.prefill_s, 1, 1e-9);
}

TEST(RouterPaths, TheSlowWayIsAvoided) {
  // 100 blocks are 0.1 s over a usual way, hidden by the computation; 10 s over the slow one.
  const std::vector<PathSpeed> slow = {{WorkerId(1), 1e4}};
  const WorkerView far = With(Worker(3, "p"), [&](WorkerView& v) { v.paths = slow; });
  const std::vector<WorkerView> views = {Running(Worker(1, "d"), 1), far, Worker(4, "p")};
  const RouteDecision differs = Route(Config(), Query(10'000), views);
  EXPECT_EQ(differs.chosen.prefill, WorkerId(3)) << "equal, the lower number";
  EXPECT_NEAR(Find(differs, 1, 3).cost.transfer_s - Find(differs, 1, 4).cost.transfer_s, 0, 1e-9) << "10 s of bytes hide behind 10 s of computing";
  const std::vector<WorkerView> cached = {Running(Worker(1, "d"), 1), With(far, [](WorkerView& v) { v.matched_blocks = 90; }), Worker(4, "p", 90)};
  const RouteDecision shows = Route(Config(), Query(10'000), cached);
  EXPECT_EQ(shows.chosen.prefill, WorkerId(4));
  EXPECT_NEAR(Find(shows, 1, 3).cost.transfer_s, 0.001 + 10 - 1, 1e-9);
  EXPECT_NEAR(Find(shows, 1, 4).cost.transfer_s, 0.001, 1e-9);
}

TEST(RouterPaths, EachDecodeWorkerHasItsOwnBestPrefillWorker) {
  const std::vector<PathSpeed> to_2 = {{WorkerId(2), 1e4}}, to_1 = {{WorkerId(1), 1e4}};
  const std::vector<WorkerView> views = {Worker(1, "d"), Worker(2, "d"), With(Worker(3, "p", 90), [&](WorkerView& v) { v.paths = to_2; }),
                                         With(Worker(4, "p", 90), [&](WorkerView& v) { v.paths = to_1; })};
  const RouteDecision decision = Route(Config(), Query(10'000), views);
  EXPECT_EQ(decision.candidates[1].prefill.value, decision.candidates[1].decode.value + 2) << "1 from 3, 2 from 4";
  EXPECT_NEAR(decision.chosen.cost.transfer_s, 0.001, 1e-9);
}

}  // namespace
}  // namespace baton
