// A rank's session against a coordinator that the test plays: every answer it may give, and its death.
#include "protocol/member_session.h"

#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

struct Beat {
  uint64_t incarnation, sequence;
  bool snapshot, draining;
  std::vector<BlockKey> added;
  uint32_t running;
  HeldSum held;
};

/// What the played coordinator does and saw; outlives its capabilities.
struct Script {
  std::vector<Beat> beats;
  std::vector<std::string> registered, announced;
  std::vector<std::pair<uint32_t, uint64_t>> former;  // id and incarnation, of each registration
  uint32_t id = 7;
  uint64_t incarnation = 100, version = 1, sessions_open = 0;
  std::vector<MemberInfo> members;
  Status refuse_register, refuse_announce, next_beat;
  bool resync = false, drain = false, silent = false, silent_register = false;
};

class Session final : public wire::WorkerSession::Server {
 public:
  Session(Script& script, uint64_t incarnation) : script_(script), incarnation_(incarnation) { ++script_.sessions_open; }
  ~Session() noexcept(false) { --script_.sessions_open; }
  kj::Promise<void> heartbeat(HeartbeatContext context) override {
    const auto p = context.getParams();
    Beat beat{incarnation_, p.getSequence(), p.getSnapshot(), p.getDraining(), {}, p.getLoad().getRunning(), {p.getHeldBlocks(), p.getHeldSum()}};
    for (const auto event : p.getEvents()) {
      if (event.getAdded()) beat.added.push_back(*ReadKey(event.getKey()));
    }
    script_.beats.push_back(beat);
    if (script_.silent) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    auto r = context.getResults();
    WriteStatus(std::exchange(script_.next_beat, OkStatus()), r.initStatus());
    r.setResync(std::exchange(script_.resync, false));
    r.setDrain(script_.drain);
    r.setMembershipVersion(script_.version);
    if (p.getMembershipVersion() != script_.version) {
      auto out = r.initMembers(static_cast<uint32_t>(script_.members.size()));
      for (uint32_t i = 0; i < script_.members.size(); ++i) WriteMember(script_.members[i], out[i]);
    }
    return kj::READY_NOW;
  }
  kj::Promise<void> announce(AnnounceContext context) override {
    script_.announced.push_back(ToString(context.getParams().getTransportAddress()));
    WriteStatus(std::exchange(script_.refuse_announce, OkStatus()), context.getResults().initStatus());
    return kj::READY_NOW;
  }

 private:
  Script& script_;
  const uint64_t incarnation_;
};

class PlayedCoordinator final : public wire::Coordinator::Server {
 public:
  explicit PlayedCoordinator(Script& script) : script_(script) {}
  kj::Promise<void> register_(RegisterContext context) override {
    script_.registered.push_back(ToString(context.getParams().getInfo().getName()));
    script_.former.emplace_back(context.getParams().getFormerId(), context.getParams().getFormerIncarnation());
    if (script_.silent_register) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    auto r = context.getResults();
    WriteStatus(script_.refuse_register, r.initStatus());
    if (!script_.refuse_register.ok()) return kj::READY_NOW;
    r.setId(script_.id);
    r.setIncarnation(++script_.incarnation);
    r.setSession(kj::heap<Session>(script_, script_.incarnation));
    return kj::READY_NOW;
  }

 private:
  Script& script_;
};

class MemberSessionTest : public LoopTest {
 protected:
  static constexpr Duration kBeat = std::chrono::milliseconds(2);

  MemberSessionTest() {
    Restart();
    self_.name = "rank-1";
    self_.roles = {"decode"};
  }
  /// A coordinator on a fresh port; connections to the old one are lost.
  void Restart() {
    peers_ = nullptr;
    node_ = std::make_unique<TestNode>(io_);
    node_->services.coordinator = kj::heap<PlayedCoordinator>(script_);
    peers_ = std::make_unique<PeerTable>(io_.provider->getNetwork(), timer_, "key", std::chrono::seconds(10));
  }
  std::unique_ptr<MemberSession> Make() { return Make(timer_); }
  std::unique_ptr<MemberSession> Make(kj::Timer& timer) {
    MemberSession::Hooks hooks;
    hooks.load = [](wire::Load::Builder load) { load.setRunning(3); };
    hooks.changes = [this](bool snapshot) {
      std::vector<HeldChange> changes;
      for (const BlockKey& key : snapshot ? held_ : std::exchange(fresh_, {})) changes.push_back({true, key});
      return changes;
    };
    hooks.on_drain = [this] { ++drains_; };
    hooks.on_silent = [this] { ++silences_; };
    auto find = [this]() -> kj::Promise<Result<wire::Coordinator::Client>> {
      if (peers_ == nullptr) return Result<wire::Coordinator::Client>(UnavailableError("nobody is there"));
      return peers_->Dial(node_->address()).then([](Result<kj::Own<Peer>> peer) -> Result<wire::Coordinator::Client> {
        if (!peer.ok()) return peer.status();
        return (*peer)->coordinator;
      });
    };
    return std::make_unique<MemberSession>(timer, find, self_, view_, kBeat, std::move(hooks));
  }
  std::unique_ptr<MemberSession> Joined() {
    auto session = Make();
    EXPECT_TRUE(Wait(session->Join(std::chrono::seconds(10))).ok());
    EXPECT_TRUE(Wait(session->Announce("tcp", "tcp:there")).ok());
    return session;
  }
  bool Beats(size_t count) {
    return Until([&] { return script_.beats.size() >= count; });
  }
  static BlockKey Key(uint64_t name) { return {Sha256(std::as_bytes(std::span(&name, 1)))}; }

  Script script_;
  std::unique_ptr<TestNode> node_;
  std::unique_ptr<PeerTable> peers_;
  MemberInfo self_;
  MembershipView view_;
  std::vector<BlockKey> held_, fresh_;
  int drains_ = 0, silences_ = 0;
};

TEST_F(MemberSessionTest, JoinsAnnouncesAndBeats) {
  held_ = {Key(1), Key(2)};
  auto session = Joined();
  EXPECT_EQ(session->self().id, WorkerId(7));
  EXPECT_EQ(session->self().incarnation, Incarnation(101));
  EXPECT_TRUE(session->connected());
  EXPECT_EQ(script_.announced, std::vector<std::string>{"tcp:there"});
  fresh_ = {Key(3)};
  ASSERT_TRUE(Beats(4));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(script_.beats[i].sequence, i + 1);
    EXPECT_EQ(script_.beats[i].snapshot, i == 0);
    EXPECT_EQ(script_.beats[i].running, 3u);
  }
  EXPECT_EQ(script_.beats[0].added, held_);
  size_t told = 0;
  for (const Beat& beat : script_.beats) told += std::count(beat.added.begin(), beat.added.end(), Key(3));
  EXPECT_EQ(told, 1u) << "a change is told once";
}

TEST_F(MemberSessionTest, ALostBeatIsFollowedByASnapshot) {
  auto session = Joined();
  ASSERT_TRUE(Beats(2));
  held_ = {Key(5)};
  script_.resync = true;
  const size_t before = script_.beats.size();
  ASSERT_TRUE(Until([&] { return !script_.resync && script_.beats.size() >= before + 3; }));
  const auto snapshot = std::find_if(script_.beats.begin() + 1, script_.beats.end(), [](const Beat& b) { return b.snapshot; });
  ASSERT_NE(snapshot, script_.beats.end());
  EXPECT_EQ(snapshot->added, held_);
  EXPECT_EQ(std::count_if(script_.beats.begin() + 1, script_.beats.end(), [](const Beat& b) { return b.snapshot; }), 1);
  EXPECT_EQ(script_.registered.size(), 1u);
}

TEST_F(MemberSessionTest, DeclaredDeadItRegistersAgain) {
  auto session = Joined();
  ASSERT_TRUE(Beats(2));
  script_.next_beat = AbortedError("incarnation 101 is over");
  ASSERT_TRUE(Until([&] { return !script_.beats.empty() && script_.beats.back().incarnation == 102; }));
  EXPECT_EQ(session->self().incarnation, Incarnation(102));
  EXPECT_FALSE(session->was_lost());
  EXPECT_EQ(script_.former.back(), std::make_pair(7u, uint64_t{0})) << "the incarnation that is over is not asked for again";
  EXPECT_EQ(script_.announced.size(), 2u);
  EXPECT_EQ(script_.announced.back(), "tcp:there");
  const auto first = std::find_if(script_.beats.begin(), script_.beats.end(), [](const Beat& b) { return b.incarnation == 102; });
  EXPECT_EQ(first->sequence, 1u);
  EXPECT_TRUE(first->snapshot);
  EXPECT_TRUE(Until([&] { return session->connected() && script_.sessions_open == 1; })) << "the old session was dropped";
}

TEST_F(MemberSessionTest, TheCoordinatorDiesAndComesBack) {
  auto session = Joined();
  ASSERT_TRUE(Beats(2));
  peers_ = nullptr;
  node_ = nullptr;
  ASSERT_TRUE(Until([&] { return !session->connected(); }));
  Wait(session->DrainingKnown());  // waits for nobody
  script_.version = 1;             // a new life counts from the start, and knows others
  MemberInfo other = self_;
  other.id = WorkerId(9);
  other.name = "rank-9";
  script_.members = {other};
  Restart();
  ASSERT_TRUE(Until([&] { return script_.beats.back().incarnation == 102; }));
  EXPECT_TRUE(Until([&] { return view_.Find(WorkerId(9)) != nullptr; })) << "the same version number of another life is news";
}

TEST_F(MemberSessionTest, ASilentCoordinatorCountsAsGone) {
  auto session = Joined();
  ASSERT_TRUE(Beats(1));
  script_.silent = true;
  ASSERT_TRUE(Until([&] { return script_.registered.size() >= 2; }));
  script_.silent = false;
  const size_t beats = script_.beats.size();
  ASSERT_TRUE(Beats(beats + 2));
  EXPECT_GT(session->self().incarnation.value, 101u);
  EXPECT_GE(silences_, 1) << "its connection is of no use";
}

TEST_F(MemberSessionTest, WhatIsHeldAddsUp) {
  held_ = {Key(1), Key(2)};
  auto session = Joined();
  fresh_ = {Key(3)};
  ASSERT_TRUE(Beats(3));
  HeldSum want;
  for (const BlockKey& key : held_) want.Count({true, key});
  EXPECT_EQ(script_.beats[0].held, want);
  want.Count({true, Key(3)});
  EXPECT_EQ(script_.beats[2].held, want);
  held_ = {Key(9)};
  script_.resync = true;
  ASSERT_TRUE(Until([&] { return script_.beats.back().snapshot; }));
  want = {};
  want.Count({true, Key(9)});
  EXPECT_EQ(script_.beats.back().held, want) << "a snapshot begins anew";
}

/// With a clock of its own, so that a busy machine is not taken for a stopped process.
class MemberSessionLifeTest : public MemberSessionTest {
 protected:
  MemberSessionLifeTest() {
    session_ = Make(clock_);
    EXPECT_TRUE(Wait(session_->Join(std::chrono::seconds(10))).ok());
    EXPECT_TRUE(Wait(session_->Announce("tcp", "tcp:there")).ok());
  }
  ~MemberSessionLifeTest() noexcept override { session_ = nullptr; }
  /// Lets the session's time go on in steps until the condition holds.
  bool Pass(kj::Duration step, const std::function<bool()>& condition) {
    return Until([&] {
      clock_.advanceTo(now_ += step);
      return condition();
    });
  }
  void LoseTheCoordinator() {
    peers_ = nullptr;
    node_ = nullptr;
    ASSERT_TRUE(Pass(1 * kj::MILLISECONDS, [&] { return !session_->connected(); }));
  }

  kj::TimerImpl clock_{kj::origin<kj::TimePoint>()};
  kj::TimePoint now_ = kj::origin<kj::TimePoint>();
  std::unique_ptr<MemberSession> session_;
};

TEST_F(MemberSessionLifeTest, ANewCoordinatorIsToldTheFormerNumbers) {
  EXPECT_EQ(script_.former[0].first, 0u) << "at first there are none";
  LoseTheCoordinator();
  EXPECT_TRUE(session_->was_lost());
  Restart();
  ASSERT_TRUE(Pass(10 * kj::MILLISECONDS, [&] { return session_->connected(); }));
  EXPECT_EQ(script_.former.back(), std::make_pair(7u, uint64_t{101}));
  EXPECT_EQ(drains_, 0);
}

TEST_F(MemberSessionLifeTest, WhoWasStoppedMeanwhileAsksForItsNumberOnly) {
  LoseTheCoordinator();
  now_ += 60 * kj::SECONDS;  // the process stood still
  Restart();
  ASSERT_TRUE(Pass(10 * kj::MILLISECONDS, [&] { return session_->connected(); }));
  EXPECT_EQ(script_.former.back(), std::make_pair(7u, uint64_t{0})) << "its peers may have given it up, its transport is bound to the number";
  EXPECT_EQ(drains_, 0);
}

/// A successor that accepts connections and is too busy to answer (it reads its model, others use the machine) is waited for, and
/// that wait is not taken for a stop of this process, which would cost it its place.
TEST_F(MemberSessionLifeTest, WaitingLongForABusySuccessorIsNotStandingStill) {
  LoseTheCoordinator();
  Restart();
  script_.silent_register = true;
  ASSERT_TRUE(Pass(20 * kj::MILLISECONDS, [&] { return script_.registered.size() >= 4; })) << "each try waits for its answer as long as one may take";
  EXPECT_GE((now_ - kj::origin<kj::TimePoint>()) / kj::SECONDS, 10);
  script_.silent_register = false;
  ASSERT_TRUE(Pass(20 * kj::MILLISECONDS, [&] { return session_->connected(); }));
  EXPECT_EQ(script_.former.back(), std::make_pair(7u, uint64_t{101})) << "both numbers, as one that never stood still";
  EXPECT_EQ(drains_, 0);
}

/// The stop falls into the wait for an answer.
TEST_F(MemberSessionLifeTest, WhoWasStoppedWhileItWaitedForABusySuccessor) {
  LoseTheCoordinator();
  Restart();
  script_.silent_register = true;
  const size_t before = script_.registered.size();
  ASSERT_TRUE(Pass(20 * kj::MILLISECONDS, [&] { return script_.registered.size() > before; }));
  script_.silent_register = false;
  now_ += 60 * kj::SECONDS;
  ASSERT_TRUE(Pass(20 * kj::MILLISECONDS, [&] { return session_->connected(); }));
  EXPECT_EQ(script_.former.back(), std::make_pair(7u, uint64_t{0}));
}

TEST_F(MemberSessionLifeTest, WhoseNumberWentToAnotherLeaves) {
  LoseTheCoordinator();
  script_.id = 8;
  Restart();
  ASSERT_TRUE(Pass(10 * kj::MILLISECONDS, [&] { return drains_ == 1; })) << "its transport has the old number";
  EXPECT_EQ(script_.announced.size(), 1u) << "nothing is routed to it";
}

TEST_F(MemberSessionTest, MembersComeWithTheVersion) {
  MemberInfo other = self_;
  other.id = WorkerId(9);
  other.incarnation = Incarnation(1);
  other.name = "rank-9";
  script_.members = {other};
  script_.version = 5;
  std::vector<std::string> gone;
  view_.Watch([&](const MemberInfo& m) { gone.push_back(m.name); });
  auto session = Joined();
  ASSERT_TRUE(Until([&] { return view_.Find(WorkerId(9)) != nullptr; }));
  script_.members = {};
  const size_t beats = script_.beats.size();
  ASSERT_TRUE(Beats(beats + 2));
  EXPECT_TRUE(gone.empty()) << "without a new version nothing is said of members";
  script_.version = 6;
  ASSERT_TRUE(Until([&] { return view_.all().empty(); }));
  EXPECT_EQ(gone, std::vector<std::string>{"rank-9"});
}

TEST_F(MemberSessionTest, ADrainIsAskedForOnceAndSaidBack) {
  auto session = Joined();
  script_.drain = true;
  ASSERT_TRUE(Until([&] { return drains_ == 1; }));
  const size_t beats = script_.beats.size();
  ASSERT_TRUE(Beats(beats + 3));
  EXPECT_EQ(drains_, 1);
  EXPECT_FALSE(script_.beats.back().draining);
  session->SetDraining();
  Wait(session->DrainingKnown());
  EXPECT_TRUE(script_.beats.back().draining);
}

TEST_F(MemberSessionTest, ARefusalIsFinalAndNobodyIsWaitedFor) {
  script_.refuse_register = InvalidError("another model");
  auto session = Make();
  const Status status = Wait(session->Join(std::chrono::hours(1)));
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("another model"));
  EXPECT_EQ(script_.registered.size(), 1u);
}

TEST_F(MemberSessionTest, NoCoordinatorWithinTheTime) {
  peers_ = nullptr;
  auto session = Make();
  const Status status = Wait(session->Join(std::chrono::milliseconds(1)));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("nobody is there"));
}

TEST_F(MemberSessionTest, AWrongKeyEndsTheJoinAtOnce) {
  peers_ = std::make_unique<PeerTable>(io_.provider->getNetwork(), timer_, "other key", std::chrono::seconds(10));
  auto session = Make();
  const Status status = Wait(session->Join(std::chrono::hours(1)));
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("cluster.key"));
}

TEST_F(MemberSessionTest, JoinWaitsForALateCoordinator) {
  auto late = std::exchange(peers_, nullptr);
  auto session = Make();
  auto joined = session->Join(std::chrono::hours(1));
  timer_.afterDelay(5 * kj::MILLISECONDS).wait(io_.waitScope);
  EXPECT_TRUE(script_.registered.empty());
  peers_ = std::move(late);
  EXPECT_TRUE(Wait(kj::mv(joined)).ok());
}

TEST_F(MemberSessionTest, DeadBeforeItCouldAnnounce) {
  script_.refuse_announce = AbortedError("incarnation 101 is over");  // it took long to get ready
  auto session = Joined();
  EXPECT_EQ(script_.registered.size(), 2u);
  EXPECT_EQ(session->self().incarnation, Incarnation(102));
  ASSERT_TRUE(Beats(1));
  EXPECT_EQ(script_.beats[0].incarnation, 102u);
}

/// The connection broke while the worker got ready: it joins again instead of giving up (found by the simulation).
TEST_F(MemberSessionTest, TheCoordinatorIsLostBeforeItCouldAnnounce) {
  auto session = Make();
  ASSERT_TRUE(Wait(session->Join(std::chrono::seconds(10))).ok());
  Restart();
  EXPECT_TRUE(Wait(session->Announce("tcp", "tcp:there")).ok());
  EXPECT_EQ(script_.registered.size(), 2u);
  EXPECT_EQ(script_.announced, (std::vector<std::string>{"tcp:there"})) << "the first one never arrived";
  ASSERT_TRUE(Beats(1));
  EXPECT_EQ(script_.beats[0].incarnation, 102u);
}

TEST_F(MemberSessionTest, ARefusalToAnnounceIsNotTriedAgain) {
  auto session = Make();
  ASSERT_TRUE(Wait(session->Join(std::chrono::seconds(10))).ok());
  script_.refuse_announce = InvalidError("no");
  EXPECT_EQ(Wait(session->Announce("tcp", "tcp:there")).code(), StatusCode::kInvalid);
  EXPECT_EQ(script_.registered.size(), 1u);
}

}  // namespace
}  // namespace baton
