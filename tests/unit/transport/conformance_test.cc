// What every transport promises (transport/transport.h), over every transport, with the other end in this process and,
// where the medium allows it, in another one that can be killed or stopped.
#include <sys/wait.h>

#include <csignal>

#include "base/random.h"
#include "side_support.h"

namespace baton {
namespace {

using Segments = End::Segments;

class Conformance : public ::testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    far_ = End(MakeFarSide(GetParam(), Config(2)), 2);
    near_ = End(MakeDirectSide(Config(1)), 1);
    ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  }

  TransportConfig Config(uint32_t worker, uint64_t incarnation = 1) {
    TransportConfig config;
    config.kind = GetParam().kind;
    config.self = WorkerId(worker);
    config.incarnation = Incarnation(incarnation);
    config.checksum = GetParam().checksum;
    config.hold = hold_;
    config.hub = hub_;
    Complete(GetParam(), &config);
    return config;
  }

  /// Both ends work until `done`, at most 8 s.
  template <typename Done>
  bool Until(Done done, double limit_s = 8) {
    const Instant end = clock_.Now() + FromSeconds(limit_s);
    while (!done()) {
      if (clock_.Now() > end) return false;
      near_.Poll(far_.pid() == 0 ? 0 : 0.0005);
      if (far_alive_) far_.Poll();
    }
    return true;
  }
  /// Waits for one completion of `end`.
  const Event* Await(End& end, const std::string& kind, uint64_t transfer) {
    Until([&] { return end.Find(kind, transfer) != nullptr; });
    return end.Find(kind, transfer);
  }
  std::string FailureOf(End& end, uint64_t transfer) {
    const Event* event = Await(end, "failed", transfer);
    return event == nullptr ? "nothing" : event->code;
  }

  /// Nothing is under way and no byte lies where it should not.
  void ExpectClean() {
    EXPECT_TRUE(Until([&] {
      return near_.Stats()["receiving"] == 0 && near_.Stats()["sending"] == 0 && (!far_alive_ || (far_.Stats()["receiving"] == 0 && far_.Stats()["sending"] == 0));
    })) << near_.Stats() << (far_alive_ ? far_.Stats() : nlohmann::json());
    EXPECT_TRUE(near_.Intact());
    EXPECT_TRUE(!far_alive_ || far_.Intact());
    for (End* end : {&near_, &far_}) {
      for (const Event& e : end->events) EXPECT_TRUE(e.right) << "segment " << e.index << " of transfer " << e.transfer << " holds wrong bytes";
    }
  }

  /// A whole transfer from the far end to the near one.
  void Transfer(uint64_t id, const std::vector<size_t>& sizes, bool heap = false) {
    ASSERT_EQ(near_.Expect(id, 2, sizes), "ok");
    Segments all;
    for (uint32_t i = 0; i < sizes.size(); ++i) all.emplace_back(i, sizes[i]);
    ASSERT_EQ(far_.Push(id, 1, all, heap), "ok");
    ASSERT_NE(Await(near_, "landed", id), nullptr) << near_.Stats() << far_.Stats() << (far_.events.empty() ? "" : far_.events.back().message);
    EXPECT_TRUE(Until([&] { return far_.Count("sent", id) == sizes.size(); }));
    EXPECT_EQ(near_.Count("segment", id), sizes.size());
  }

  SystemClock clock_;
  Duration hold_ = std::chrono::seconds(10);
  std::shared_ptr<LocalHub> hub_ = MakeLocalHub();
  bool far_alive_ = true;
  End near_, far_;
};

TEST_P(Conformance, EverySegmentLandsOnceAndTheSenderHearsOfEach) {
  ASSERT_EQ(near_.Expect(1, 2, {1000, 1, 70000}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 1000}, {1, 1}, {2, 70000}}), "ok");
  ASSERT_NE(Await(near_, "landed", 1), nullptr);
  ASSERT_TRUE(Until([&] { return far_.Count("sent", 1) == 3; }));
  EXPECT_EQ(near_.Count("segment", 1), 3u);
  EXPECT_EQ(near_.Count("landed", 1), 1u);
  EXPECT_EQ(near_.events.back().kind, "landed") << "the terminal completion is the last";
  EXPECT_EQ(near_.Stats()["landed_bytes"], 71001);
  ExpectClean();
}

TEST_P(Conformance, BothDirectionsAfterOneSidesConnect) {
  ASSERT_EQ(near_.Expect(1, 2, {5000}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 5000}}), "ok");
  ASSERT_EQ(far_.Expect(2, 1, {5000}), "ok");
  ASSERT_EQ(near_.Push(2, 2, {{0, 5000}}), "ok");
  EXPECT_NE(Await(near_, "landed", 1), nullptr);
  EXPECT_NE(Await(far_, "landed", 2), nullptr);
  ExpectClean();
}

TEST_P(Conformance, PushBeforeExpectIsHeldAndThenLands) {
  ASSERT_EQ(far_.Push(7, 1, {{1, 300}}), "ok");
  ASSERT_EQ(far_.Push(7, 1, {{0, 200}}), "ok");
  for (int i = 0; i < 20; ++i) near_.Poll(), far_.Poll();
  EXPECT_EQ(far_.Find("sent", 7), nullptr);
  ASSERT_EQ(near_.Expect(7, 2, {200, 300}), "ok");
  EXPECT_NE(Await(near_, "landed", 7), nullptr);
  ExpectClean();
}

TEST_P(Conformance, SegmentsInAnyOrderOverManyPushes) {
  std::vector<size_t> sizes;
  for (size_t i = 0; i < 40; ++i) sizes.push_back(1 + i * i * 37);
  ASSERT_EQ(near_.Expect(1, 2, sizes), "ok");
  Segments order;
  for (uint32_t i = 0; i < sizes.size(); ++i) order.emplace_back(i, sizes[i]);
  Random random(5);
  random.Shuffle(order);
  for (size_t i = 0; i < order.size(); i += 3) {
    ASSERT_EQ(far_.Push(1, 1, Segments(order.begin() + i, order.begin() + std::min(order.size(), i + 3))), "ok");
    near_.Poll(), far_.Poll();
  }
  ASSERT_NE(Await(near_, "landed", 1), nullptr);
  EXPECT_EQ(near_.Count("segment", 1), sizes.size());
  ExpectClean();
}

TEST_P(Conformance, ManyTransfersAtOnceInBothDirections) {
  constexpr uint64_t kCount = 150;
  for (uint64_t id = 1; id <= kCount; ++id) {
    End& receiver = id % 2 ? near_ : far_;
    End& sender = id % 2 ? far_ : near_;
    ASSERT_EQ(receiver.Expect(id, sender.id().value, {id * 100, 1, 4096 * (id % 7)}), "ok");
    ASSERT_EQ(sender.Push(id, receiver.id().value, {{2, 4096 * (id % 7)}, {0, id * 100}}), "ok");
  }
  for (uint64_t id = kCount; id > 0; --id) ASSERT_EQ((id % 2 ? far_ : near_).Push(id, id % 2 ? 1 : 2, {{1, 1}}), "ok");
  for (uint64_t id = 1; id <= kCount; ++id) ASSERT_NE(Await(id % 2 ? near_ : far_, "landed", id), nullptr) << id;
  ExpectClean();
}

TEST_P(Conformance, SizesFromOneByteTo64MiB) {
  uint64_t id = 1;
  for (const size_t bytes : {size_t{1}, size_t{7}, size_t{511}, size_t{513}, size_t{4096}, size_t{4097}, size_t{65536}, size_t{1_MiB - 1}, size_t{1_MiB},
                             size_t{1_MiB + 1}, size_t{9_MiB + 5}, size_t{64_MiB}}) {
    Transfer(id++, {bytes});
  }
  ExpectClean();
}

TEST_P(Conformance, ZeroByteSegments) {
  Transfer(1, {0});
  Transfer(2, {0, 10, 0, 0, 70000, 0});
  ExpectClean();
}

TEST_P(Conformance, ThousandsOfSmallSegments) {
  Transfer(1, std::vector<size_t>(5000, 100));
  Transfer(2, std::vector<size_t>(2000, 1024));
  ExpectClean();
}

TEST_P(Conformance, SegmentsOutsideRegisteredMemory) {
  Transfer(1, {0, 1, 600, 5000, 3_MiB}, /*heap=*/true);
  ExpectClean();
}

TEST_P(Conformance, AWrongSizeOrIndexIsRefusedAndTheTransferGoesOn) {
  ASSERT_EQ(near_.Expect(1, 2, {100, 200}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 100}}), "ok");
  ASSERT_TRUE(Until([&] { return far_.Count("sent", 1) == 1; }));  // the sender knows now what is expected
  EXPECT_EQ(far_.Push(1, 1, {{1, 201}}), "invalid");
  EXPECT_EQ(far_.Push(1, 1, {{2, 200}}), "invalid");
  EXPECT_EQ(far_.Push(1, 1, {{0, 100}}), "invalid") << "a segment twice";
  EXPECT_EQ(far_.Push(1, 3, {{1, 200}}), "invalid") << "another receiver";
  EXPECT_EQ(far_.Push(1, 1, {{1, 200}, {1, 200}}), "invalid") << "twice in one call";
  EXPECT_EQ(near_.Find("failed", 1), nullptr);
  ASSERT_EQ(far_.Push(1, 1, {{1, 200}}), "ok");
  EXPECT_NE(Await(near_, "landed", 1), nullptr);
  ExpectClean();
}

TEST_P(Conformance, AHeldPushThatDoesNotFitFailsBothEnds) {
  ASSERT_EQ(far_.Push(1, 1, {{0, 100}}), "ok");
  EXPECT_EQ(far_.Push(1, 1, {{0, 100}}), "invalid") << "twice, before the receiver is known";
  ASSERT_EQ(near_.Expect(1, 2, {99}), "ok");
  EXPECT_EQ(FailureOf(near_, 1), "invalid");
  EXPECT_EQ(FailureOf(far_, 1), "invalid");
  ASSERT_EQ(far_.Push(2, 1, {{5, 100}}), "ok");
  ASSERT_EQ(near_.Expect(2, 2, {100}), "ok");
  EXPECT_EQ(FailureOf(near_, 2), "invalid");
  EXPECT_EQ(FailureOf(far_, 2), "invalid");
  ExpectClean();
}

TEST_P(Conformance, ExpectRefusesNonsense) {
  EXPECT_EQ(near_.Expect(1, 0, {10}), "invalid");
  EXPECT_EQ(near_.Expect(1, 2, {}), "invalid");
  EXPECT_EQ(near_.Expect(1, 2, {400_MiB}), "invalid") << "outside the arena";
  EXPECT_EQ(near_.Expect(1, 2, std::vector<size_t>(70000, 1)), "exhausted");
  EXPECT_EQ(near_.Push(1, 0, {{0, 1}}), "invalid");
  EXPECT_EQ(near_.Connect(0, far_.address()), "invalid");
  EXPECT_EQ(near_.Connect(3, "carrier-pigeon:1"), "invalid");
  ASSERT_EQ(near_.Expect(1, 2, {10}), "ok");
  EXPECT_EQ(near_.Expect(1, 2, {10}), "aborted") << "an id is used once";
  ASSERT_EQ(far_.Push(1, 1, {{0, 10}}), "ok");
  ASSERT_NE(Await(near_, "landed", 1), nullptr);
  EXPECT_EQ(near_.Expect(1, 2, {10}), "aborted") << "also after its end";
  EXPECT_EQ(far_.Push(1, 1, {{0, 10}}), "invalid");
  ExpectClean();
}

TEST_P(Conformance, DeadlineEndsBothEnds) {
  ASSERT_EQ(near_.Expect(1, 2, {100, 100}, 0.05), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 100}}), "ok");
  EXPECT_EQ(FailureOf(near_, 1), "deadline");
  EXPECT_EQ(FailureOf(far_, 1), "deadline");
  EXPECT_EQ(far_.Push(1, 1, {{1, 100}}), "deadline") << "a late push hears how it ended";
  ASSERT_EQ(near_.Expect(2, 2, {100}, -1), "ok") << "already over";
  EXPECT_EQ(FailureOf(near_, 2), "deadline");
  ExpectClean();
  EXPECT_EQ(near_.Count("failed", 1), 1u);
}

TEST_P(Conformance, CancelAtTheReceiver) {
  ASSERT_EQ(near_.Expect(1, 2, {100, 8_MiB, 100}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 100}, {1, 8_MiB}}), "ok");
  far_.Poll(), near_.Poll(), far_.Poll();
  ASSERT_EQ(near_.Cancel(1), "ok");
  ASSERT_EQ(near_.Cancel(1), "ok");
  EXPECT_EQ(FailureOf(near_, 1), "cancelled");
  EXPECT_EQ(FailureOf(far_, 1), "cancelled");
  EXPECT_EQ(far_.Push(1, 1, {{2, 100}}), "cancelled");
  ExpectClean();
  EXPECT_EQ(near_.Count("failed", 1), 1u);
  EXPECT_EQ(far_.Count("failed", 1), 1u);
}

TEST_P(Conformance, CancelAtTheReceiverBeforeThePush) {
  ASSERT_EQ(near_.Expect(1, 2, {100}), "ok");
  ASSERT_EQ(near_.Cancel(1), "ok");
  EXPECT_EQ(FailureOf(near_, 1), "cancelled");
  ASSERT_TRUE(Until([&] { return far_.Push(1, 1, {{0, 100}}) == "cancelled" || far_.Find("failed", 1) != nullptr; }));
  ExpectClean();
}

TEST_P(Conformance, CancelAtTheSender) {
  ASSERT_EQ(near_.Expect(1, 2, {100, 8_MiB, 100}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 100}, {1, 8_MiB}}), "ok");
  near_.Poll(), far_.Poll();
  ASSERT_EQ(far_.Cancel(1), "ok");
  EXPECT_EQ(FailureOf(far_, 1), "cancelled");
  EXPECT_EQ(FailureOf(near_, 1), "cancelled");
  ExpectClean();
}

TEST_P(Conformance, CancelAtTheSenderBeforeAnythingElse) {
  ASSERT_EQ(far_.Cancel(1), "ok");
  EXPECT_EQ(far_.Push(1, 1, {{0, 100}}), "cancelled");
  ASSERT_EQ(near_.Expect(1, 2, {100}), "ok");
  EXPECT_EQ(FailureOf(near_, 1), "cancelled");
  ASSERT_EQ(far_.Push(2, 1, {{0, 100}}), "ok");
  ASSERT_EQ(far_.Cancel(2), "ok");
  EXPECT_EQ(FailureOf(far_, 2), "cancelled");
  ASSERT_EQ(near_.Expect(2, 2, {100}), "ok");
  EXPECT_EQ(FailureOf(near_, 2), "cancelled");
  ExpectClean();
}

TEST_P(Conformance, DisconnectFailsTheTransfersOfThatPeerAtOnce) {
  Transfer(6, {10});
  ASSERT_EQ(near_.Expect(1, 2, {100}), "ok");
  ASSERT_EQ(near_.Push(2, 2, {{0, 100}}), "ok");
  ASSERT_EQ(near_.Disconnect(2), "ok");
  near_.Poll();
  ASSERT_NE(near_.Find("failed", 1), nullptr);
  ASSERT_NE(near_.Find("failed", 2), nullptr);
  EXPECT_EQ(near_.Find("failed", 1)->code, "unavailable");
  EXPECT_TRUE(near_.Find("failed", 1)->receiving);
  EXPECT_FALSE(near_.Find("failed", 2)->receiving);
  EXPECT_EQ(near_.Push(3, 2, {{0, 1}}), "unavailable");
  EXPECT_EQ(near_.Expect(4, 2, {1}), "unavailable");
  EXPECT_EQ(near_.Disconnect(77), "ok") << "unknown peers are ignored";
  ASSERT_TRUE(Until([&] { return far_.Stats()["peers"] == 0; })) << "the other end sees it close";
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  Transfer(5, {1000});
  ExpectClean();
}

TEST_P(Conformance, ManyThingsAtOnceWithCancelsDeadlinesAndEveryOrder) {
  constexpr uint64_t kCount = 250;
  Random random(20261125);
  struct Plan {
    std::vector<size_t> sizes;
    Segments left;
    bool expected = false, disturbed = false;
    bool near_receives = false;
  };
  std::map<uint64_t, Plan> plans;
  std::vector<uint64_t> steps;  // ids; each mention is one thing that happens to it
  for (uint64_t id = 1; id <= kCount; ++id) {
    Plan& plan = plans[id];
    plan.near_receives = random.Below(2) == 0;
    for (uint64_t i = 0, n = 1 + random.Below(9); i < n; ++i) plan.sizes.push_back(random.Below(20) == 0 ? random.Below(3_MiB) : random.Below(20000));
    for (uint32_t i = 0; i < plan.sizes.size(); ++i) plan.left.emplace_back(i, plan.sizes[i]);
    random.Shuffle(plan.left);
    for (size_t i = 0; i < plan.sizes.size() + 1; ++i) steps.push_back(id);
  }
  random.Shuffle(steps);
  for (const uint64_t id : steps) {
    Plan& plan = plans[id];
    End& receiver = plan.near_receives ? near_ : far_;
    End& sender = plan.near_receives ? far_ : near_;
    if (!plan.expected && (plan.left.empty() || random.Below(3) == 0)) {
      plan.expected = true;
      const bool hurried = random.Below(12) == 0;
      plan.disturbed = plan.disturbed || hurried;
      ASSERT_EQ(receiver.Expect(id, sender.id().value, plan.sizes, hurried ? 0.002 : 60), "ok");
    } else if (!plan.left.empty()) {
      const std::string code = sender.Push(id, receiver.id().value, {plan.left.back()}, random.Below(4) == 0);
      ASSERT_TRUE(code == "ok" || plan.disturbed) << code;
      plan.left.pop_back();
    }
    if (random.Below(15) == 0) {
      plan.disturbed = true;
      (random.Below(2) == 0 ? sender : receiver).Cancel(id);
    }
    if (random.Below(4) == 0) near_.Poll();
    if (random.Below(4) == 0) far_.Poll();
  }
  for (auto& [id, plan] : plans) {
    End& receiver = plan.near_receives ? near_ : far_;
    if (!plan.expected) {
      ASSERT_EQ(receiver.Expect(id, plan.near_receives ? 2 : 1, plan.sizes, plan.disturbed ? 0.5 : 60), "ok");
    }
    while (!plan.left.empty()) (plan.near_receives ? far_ : near_).Push(id, plan.near_receives ? 1 : 2, {plan.left.back()}), plan.left.pop_back();
  }
  for (const auto& [id, plan] : plans) {
    End& receiver = plan.near_receives ? near_ : far_;
    ASSERT_TRUE(Until([&, id = id] { return receiver.Count("landed", id) + receiver.Count("failed", id) > 0; }, 90)) << id << " has no end";
    EXPECT_TRUE(plan.disturbed || receiver.Count("landed", id) == 1) << (receiver.Find("failed", id) ? receiver.Find("failed", id)->message : "");
  }
  ExpectClean();
  for (const auto& [id, plan] : plans) {
    const End& receiver = plan.near_receives ? near_ : far_;
    EXPECT_EQ(receiver.Count("landed", id) + receiver.Count("failed", id), 1u) << "transfer " << id << " ends once";
    EXPECT_LE((plan.near_receives ? far_ : near_).Count("failed", id), 1u);
  }
}

TEST_P(Conformance, ARestartedWorkerIsReachedUnderItsNewAddress) {
  if (GetParam().kind == "mpi") GTEST_SKIP() << "a rank of MPI keeps its address";
  Transfer(1, {1000});
  ASSERT_EQ(near_.Expect(2, 2, {1000}), "ok");
  for (int i = 0; i < 10; ++i) near_.Poll(), far_.Poll();
  far_ = End();
  far_ = End(MakeFarSide(GetParam(), Config(2, 2)), 2);
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  EXPECT_EQ(FailureOf(near_, 2), "unavailable");
  Transfer(3, {1000, 2_MiB});
  ExpectClean();
}

TEST_P(Conformance, AKilledPeerIsNoticedAtOnce) {
  if (far_.pid() == 0) GTEST_SKIP() << "the other end is this process";
  Transfer(1, {1000});
  ASSERT_EQ(near_.Expect(2, 2, {64_MiB, 10}), "ok");
  ASSERT_EQ(near_.Push(3, 2, {{0, 1000}}), "ok");
  ASSERT_EQ(far_.Push(2, 1, {{0, 64_MiB}}), "ok");
  near_.Poll();
  ASSERT_EQ(kill(far_.pid(), SIGKILL), 0);
  far_alive_ = false;
  const Instant killed = clock_.Now();
  EXPECT_EQ(FailureOf(near_, 2), "unavailable");
  EXPECT_EQ(FailureOf(near_, 3), "unavailable");
  EXPECT_LT(ToSeconds(clock_.Now() - killed), 2.0);
  ExpectClean();
}

TEST_P(Conformance, AStoppedPeerDoesNotHoldATransferPastItsDeadline) {
  if (far_.pid() == 0) GTEST_SKIP() << "the other end is this process";
  Transfer(1, {1000});
  ASSERT_EQ(far_.Expect(3, 1, {64_MiB, 100}, 0.4), "ok");
  ASSERT_EQ(near_.Push(3, 2, {{1, 100}}), "ok");
  ASSERT_NE(Await(near_, "sent", 3), nullptr);
  ASSERT_EQ(near_.Expect(2, 2, {64_MiB, 10}, 0.4), "ok");
  ASSERT_EQ(far_.Push(2, 1, {{0, 64_MiB}}), "ok");
  ASSERT_EQ(kill(far_.pid(), SIGSTOP), 0);
  far_alive_ = false;
  ASSERT_EQ(near_.Push(3, 2, {{0, 64_MiB}}), "ok");
  EXPECT_EQ(FailureOf(near_, 2), "deadline");
  EXPECT_EQ(FailureOf(near_, 3), "deadline") << "the sender does not wait for a receiver that is stopped";
  EXPECT_EQ(near_.Stats()["receiving"], 0);
  EXPECT_EQ(near_.Stats()["sending"], 0);
  ASSERT_EQ(kill(far_.pid(), SIGCONT), 0);
  far_alive_ = true;
  EXPECT_EQ(FailureOf(far_, 2), "deadline");
  EXPECT_EQ(FailureOf(far_, 3), "deadline");
  Transfer(4, {5000});
  ExpectClean();
}

TEST_P(Conformance, NothingIsLeftBehind) {
  const size_t before = near_.Descriptors();
  for (uint32_t round = 0; round < 5; ++round) {
    const uint64_t id = 10 + round;
    std::optional<End> third(std::in_place, MakeFarSide(GetParam(), Config(3, round + 1)), 3);
    ASSERT_EQ(near_.Connect(3, third->address()), "ok");
    ASSERT_EQ(near_.Expect(id, 3, {2_MiB}), "ok");
    ASSERT_EQ(third->Push(id, 1, {{0, 2_MiB}}), "ok");
    ASSERT_TRUE(Until([&] { return third->Poll(), near_.Find("landed", id) != nullptr; }));
    third.reset();
    ASSERT_TRUE(Until([&] { return near_.Stats()["peers"] <= 1; })) << near_.Stats();
  }
  Transfer(1, {10});
  ASSERT_TRUE(Until([&] { return near_.Stats()["peers"] == 1; })) << near_.Stats();
  EXPECT_LE(near_.Descriptors(), before + 8) << "the far end's connections, no more";
  ExpectClean();
}

INSTANTIATE_TEST_SUITE_P(Transports, Conformance, ::testing::ValuesIn(SetupsUnderTest()), [](const auto& info) { return SetupName(info.param); });

}  // namespace
}  // namespace baton
