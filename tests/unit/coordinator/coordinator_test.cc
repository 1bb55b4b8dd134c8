#include "coordinator/coordinator.h"

#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST_F(CoordinatorTest, WithoutWorkersThereIsNoCardAndNoRoute) {
  EXPECT_EQ(coordinator_.Card().status().code(), StatusCode::kUnavailable);
  const RouteDecision decision = coordinator_.Route({}, Query(1, 10));
  EXPECT_EQ(decision.status.code(), StatusCode::kUnavailable);
  EXPECT_GT(decision.retry_after_s, 0);
  Join("s", {"store"});
  EXPECT_FALSE(coordinator_.Card().ok());
  Join("d", {"decode"});
  EXPECT_EQ(coordinator_.Card()->model_name, "m");
}

TEST_F(CoordinatorTest, APrefillWorkerAloneServes) {
  Join("p", {"prefill"});
  EXPECT_TRUE(coordinator_.Card().ok());
  EXPECT_THAT(coordinator_.Route({}, Query(1, 10)).reason, HasSubstr("does both"));
}

TEST_F(CoordinatorTest, RoutesToWhereThePrefixIs) {
  const auto chain = TestChain(1, 10);
  Join("d1", {"decode"});
  const MemberInfo d2 = Join("d2", {"decode"}, chain);
  const RouteDecision decision = coordinator_.Route(chain, Query(1, 700));
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision.chosen.decode, d2.id);
  EXPECT_EQ(decision.chosen.cached_tokens, 640u);
  EXPECT_EQ(decision.chosen.cached_from, CacheSource::kDecode);
}

TEST_F(CoordinatorTest, TheStoresPrefixCounts) {
  const auto chain = TestChain(1, 10);
  Join("d", {"decode"});
  Join("s", {"store"}, chain);
  const RouteDecision decision = coordinator_.Route(chain, Query(1, 700));
  EXPECT_EQ(decision.chosen.cached_tokens, 640u);
  EXPECT_THAT(decision.reason, HasSubstr("cached=640/store"));
}

TEST_F(CoordinatorTest, EventsMoveTheIndex) {
  const auto chain = TestChain(1, 10);
  const MemberInfo d = Join("d", {"decode"}, chain);
  HeartbeatReport report{2, false, false, {}, {{false, chain[4]}, {true, TestKey(5)}}};
  coordinator_.Heartbeat(d.id, d.incarnation, report);
  EXPECT_EQ(coordinator_.index().holder_blocks(), 10u);
  EXPECT_EQ(coordinator_.Route(chain, Query(1, 700)).chosen.cached_tokens, 256u);
  report = {3, true, false, {}, {{true, chain[0]}}};
  coordinator_.Heartbeat(d.id, d.incarnation, report);
  EXPECT_EQ(coordinator_.index().holder_blocks(), 1u);
}

TEST_F(CoordinatorTest, ChangesCountInTheirOrder) {
  const auto chain = TestChain(1, 2);
  const MemberInfo d = Join("d", {"decode"});
  coordinator_.Heartbeat(d.id, d.incarnation, {2, false, false, {}, {{true, chain[0]}, {false, chain[0]}, {false, chain[1]}, {true, chain[1]}}});
  EXPECT_FALSE(coordinator_.index().Holds(d.id, chain[0])) << "computed and evicted between two beats";
  EXPECT_TRUE(coordinator_.index().Holds(d.id, chain[1]));
}

TEST_F(CoordinatorTest, TheDeadHoldNothingAndGetNothing) {
  const auto chain = TestChain(1, 10);
  const MemberInfo a = Join("a", {"decode"}, chain), b = Join("b", {"decode"}, chain);
  coordinator_.Disconnect(a.id, a.incarnation);
  EXPECT_EQ(coordinator_.index().holder_blocks(), 10u);
  EXPECT_EQ(coordinator_.Route(chain, Query(1, 700)).chosen.decode, b.id);
  Advance(3);
  EXPECT_THAT(coordinator_.Tick(), ElementsAre(b.id));
  EXPECT_EQ(coordinator_.index().holder_blocks(), 0u);
  EXPECT_EQ(coordinator_.Route(chain, Query(2, 700)).status.code(), StatusCode::kUnavailable);
}

TEST_F(CoordinatorTest, AStoppedProcessThatWakesUpIsNotBelieved) {
  const auto chain = TestChain(1, 10);
  const MemberInfo old = Join("a", {"decode"});
  const MemberInfo fresh = Join("a", {"decode"});
  HeartbeatReport late{2, true, false, {}, Added(chain)};
  EXPECT_EQ(coordinator_.Heartbeat(old.id, old.incarnation, late).status.code(), StatusCode::kAborted);
  coordinator_.Disconnect(old.id, old.incarnation);
  EXPECT_EQ(coordinator_.index().holder_blocks(), 0u);
  EXPECT_EQ(coordinator_.Route(chain, Query(1, 700)).chosen.decode, fresh.id);
}

TEST_F(CoordinatorTest, ABurstIsSpreadEvenly) {
  WorkerLoad fast;
  fast.prefill_tokens_per_s = 5000;
  for (int i = 0; i < 4; ++i) Join("d" + std::to_string(i), {"decode"}, {}, fast);
  for (int i = 0; i < 5; ++i) Join("p" + std::to_string(i), {"prefill"}, {}, fast);
  std::map<uint32_t, int> decodes, prefills;
  for (uint64_t i = 0; i < 100; ++i) {
    const RouteDecision decision = coordinator_.Route(TestChain(i, 16), Query(i + 1, 1024));
    ASSERT_TRUE(decision.ok()) << decision.status.ToString();
    ++decodes[decision.chosen.decode.value];
    if (!decision.prefill_order.empty()) ++prefills[decision.chosen.prefill.value];
  }
  EXPECT_EQ(decodes.size(), 4u);
  for (const auto& [id, n] : decodes) EXPECT_NEAR(n, 25, 5) << "decode " << id;
  EXPECT_EQ(prefills.size(), 5u);
  int most = 0, least = 100;
  for (const auto& [id, n] : prefills) most = std::max(most, n), least = std::min(least, n);
  EXPECT_LE(most - least, 2);
}

TEST_F(CoordinatorTest, SiblingsFollowTheFirstOfThem) {
  for (int i = 0; i < 4; ++i) Join("d" + std::to_string(i), {"decode"});
  const auto chain = TestChain(1, 64);
  const RouteDecision first = coordinator_.Route(chain, Query(1, 4100));
  EXPECT_EQ(first.chosen.cached_tokens, 0u);
  const RouteDecision second = coordinator_.Route(chain, Query(2, 4100));
  EXPECT_EQ(second.chosen.decode, first.chosen.decode);
  EXPECT_EQ(second.chosen.cached_tokens, 4096u) << "computed once";
  // The expectation ends unless the worker confirms it.
  Advance(2.5);
  for (uint32_t id = 1; id <= 4; ++id) {
    const Member* member = coordinator_.membership().Find(WorkerId(id));
    coordinator_.Heartbeat(member->info.id, member->info.incarnation, {2, false, false, {}, {}});
  }
  coordinator_.Tick();
  EXPECT_EQ(coordinator_.Route(chain, Query(3, 4100)).chosen.cached_tokens, 0u);
}

TEST_F(CoordinatorTest, PredictedLoadGoesWhenAHeartbeatContainsIt) {
  const MemberInfo d = Join("d", {"decode"});
  coordinator_.Route({}, Query(1, 1000));
  EXPECT_EQ(coordinator_.Route({}, Query(2, 1000)).chosen.cost.queue_s, 1000 / 500.0);
  WorkerLoad load;
  load.queued_prefill_tokens = 1500;
  Advance(0.01);
  coordinator_.Heartbeat(d.id, d.incarnation, {2, false, false, load, {}});
  EXPECT_EQ(coordinator_.Route({}, Query(3, 1000)).chosen.cost.queue_s, 3500 / 500.0) << "too young to be in that load";
  Advance(0.1);
  coordinator_.Heartbeat(d.id, d.incarnation, {3, false, false, load, {}});
  EXPECT_EQ(coordinator_.Route({}, Query(4, 1000)).chosen.cost.queue_s, 1500 / 500.0);
}

TEST_F(CoordinatorTest, AFinishedRequestNoLongerLoads) {
  Join("d", {"decode"});
  coordinator_.Route({}, Query(1, 1000));
  coordinator_.Finished({RequestId(1), 2.0, 3.0, 1000, 0, true});
  EXPECT_EQ(coordinator_.Route({}, Query(2, 1000)).chosen.cost.queue_s, 0);
}

TEST_F(CoordinatorTest, RefusalsAreCountedAndCarryRetryAfter) {
  WorkerLoad busy;
  busy.queued_prefill_tokens = 20'000;
  const MemberInfo d = Join("d", {"decode"}, {}, busy);
  EXPECT_TRUE(coordinator_.Route({}, Query(9, 1000)).ok()) << "40 s at an assumed rate say nothing";
  coordinator_.Finished({RequestId(9)});
  busy.prefill_tokens_per_s = 500;
  coordinator_.Heartbeat(d.id, d.incarnation, {2, false, false, busy, {}});
  const RouteDecision refused = coordinator_.Route({}, Query(1, 1000));
  EXPECT_EQ(refused.status.code(), StatusCode::kExhausted);
  EXPECT_NEAR(refused.retry_after_s, 10, 1e-6);
  RouteQuery moved = Query(2, 1000);
  moved.moved = true;
  EXPECT_TRUE(coordinator_.Route({}, moved).ok()) << "a stream that goes on elsewhere is not new load";
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_refused_total{status=\"429\"} 1"));
}

TEST_F(CoordinatorTest, PredictedAgainstActualIsAMetric) {
  Join("d", {"decode"});
  coordinator_.Route({}, Query(1, 1000));  // 2 s predicted
  coordinator_.Finished({RequestId(1), 2.2, 3.0, 1000, 0, true});
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_ttft_error_ratio_bucket{le=\"0.05\"} 0"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_ttft_error_ratio_bucket{le=\"0.1\"} 1"));
  coordinator_.Finished({RequestId(77), 1, 1, 1, 0, true});
  coordinator_.Finished({RequestId(1), 0, 3.0, 1000, 0, false});
  RequestOutcome moved{RequestId(1), 9, 9, 1000, 0, true};
  moved.moves = 1;
  coordinator_.Finished(moved);
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_ttft_error_ratio_count 1"));
  coordinator_.Tick();
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_ttft_error_median 0.0909"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("baton_coordinator_ttft_error_p90 0.0909"));
}

TEST_F(CoordinatorTest, JsonTellsTheClusterTheRouteAndTheRequest) {
  const auto chain = TestChain(1, 10);
  Join("d", {"decode"}, chain);
  Join("p", {"prefill"});
  RouteQuery query = Query(9, 1000);
  query.tenant = "caf\xff";  // no UTF-8
  const Json dry = Json::parse(coordinator_.ExplainRouteJson(chain, query));
  EXPECT_TRUE(dry["ok"]);
  EXPECT_EQ(dry["candidates"].size(), 2u);
  EXPECT_EQ(coordinator_.LastDecisions().size(), 0u) << "a dry run leaves nothing";
  coordinator_.Route(chain, query);
  coordinator_.Finished({RequestId(9), 1.5, 3.0, 1000, 640, true});
  const auto text = coordinator_.ExplainRequestJson(RequestId(9));
  ASSERT_TRUE(text.ok());
  const Json request = Json::parse(*text);
  EXPECT_EQ(request["ttft_s"], 1.5);
  EXPECT_EQ(request["decision"]["chosen"]["cached_tokens"], 640);
  EXPECT_NEAR(request["predicted_ttft_s"].get<double>(), request["decision"]["chosen"]["ttft_s"].get<double>(), 1e-9);
  for (const char* term : {"queue_s", "store_load_s", "prefill_s", "transfer_s", "interference_s", "decode_s", "total_s"}) {
    EXPECT_TRUE(request["decision"]["candidates"][1].contains(term)) << term;
  }
  EXPECT_EQ(coordinator_.ExplainRequestJson(RequestId(10)).status().code(), StatusCode::kNotFound);
  const Json cluster = Json::parse(coordinator_.ClusterJson());
  EXPECT_EQ(cluster["workers"].size(), 2u);
  EXPECT_EQ(cluster["workers"][0]["state"], "ready");
  EXPECT_EQ(cluster["index"]["holder_blocks"], 10);
  EXPECT_EQ(cluster["decisions"][0]["request"], "0000000000000009") << "as text: a number of JSON has 53 bits";
  EXPECT_EQ(request["predicted_and_actual"]["ttft_s"]["actual"], 1.5);
  EXPECT_EQ(request["predicted_and_actual"]["cached_tokens"]["actual"], 640);
}

TEST_F(CoordinatorTest, ALostEventIsFoundByTheSums) {
  const auto chain = TestChain(1, 4);
  const MemberInfo d = Join("d", {"decode"}, {chain.begin(), chain.begin() + 2});
  HeldSum held;
  for (const BlockKey& key : {chain[0], chain[1], chain[2]}) held.Count({true, key});
  HeartbeatReport report{2, false, false, {}, {{true, chain[2]}}};
  report.held = held;
  EXPECT_FALSE(coordinator_.Heartbeat(d.id, d.incarnation, report).resync);
  held.Count({false, chain[0]});  // this event gets lost
  report = {3, false, false, {}, {}};
  report.held = held;
  EXPECT_TRUE(coordinator_.Heartbeat(d.id, d.incarnation, report).resync);
  report = {4, true, false, {}, {{true, chain[1]}, {true, chain[2]}}};
  report.held = held;
  EXPECT_FALSE(coordinator_.Heartbeat(d.id, d.incarnation, report).resync);
  EXPECT_FALSE(coordinator_.index().Holds(d.id, chain[0]));
  // Said twice is the worker's own fault: found too, and mended by the snapshot.
  held.Count({true, chain[2]});
  report = {5, false, false, {}, {{true, chain[2]}}};
  report.held = held;
  EXPECT_TRUE(coordinator_.Heartbeat(d.id, d.incarnation, report).resync);
}

TEST_F(CoordinatorTest, AReportAgesUntilTheNext) {
  WorkerLoad busy;
  busy.queued_prefill_tokens = 1000;
  busy.prefill_tokens_per_s = 1000;
  Join("d", {"decode"}, {}, busy);
  const double at_once = Json::parse(coordinator_.ExplainRouteJson({}, Query(1, 100)))["chosen"]["queue_s"];
  EXPECT_NEAR(at_once, 1, 1e-9);
  Advance(0.4);
  const double later = Json::parse(coordinator_.ExplainRouteJson({}, Query(1, 100)))["chosen"]["queue_s"];
  EXPECT_NEAR(later, 0.6, 1e-9) << "it went on computing";
  Advance(5);
  EXPECT_EQ(Json::parse(coordinator_.ExplainRouteJson({}, Query(1, 100)))["chosen"]["queue_s"], 0);
}

TEST_F(CoordinatorTest, AFreshWorkerGetsItsShareSlowly) {
  WorkerLoad busy;
  busy.running = 8;
  busy.queued_prefill_tokens = 8000;
  busy.prefill_tokens_per_s = 1000;
  const MemberInfo old = Join("old", {"decode"}, {}, busy);
  Advance(20);
  coordinator_.Heartbeat(old.id, old.incarnation, {2, true, false, busy, {}});
  WorkerLoad idle;
  idle.prefill_tokens_per_s = 1000;
  const MemberInfo fresh = Join("fresh", {"decode"}, {}, idle);
  const auto queue_at = [&](WorkerId worker) {
    const Json route = Json::parse(coordinator_.ExplainRouteJson({}, Query(1, 100)));
    for (const auto& candidate : route["candidates"]) {
      if (candidate["decode"] == worker.value && candidate["prefill"] == "local") return candidate["queue_s"].get<double>();
    }
    return -1.0;
  };
  EXPECT_NEAR(queue_at(fresh.id), 8, 0.01) << "as if it were as busy as the others";
  uint64_t sequence = 2;
  for (const double age : {2.5, 5.0, 10.0}) {
    Advance(age == 2.5 ? 2.5 : age / 2);
    coordinator_.Heartbeat(old.id, old.incarnation, {++sequence, false, false, busy, {}});
    EXPECT_NEAR(queue_at(fresh.id), 8 * (1 - age / 10), 0.01) << age;
    EXPECT_NEAR(queue_at(old.id), 8, 0.01);
  }
}

TEST_F(CoordinatorTest, AFirstWorkerNeedsNoSlowStart) {
  WorkerLoad idle;
  idle.prefill_tokens_per_s = 1000;
  Join("a", {"decode"}, {}, idle);
  Join("b", {"decode"}, {}, idle);
  EXPECT_EQ(coordinator_.Route({}, Query(1, 100)).chosen.cost.queue_s, 0);
}

class FewDecisions : public CoordinatorTest {
 protected:
  FewDecisions() : CoordinatorTest([] {
    CoordinatorConfig config;
    config.kept_decisions = 3;
    config.kept_candidates = 2;
    return config;
  }()) {}
};
TEST_F(FewDecisions, AreBounded) {
  Join("d", {"decode"});
  for (uint64_t i = 1; i <= 10; ++i) coordinator_.Route({}, Query(i, 10));
  EXPECT_EQ(coordinator_.LastDecisions().size(), 3u);
  EXPECT_EQ(coordinator_.FindDecision(RequestId(7)), nullptr);
  ASSERT_NE(coordinator_.FindDecision(RequestId(8)), nullptr);
  EXPECT_TRUE(coordinator_.FindDecision(RequestId(8))->decision.candidates.empty());
  EXPECT_EQ(coordinator_.FindDecision(RequestId(9))->decision.candidates.size(), 1u);
  EXPECT_EQ(coordinator_.FindDecision(RequestId(10))->decision.candidates.size(), 1u);
}

}  // namespace
}  // namespace baton
