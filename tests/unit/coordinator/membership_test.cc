#include "coordinator/membership.h"

#include "tests/support/test_pch.h"

namespace baton {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Instant At(double seconds) { return Instant(FromSeconds(1000 + seconds)); }

ModelIdentity Identity(uint8_t fingerprint = 1) {
  ModelIdentity identity;
  identity.model_name = fingerprint == 1 ? "smol" : "other";
  identity.kv_layout = "L2.H1.D16.T64.f16";
  identity.numerics = "exact";
  identity.fingerprint[0] = std::byte{fingerprint};
  identity.block_tokens = 64;
  identity.block_bytes = 4096;
  return identity;
}
MemberInfo Info(const std::string& name, std::vector<std::string> roles, uint8_t fingerprint = 1) {
  MemberInfo info;
  info.name = name;
  info.roles = std::move(roles);
  if (info.Has("prefill") || info.Has("decode")) info.model = Identity(fingerprint);
  return info;
}

class MembershipTest : public ::testing::Test {
 protected:
  MemberInfo Join(const std::string& name, std::vector<std::string> roles, double at = 0) {
    auto joined = members_.Register(Info(name, std::move(roles)), At(at));
    EXPECT_TRUE(joined.ok()) << joined.status().ToString();
    EXPECT_TRUE(members_.Announce(joined->id, joined->incarnation, "tcp", "addr", At(at)).ok());
    return *joined;
  }
  HeartbeatVerdict Beat(const MemberInfo& m, uint64_t sequence, double at = 0, bool snapshot = false, bool draining = false, WorkerLoad load = {}) {
    return members_.Heartbeat(m.id, m.incarnation, sequence, snapshot, draining, load, At(at));
  }
  Membership members_{MembershipConfig{.dead_after_s = 2, .stuck_after_s = 10, .role_dwell_s = 5, .max_workers = 4}, 500, At(0)};
};

TEST_F(MembershipTest, IdsAndIncarnationsAreGiven) {
  const MemberInfo a = Join("a", {"prefill"}), b = Join("b", {"decode"});
  EXPECT_EQ(a.id, WorkerId(1));
  EXPECT_EQ(b.id, WorkerId(2));
  EXPECT_GE(a.incarnation.value, 500u);
  EXPECT_GT(b.incarnation, a.incarnation);
  EXPECT_EQ(members_.Ready().size(), 2u);
  EXPECT_EQ(members_.Find(a.id)->info.transport_address, "addr");
}

TEST_F(MembershipTest, ARegisteredWorkerIsNotReadyBeforeItAnnounces) {
  const auto joined = members_.Register(Info("a", {"decode"}), At(0));
  ASSERT_TRUE(joined.ok());
  EXPECT_THAT(members_.Ready(), IsEmpty());
  const uint64_t before = members_.version();
  ASSERT_TRUE(members_.Announce(joined->id, joined->incarnation, "shm", "x", At(0)).ok());
  EXPECT_EQ(members_.Ready().size(), 1u);
  EXPECT_GT(members_.version(), before);
}

TEST_F(MembershipTest, ARestartedWorkerKeepsItsNumberAndFencesItsFormerLife) {
  const MemberInfo old = Join("a", {"decode"});
  const MemberInfo fresh = Join("a", {"decode"}, 1);
  EXPECT_EQ(fresh.id, old.id);
  EXPECT_GT(fresh.incarnation, old.incarnation);
  EXPECT_EQ(Beat(old, 1, 1).status.code(), StatusCode::kAborted);
  EXPECT_EQ(members_.Announce(old.id, old.incarnation, "tcp", "evil", At(1)).code(), StatusCode::kAborted);
  EXPECT_FALSE(members_.Disconnect(old.id, old.incarnation)) << "the old connection breaks later than the new one came";
  EXPECT_EQ(members_.Find(fresh.id)->info.transport_address, "addr");
  EXPECT_TRUE(Beat(fresh, 1, 1).status.ok());
}

TEST_F(MembershipTest, SilenceIsDeathAndTheDeadAreNotBelieved) {
  const MemberInfo a = Join("a", {"decode"}), b = Join("b", {"prefill"});
  EXPECT_TRUE(Beat(a, 1, 1.5, true).status.ok());
  EXPECT_THAT(members_.Expire(At(2.0)), IsEmpty()) << "exactly dead_after_s is still alive";
  EXPECT_THAT(members_.Expire(At(2.1)), ElementsAre(b.id));
  EXPECT_THAT(members_.Expire(At(2.2)), IsEmpty()) << "told once";
  EXPECT_EQ(Beat(b, 2, 2.3).status.code(), StatusCode::kAborted);
  EXPECT_EQ(members_.Ready().size(), 1u);
  EXPECT_FALSE(members_.Find(b.id)->alive);
}

TEST_F(MembershipTest, DisconnectIsDeathAtOnce) {
  const MemberInfo a = Join("a", {"decode"});
  EXPECT_TRUE(members_.Disconnect(a.id, a.incarnation));
  EXPECT_FALSE(members_.Disconnect(a.id, a.incarnation));
  EXPECT_THAT(members_.Ready(), IsEmpty());
}

TEST_F(MembershipTest, BeatsInARowNeedASnapshotOnce) {
  const MemberInfo a = Join("a", {"decode"});
  EXPECT_TRUE(Beat(a, 1).resync) << "a worker that registered again may hold blocks";
  const HeartbeatVerdict snapshot = Beat(a, 2, 0, true);
  EXPECT_EQ(snapshot.action, HeartbeatAction::kReplace);
  EXPECT_FALSE(snapshot.resync);
  EXPECT_EQ(Beat(a, 3).action, HeartbeatAction::kApply);
  EXPECT_FALSE(Beat(a, 4).resync);
}

TEST_F(MembershipTest, AGapAsksForASnapshotUntilItComes) {
  const MemberInfo a = Join("a", {"decode"});
  Beat(a, 1, 0, true);
  const HeartbeatVerdict gap = Beat(a, 3);
  EXPECT_TRUE(gap.resync);
  EXPECT_EQ(gap.action, HeartbeatAction::kReplace) << "a removal may be in the gap: nothing older is believed";
  EXPECT_EQ(Beat(a, 4).action, HeartbeatAction::kApply);
  EXPECT_TRUE(Beat(a, 5).resync) << "the row is whole again but the gap is not filled";
  EXPECT_FALSE(members_.Find(a.id)->synced);
  EXPECT_FALSE(Beat(a, 7, 0, true).resync) << "a snapshot makes up for any gap";
}

TEST_F(MembershipTest, AnOldOrDoubledBeatChangesNothing) {
  const MemberInfo a = Join("a", {"decode"});
  Beat(a, 1, 0, true);
  Beat(a, 2);
  EXPECT_EQ(Beat(a, 2).action, HeartbeatAction::kIgnore);
  EXPECT_EQ(Beat(a, 1, 0, true).action, HeartbeatAction::kIgnore) << "a late snapshot would bring back what is gone";
  EXPECT_EQ(Beat(a, 0).action, HeartbeatAction::kIgnore);
  EXPECT_FALSE(Beat(a, 3).resync);
}

TEST_F(MembershipTest, ALateBeatIsNoSignOfLife) {
  const MemberInfo a = Join("a", {"decode"});
  Beat(a, 1, 0, true);
  Beat(a, 1, 1.9, true);
  EXPECT_THAT(members_.Expire(At(2.1)), ElementsAre(a.id));
}

TEST_F(MembershipTest, LoadIsKeptAndCleaned) {
  const MemberInfo a = Join("a", {"decode"});
  WorkerLoad load;
  load.running = 3;
  load.prefill_tokens_per_s = std::numeric_limits<double>::quiet_NaN();
  load.decode_step_s = -1;
  load.transfer_bytes_per_s = std::numeric_limits<double>::infinity();
  load.store_bytes_per_s = 5;
  members_.Heartbeat(a.id, a.incarnation, 1, true, false, load, At(0));
  const WorkerLoad& kept = members_.Find(a.id)->load;
  EXPECT_EQ(kept.running, 3u);
  EXPECT_EQ(kept.prefill_tokens_per_s, 0);
  EXPECT_EQ(kept.decode_step_s, 0);
  EXPECT_EQ(kept.transfer_bytes_per_s, 0);
  EXPECT_EQ(kept.store_bytes_per_s, 5);
}

TEST_F(MembershipTest, DrainIsToldToTheWorkerAndTheOthers) {
  const MemberInfo a = Join("a", {"decode"});
  EXPECT_FALSE(Beat(a, 1, 0, true).drain);
  const uint64_t before = members_.version();
  ASSERT_TRUE(members_.Drain(a.id).ok());
  EXPECT_GT(members_.version(), before);
  EXPECT_TRUE(Beat(a, 2).drain);
  EXPECT_TRUE(members_.Ready().front().draining);
  EXPECT_EQ(members_.Drain(WorkerId(77)).code(), StatusCode::kNotFound);
}

TEST_F(MembershipTest, AWorkerMayDrainByItself) {
  const MemberInfo a = Join("a", {"decode"});
  Beat(a, 1, 0, true, true);
  EXPECT_TRUE(members_.Find(a.id)->info.draining);
  EXPECT_FALSE(Join("a", {"decode"}).draining) << "its next life serves again";
}

TEST_F(MembershipTest, AnotherModelIsRefusedWithBothNamed) {
  const MemberInfo a = Join("a", {"decode"});
  const auto refused = members_.Register(Info("b", {"prefill"}, 2), At(0));
  ASSERT_EQ(refused.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(refused.status().message(), AllOf(HasSubstr("'b'"), HasSubstr("smol"), HasSubstr("other")));
  EXPECT_TRUE(members_.Register(Info("s", {"store"}), At(0)).ok()) << "a store has no model";
  // The last model worker takes the cluster's model with it.
  members_.Disconnect(a.id, a.incarnation);
  EXPECT_TRUE(members_.Register(Info("b", {"prefill"}, 2), At(0)).ok());
}

TEST_F(MembershipTest, ARefusedRegistrationDoesNotHarmTheWorkerOfThatName) {
  const MemberInfo a = Join("a", {"decode"});
  Join("b", {"decode"});
  EXPECT_FALSE(members_.Register(Info("a", {"decode"}, 2), At(0)).ok());
  EXPECT_TRUE(Beat(a, 1).status.ok());
}

TEST_F(MembershipTest, BadRegistrations) {
  const auto message = [&](MemberInfo info) { return members_.Register(std::move(info), At(0)).status().message(); };
  EXPECT_THAT(message(Info("", {"decode"})), HasSubstr("name"));
  EXPECT_THAT(message(Info("a", {})), HasSubstr("no role"));
  EXPECT_THAT(message(Info("a", {"decode", "chef"})), HasSubstr("'chef'"));
  MemberInfo modelless = Info("a", {"decode"});
  modelless.model = {};
  EXPECT_THAT(message(modelless), HasSubstr("no model"));
  MemberInfo blockless = Info("a", {"decode"});
  blockless.model.block_tokens = 0;
  EXPECT_THAT(message(blockless), HasSubstr("0 tokens"));
}

TEST_F(MembershipTest, NamesAreBoundedTheLongestDeadGoFirst) {
  const MemberInfo a = Join("a", {"store"}, 0), b = Join("b", {"store"}, 1);
  Join("c", {"store"}, 1), Join("d", {"store"}, 1);
  EXPECT_EQ(members_.Register(Info("e", {"store"}), At(1)).status().code(), StatusCode::kExhausted);
  members_.Disconnect(b.id, b.incarnation);
  members_.Disconnect(a.id, a.incarnation);
  const MemberInfo e = Join("e", {"store"}, 2);
  EXPECT_EQ(members_.Find(a.id), nullptr);
  EXPECT_NE(members_.Find(b.id), nullptr);
  EXPECT_GT(e.id.value, 4u) << "a forgotten number is not given again";
}

TEST_F(MembershipTest, RolesSwitchButNotTheLastDecoder) {
  const MemberInfo a = Join("a", {"decode", "gateway"}), b = Join("b", {"prefill"}), s = Join("s", {"store"});
  EXPECT_THAT(members_.SetRole(a.id, "prefill", At(0)).message(), HasSubstr("last that decodes"));
  EXPECT_TRUE(members_.SetRole(b.id, "decode", At(0)).ok());
  EXPECT_TRUE(members_.SetRole(a.id, "prefill", At(0)).ok());
  EXPECT_THAT(members_.Find(a.id)->info.roles, ElementsAre("prefill", "gateway"));
  EXPECT_TRUE(members_.Find(a.id)->prefill);
  EXPECT_FALSE(members_.Find(a.id)->decode);
  EXPECT_EQ(members_.SetRole(s.id, "decode", At(0)).code(), StatusCode::kInvalid);
  EXPECT_EQ(members_.SetRole(a.id, "store", At(0)).code(), StatusCode::kInvalid);
  EXPECT_EQ(members_.SetRole(WorkerId(9), "decode", At(0)).code(), StatusCode::kNotFound);
}

TEST_F(MembershipTest, ARoleIsKeptForAWhile) {
  const MemberInfo a = Join("a", {"decode"}), b = Join("b", {"prefill"});
  EXPECT_TRUE(members_.SetRole(b.id, "prefill+decode", At(1)).ok());
  const Status soon = members_.SetRole(b.id, "prefill", At(4));
  EXPECT_EQ(soon.code(), StatusCode::kExhausted);
  EXPECT_THAT(soon.message(), HasSubstr("3.0 s ago"));
  EXPECT_TRUE(members_.Find(b.id)->decode) << "a refused switch changes nothing";
  EXPECT_TRUE(members_.SetRole(a.id, "prefill", At(4)).ok()) << "each has its own time";
  EXPECT_THAT(members_.SetRole(b.id, "prefill", At(6)).message(), HasSubstr("last that decodes"));
  EXPECT_TRUE(members_.SetRole(a.id, "decode", At(9)).ok());
  EXPECT_TRUE(members_.SetRole(b.id, "prefill", At(9)).ok());
}

WorkerLoad Busy(uint64_t steps, uint32_t running = 1, uint32_t waiting = 0) {
  WorkerLoad load;
  load.running = running;
  load.waiting = waiting;
  load.steps = steps;
  return load;
}

TEST_F(MembershipTest, WorkWithoutAStepIsAHang) {
  const MemberInfo a = Join("a", {"decode"});
  uint64_t sequence = 0;
  for (double at = 0; at <= 10; at += 1) {
    ++sequence;
    EXPECT_TRUE(Beat(a, sequence, at, sequence == 1, false, Busy(7)).status.ok());
    EXPECT_THAT(members_.Expire(At(at)), IsEmpty()) << at;
  }
  Beat(a, ++sequence, 11, false, false, Busy(7));
  EXPECT_THAT(members_.Expire(At(11)), ElementsAre(a.id));
  EXPECT_TRUE(members_.Find(a.id)->stuck);
  EXPECT_EQ(Beat(a, ++sequence, 11.1, false, false, Busy(7)).status.code(), StatusCode::kAborted) << "fenced";
  // It registers again, and is not routed to before it makes a step.
  const MemberInfo again = Join("a", {"decode"}, 11.2);
  EXPECT_GT(again.incarnation, a.incarnation);
  EXPECT_THAT(members_.Ready(), IsEmpty());
  EXPECT_TRUE(Beat(again, 1, 12, true, false, Busy(7)).status.ok());
  EXPECT_THAT(members_.Ready(), IsEmpty());
  EXPECT_THAT(members_.Expire(At(13)), IsEmpty()) << "nobody waits for it any more";
  const uint64_t version = members_.version();
  Beat(again, 2, 13, false, false, Busy(8));
  EXPECT_EQ(members_.Ready().size(), 1u);
  EXPECT_GT(members_.version(), version) << "others must learn it";
}

TEST_F(MembershipTest, IdleOrSteppingIsNoHang) {
  const MemberInfo idle = Join("idle", {"decode"}), busy = Join("busy", {"decode"}), late = Join("late", {"decode"});
  for (uint64_t beat = 1; beat <= 60; ++beat) {
    const auto at = static_cast<double>(beat);
    Beat(idle, beat, at, beat == 1, false, Busy(3, 0));
    Beat(busy, beat, at, beat == 1, false, Busy(beat / 9));  // a step in nine seconds
    Beat(late, beat, at, beat == 1, false, beat < 55 ? Busy(3, 0) : Busy(3, 0, 1));  // its first request came a moment ago
    EXPECT_THAT(members_.Expire(At(at)), IsEmpty()) << at;
  }
}

TEST_F(MembershipTest, TimeInWhichNobodyCouldBeHeardIsNoSilence) {
  const MemberInfo a = Join("a", {"decode"});
  Beat(a, 1, 0, true);
  members_.Forgive(FromSeconds(100));
  EXPECT_THAT(members_.Expire(At(101)), IsEmpty());
  EXPECT_THAT(members_.Expire(At(103)), ElementsAre(a.id)) << "but what comes after is";
}

class RestartedTest : public ::testing::Test {
 protected:
  Result<MemberInfo> Register(const std::string& name, uint32_t former_id, uint64_t former_incarnation, double at) {
    MemberInfo info = Info(name, {"decode"});
    info.id = WorkerId(former_id);
    info.incarnation = Incarnation(former_incarnation);
    return members_.Register(std::move(info), At(at));
  }
  Membership members_{MembershipConfig{.settle_s = 1, .max_workers = 4}, 500, At(0)};
};

TEST_F(RestartedTest, FormerMembersKeepTheirNumbers) {
  const auto b = Register("b", 2, 77, 0.1), a = Register("a", 1, 76, 0.2);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(std::tie(b->id, b->incarnation), std::make_tuple(WorkerId(2), Incarnation(77)));
  EXPECT_EQ(std::tie(a->id, a->incarnation), std::make_tuple(WorkerId(1), Incarnation(76)));
}

TEST_F(RestartedTest, NewOnesWaitUntilTheFormerHaveComeBack) {
  EXPECT_EQ(Register("new", 0, 0, 0.1).status().code(), StatusCode::kUnavailable);
  ASSERT_TRUE(Register("a", 1, 76, 0.2).ok());
  EXPECT_EQ(Register("new", 0, 0, 0.9).status().code(), StatusCode::kUnavailable);
  const auto fresh = Register("new", 0, 0, 1.1);
  ASSERT_TRUE(fresh.ok());
  EXPECT_NE(fresh->id, WorkerId(1)) << "taken";
  EXPECT_GE(fresh->incarnation.value, 500u);
}

TEST_F(RestartedTest, TwoWithOneNumberGetTwo) {
  ASSERT_TRUE(Register("a", 1, 76, 0.2).ok());
  EXPECT_EQ(Register("b", 1, 70, 0.3).status().code(), StatusCode::kUnavailable) << "not known, so like a new one";
  const auto b = Register("b", 1, 70, 1.5);
  ASSERT_TRUE(b.ok());
  EXPECT_NE(b->id, WorkerId(1));
  EXPECT_GE(b->incarnation.value, 500u) << "with its number its incarnation goes";
}

TEST_F(RestartedTest, AnAbsurdFormerNumberIsNotKept) {
  const auto huge = Register("a", 1u << 31, 1, 2);
  ASSERT_TRUE(huge.ok());
  EXPECT_LT(huge->id.value, 1000u) << "the index holds 31 bits";
  const auto future = Register("b", 3, 1ull << 60, 2);
  ASSERT_TRUE(future.ok());
  EXPECT_LT(future->incarnation.value, 1000u) << "or nobody after it could be newer";
}

TEST_F(RestartedTest, WhoIsKnownHereGetsAHigherIncarnation) {
  const auto first = Register("a", 1, 76, 0.2);
  ASSERT_TRUE(first.ok());
  const auto second = Register("a", 1, 76, 0.3);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->id, first->id);
  EXPECT_GT(second->incarnation, first->incarnation) << "its old connection's end must not be its own";
}

}  // namespace
}  // namespace baton
