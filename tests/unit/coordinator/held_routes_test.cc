// Route calls that wait for their turn at the coordinator: let go in order, given up with their call, never lost.
#include "coordinator/held_routes.h"

#include "tests/support/loop_support.h"
#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

CoordinatorConfig HoldingConfig() {
  CoordinatorConfig config;
  config.admission.hold_above_s = 0.1;
  config.admission.max_wait_s = 1000;
  config.slow_start_s = 0;
  return config;
}

class HeldRoutesTest : public LoopTest {
 protected:
  HeldRoutesTest() {
    auto member = coordinator_.Register(TestInfo("d", {"decode"}));
    EXPECT_TRUE(member.ok());
    worker_ = *member;
    EXPECT_TRUE(coordinator_.Announce(worker_.id, worker_.incarnation, "tcp", "d").ok());
    Beat(10'000);
  }
  ~HeldRoutesTest() noexcept override = default;

  /// The worker says that so many prompt tokens wait there; it computes 1,000 a second.
  void Beat(uint64_t queued, uint32_t waiting = 0) {
    clock_.Advance(std::chrono::milliseconds(100));  // past what is predicted of requests that are under way
    HeartbeatReport report;
    report.snapshot = sequence_ == 0;
    report.sequence = ++sequence_;
    report.load.queued_prefill_tokens = queued;
    report.load.waiting = waiting;
    report.load.prefill_tokens_per_s = 1000;
    EXPECT_TRUE(coordinator_.Heartbeat(worker_.id, worker_.incarnation, report).status.ok());
  }
  RouteQuery Query(uint64_t id, const std::string& tenant = "", int32_t priority = 0) {
    RouteQuery query;
    query.request = RequestId(id);
    query.tenant = tenant;
    query.priority = priority;
    query.prompt_tokens = 1000;
    query.max_tokens = 10;
    return query;
  }
  /// Held, and waiting from now on; `order_` tells when it was let go.
  void Hold(const RouteQuery& query) {
    ASSERT_TRUE(coordinator_.Route({}, query).held);
    const uint64_t id = query.request.value;
    auto call = held_.Wait({}, query).then([this, id](RouteDecision decision) {
      EXPECT_EQ(decision.held, false);
      order_.push_back(decision.ok() ? id : 1000 + id);
    });
    calls_.emplace(id, call.eagerlyEvaluate(nullptr));
  }

  FakeClock clock_;
  Metrics metrics_;
  Coordinator coordinator_{HoldingConfig(), clock_, metrics_};
  HeldRoutes held_{coordinator_, timer_};
  MemberInfo worker_;
  uint64_t sequence_ = 0;
  std::map<uint64_t, kj::Promise<void>> calls_;
  std::vector<uint64_t> order_;
};

TEST_F(HeldRoutesTest, GoWhenThereIsRoomOneAfterTheOther) {
  for (uint64_t id = 1; id <= 3; ++id) Hold(Query(id));
  EXPECT_EQ(held_.size(), 3u);
  Beat(0);
  ASSERT_TRUE(Until([&] { return order_.size() == 1; }));
  EXPECT_EQ(held_.size(), 2u) << "a thousand tokens are a second: no room for the next";
  Beat(0);
  ASSERT_TRUE(Until([&] { return order_.size() == 2; }));
  Beat(0);
  ASSERT_TRUE(Until([&] { return order_.size() == 3; }));
  EXPECT_THAT(order_, ::testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(coordinator_.NextHeld(), RequestId());
}

TEST_F(HeldRoutesTest, TenantsTakeTurnsAndPriorityGoesFirst) {
  for (uint64_t id = 1; id <= 4; ++id) Hold(Query(id, "heavy"));
  Hold(Query(11, "light"));
  Hold(Query(12, "light/with-a-salt"));
  Hold(Query(21, "light", 3));
  while (order_.size() < 7) {
    Beat(0);
    const size_t before = order_.size();
    ASSERT_TRUE(Until([&] { return order_.size() > before; }));
  }
  EXPECT_EQ(order_[0], 21u);
  EXPECT_LT(std::find(order_.begin(), order_.end(), 11) - order_.begin(), 3);
  EXPECT_LT(std::find(order_.begin(), order_.end(), 12) - order_.begin(), 5) << "a salt is no tenant of its own";
  EXPECT_EQ(order_.back(), 4u);
}

TEST_F(HeldRoutesTest, ADroppedCallGivesUpItsPlace) {
  Hold(Query(1));
  Hold(Query(2));
  calls_.erase(1);
  EXPECT_EQ(held_.size(), 1u);
  EXPECT_EQ(coordinator_.NextHeld(), RequestId(2));
  Beat(0);
  ASSERT_TRUE(Until([&] { return order_.size() == 1; }));
  EXPECT_EQ(order_[0], 2u);
}

TEST_F(HeldRoutesTest, TheSameRequestAgainTakesOverItsPlace) {
  Hold(Query(1));
  Hold(Query(2));
  EXPECT_TRUE(coordinator_.Route({}, Query(1)).held);
  auto again = held_.Wait({}, Query(1));
  calls_.erase(1);  // the first call, late
  EXPECT_EQ(coordinator_.NextHeld(), RequestId(1));
  Beat(0);
  EXPECT_TRUE(Wait(kj::mv(again)).ok());
}

TEST_F(HeldRoutesTest, WhoseCallIsNotHereHoldsNobodyUp) {
  ASSERT_TRUE(coordinator_.Route({}, Query(1)).held);  // of a call that is gone
  Hold(Query(2));
  Beat(0);
  ASSERT_TRUE(Until([&] { return order_.size() == 1; }));
  EXPECT_EQ(order_[0], 2u);
}

TEST_F(HeldRoutesTest, WhenTheLastWorkerDiesTheyAreTold) {
  Hold(Query(1));
  coordinator_.Disconnect(worker_.id, worker_.incarnation);
  ASSERT_TRUE(Until([&] { return order_.size() == 1; }));
  EXPECT_EQ(order_[0], 1001u) << "an error: no decode worker";
  EXPECT_EQ(coordinator_.NextHeld(), RequestId());
}

TEST_F(HeldRoutesTest, ACrowdAtTheDecodeWorkerIsWaitedFor) {
  Beat(0, 10);
  Hold(Query(1));
  Beat(0, 0);
  ASSERT_TRUE(Until([&] { return order_.size() == 1; }));
}

}  // namespace
}  // namespace baton
