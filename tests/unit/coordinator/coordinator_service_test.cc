// The coordinator's RPC face: a real Coordinator behind it, real sessions in front.
#include "coordinator/coordinator_service.h"

#include "coordinator_support.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

using RegisterAnswer = capnp::Response<wire::Coordinator::RegisterResults>;
using BeatAnswer = capnp::Response<wire::WorkerSession::HeartbeatResults>;
using RouteAnswer = capnp::Response<wire::Coordinator::RouteResults>;

class CoordinatorServiceTest : public LoopTest {
 protected:
  ~CoordinatorServiceTest() noexcept override { client_ = nullptr; }

  RegisterAnswer Register(const MemberInfo& info) {
    auto call = client().registerRequest();
    WriteInfo(info, call.initInfo());
    return Wait(kj::Promise<RegisterAnswer>(call.send()));
  }
  Status Announce(RegisterAnswer& worker, const std::string& address) {
    auto session = worker.getSession();
    auto call = session.announceRequest();
    call.setTransportKind("tcp");
    call.setTransportAddress(address);
    return ReadStatus(Wait(kj::Promise<capnp::Response<wire::WorkerSession::AnnounceResults>>(call.send())).getStatus());
  }
  BeatAnswer Beat(RegisterAnswer& worker, uint64_t sequence, bool snapshot, std::span<const BlockKey> keys = {}, uint64_t version = 0) {
    auto session = worker.getSession();
    auto call = session.heartbeatRequest();
    call.setSequence(sequence);
    call.setSnapshot(snapshot);
    call.setMembershipVersion(version);
    call.initLoad().setTotalBlocks(100);
    call.getLoad().setFreeBlocks(100);
    auto events = call.initEvents(static_cast<uint32_t>(keys.size()));
    for (uint32_t i = 0; i < keys.size(); ++i) {
      events[i].setAdded(true);
      events[i].setKey(ToData(keys[i]));
    }
    return Wait(kj::Promise<BeatAnswer>(call.send()));
  }
  RegisterAnswer Join(const std::string& name, std::vector<std::string> roles) {
    RegisterAnswer worker = Register(TestInfo(name, std::move(roles)));
    EXPECT_TRUE(ReadStatus(worker.getStatus()).ok());
    EXPECT_TRUE(Announce(worker, "tcp:" + name).ok());
    EXPECT_TRUE(ReadStatus(Beat(worker, 1, true).getStatus()).ok());
    return worker;
  }
  RouteAnswer Route(const std::function<void(wire::RouteQuery::Builder)>& fill = {}) {
    auto call = client().routeRequest();
    auto query = call.initQuery();
    query.setRequestId(1);
    query.setPromptTokens(200);
    query.setMaxTokens(10);
    if (fill) fill(query);
    return Wait(kj::Promise<RouteAnswer>(call.send()));
  }
  wire::Coordinator::Client& client() { return KJ_ASSERT_NONNULL(client_); }

  FakeClock clock_;
  Metrics metrics_;
  Coordinator coordinator_{{}, clock_, metrics_};
  kj::Maybe<wire::Coordinator::Client> client_ = wire::Coordinator::Client(kj::heap<CoordinatorService>(coordinator_, metrics_, timer_));
};

TEST_F(CoordinatorServiceTest, RegisterAnnounceBeat) {
  auto decode = Register(TestInfo("d", {"decode"}));
  EXPECT_GT(decode.getId(), 0u);
  EXPECT_GT(decode.getIncarnation(), 0u);
  EXPECT_EQ(Beat(decode, 1, true).getMembers().size(), 0u) << "not announced: not there yet";
  EXPECT_TRUE(Announce(decode, "tcp:there").ok());
  const auto answer = Beat(decode, 2, false);
  ASSERT_EQ(answer.getMembers().size(), 1u);
  const auto member = ReadMember(answer.getMembers()[0]);
  ASSERT_TRUE(member.ok());
  EXPECT_EQ(member->transport_address, "tcp:there");
  EXPECT_EQ(member->id.value, decode.getId());
  EXPECT_FALSE(answer.getResync());
  EXPECT_EQ(Beat(decode, 3, false, {}, answer.getMembershipVersion()).getMembers().size(), 0u) << "nothing new";
  EXPECT_TRUE(Beat(decode, 5, false).getResync()) << "the fourth is missing";
  EXPECT_FALSE(Beat(decode, 6, true).getResync());
}

TEST_F(CoordinatorServiceTest, AWorkerWithoutANameOrWithAnotherModelIsRefused) {
  EXPECT_EQ(ReadStatus(Register(TestInfo("", {"decode"})).getStatus()).code(), StatusCode::kInvalid);
  auto first = Join("d", {"decode"});
  MemberInfo other = TestInfo("e", {"decode"});
  other.model.numerics = "fast";
  const auto refused = Register(other);
  EXPECT_EQ(ReadStatus(refused.getStatus()).code(), StatusCode::kInvalid);
  EXPECT_FALSE(refused.hasSession());
}

TEST_F(CoordinatorServiceTest, DroppingTheSessionIsLeaving) {
  uint32_t id = 0;
  {
    auto worker = Join("d", {"decode"});
    id = worker.getId();
    EXPECT_TRUE(coordinator_.membership().Find(WorkerId(id))->alive);
  }
  EXPECT_TRUE(Until([&] { return !coordinator_.membership().Find(WorkerId(id))->alive; }));
}

TEST_F(CoordinatorServiceTest, AnOlderSessionsEndDoesNotEndTheNewLife) {
  auto old = kj::heap<RegisterAnswer>(Join("d", {"decode"}));
  auto fresh = Join("d", {"decode"});
  EXPECT_EQ(fresh.getId(), old->getId());
  EXPECT_GT(fresh.getIncarnation(), old->getIncarnation());
  EXPECT_EQ(ReadStatus(Beat(*old, 2, false).getStatus()).code(), StatusCode::kAborted);
  EXPECT_EQ(Announce(*old, "tcp:late").code(), StatusCode::kAborted);
  old = nullptr;
  io_.waitScope.poll();
  EXPECT_TRUE(ReadStatus(Beat(fresh, 2, false).getStatus()).ok());
}

TEST_F(CoordinatorServiceTest, KeysOfAnotherSizeAreLeftOut) {
  auto worker = Join("d", {"decode"});
  auto session = worker.getSession();
  auto call = session.heartbeatRequest();
  call.setSequence(2);
  auto events = call.initEvents(2);
  events[0].setAdded(true);
  events[0].initKey(31);
  events[1].setAdded(true);
  events[1].setKey(ToData(TestKey(1)));
  EXPECT_TRUE(ReadStatus(Wait(kj::Promise<BeatAnswer>(call.send())).getStatus()).ok());
  const auto chain = std::vector<BlockKey>{TestKey(1)};
  const auto answer = Route([&](auto q) { WriteKeys(chain, q.initKeys(1)); });
  EXPECT_TRUE(ReadStatus(answer.getStatus()).ok());
}

TEST_F(CoordinatorServiceTest, RoutesToWhoIsThere) {
  const auto nobody = Route();
  EXPECT_EQ(ReadStatus(nobody.getStatus()).code(), StatusCode::kUnavailable);
  EXPECT_GT(nobody.getRetryAfterS(), 0);
  auto decode = Join("d", {"decode"});
  auto other = Join("e", {"decode"});
  const auto answer = Route();
  ASSERT_TRUE(ReadStatus(answer.getStatus()).ok());
  const auto chosen = ReadMember(answer.getPlan().getDecode());
  ASSERT_TRUE(chosen.ok());
  EXPECT_THAT(ToString(answer.getPlan().getReason()), ::testing::Not(::testing::IsEmpty()));
  const auto elsewhere = Route([&](auto q) {
    q.setRequestId(2);
    q.initAvoid(1).set(0, chosen->id.value);
    q.setMoved(true);
  });
  ASSERT_TRUE(ReadStatus(elsewhere.getStatus()).ok());
  EXPECT_NE(ReadMember(elsewhere.getPlan().getDecode())->id, chosen->id);
  for (const auto member : answer.getPlan().getPrefill()) EXPECT_TRUE(ReadMember(member).ok());
}

TEST_F(CoordinatorServiceTest, HostileQueries) {
  auto decode = Join("d", {"decode"});
  EXPECT_EQ(ReadStatus(Route([](auto q) { q.initKeys(1).init(0, 5); }).getStatus()).code(), StatusCode::kInvalid);
  EXPECT_EQ(ReadStatus(Route([](auto q) { q.initKeys((1 << 16) + 1); }).getStatus()).code(), StatusCode::kInvalid);
  auto explain = client().explainRouteRequest();
  explain.initQuery().initKeys(1).init(0, 5);
  EXPECT_ANY_THROW(Wait(kj::Promise<capnp::Response<wire::Coordinator::ExplainRouteResults>>(explain.send())));
}

TEST_F(CoordinatorServiceTest, TheCardComesWithADecodeWorker) {
  using Card = capnp::Response<wire::Coordinator::CardResults>;
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<Card>(client().cardRequest().send())).getStatus()).code(), StatusCode::kUnavailable);
  auto decode = Join("d", {"decode"});
  const Card card = Wait(kj::Promise<Card>(client().cardRequest().send()));
  ASSERT_TRUE(ReadStatus(card.getStatus()).ok());
  EXPECT_EQ(ReadIdentity(card.getModel())->model_name, "m");
}

TEST_F(CoordinatorServiceTest, DrainsAndRoles) {
  auto decode = Join("d", {"decode"});
  auto other = Join("e", {"decode"});
  const auto drain = [&](uint32_t id) {
    auto call = client().drainRequest();
    call.setWorker(id);
    return ReadStatus(Wait(kj::Promise<capnp::Response<wire::Coordinator::DrainResults>>(call.send())).getStatus()).code();
  };
  EXPECT_EQ(drain(99), StatusCode::kNotFound);
  EXPECT_EQ(drain(decode.getId()), StatusCode::kOk);
  EXPECT_TRUE(Beat(decode, 2, false).getDrain());
  EXPECT_FALSE(Beat(other, 2, false).getDrain());
  const auto role = [&](uint32_t id, const char* name) {
    auto call = client().roleRequest();
    call.setWorker(id);
    call.setRole(name);
    return ReadStatus(Wait(kj::Promise<capnp::Response<wire::Coordinator::RoleResults>>(call.send())).getStatus()).code();
  };
  EXPECT_EQ(role(other.getId(), "prefill+decode"), StatusCode::kOk);
  EXPECT_EQ(role(other.getId(), "prefill"), StatusCode::kInvalid) << "the last that decodes";
  EXPECT_EQ(role(99, "decode"), StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, TellsWhatItKnows) {
  auto decode = Join("d", {"decode"});
  (void)Route();
  auto finished = client().finishedRequest();
  finished.setRequestId(1);
  finished.setOk(true);
  Wait(finished.send().ignoreResult());
  const auto cluster = Wait(kj::Promise<capnp::Response<wire::Coordinator::ClusterJsonResults>>(client().clusterJsonRequest().send()));
  EXPECT_TRUE(nlohmann::json::accept(ToString(cluster.getJson())));
  auto explain = client().explainRequestRequest();
  explain.setRequestId(1);
  const auto known = Wait(kj::Promise<capnp::Response<wire::Coordinator::ExplainRequestResults>>(explain.send()));
  EXPECT_TRUE(ReadStatus(known.getStatus()).ok());
  EXPECT_TRUE(nlohmann::json::accept(ToString(known.getJson())));
  auto unknown = client().explainRequestRequest();
  unknown.setRequestId(2);
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<capnp::Response<wire::Coordinator::ExplainRequestResults>>(unknown.send())).getStatus()).code(), StatusCode::kNotFound);
  const auto metrics = Wait(kj::Promise<capnp::Response<wire::Coordinator::MetricsResults>>(client().metricsRequest().send()));
  EXPECT_THAT(ToString(metrics.getText()), ::testing::HasSubstr("baton_"));
}

TEST_F(CoordinatorServiceTest, TheSilentAreDeclaredDead) {
  auto worker = Join("d", {"decode"});
  kj::TimerImpl timer(kj::origin<kj::TimePoint>());
  kj::TimePoint now = kj::origin<kj::TimePoint>();
  auto ticks = RunTicks(coordinator_, timer, std::chrono::milliseconds(100)).eagerlyEvaluate(nullptr);
  const auto tick = [&] {
    clock_.Advance(std::chrono::milliseconds(100));
    timer.advanceTo(now += 100 * kj::MILLISECONDS);
    io_.waitScope.poll();
  };
  for (int i = 0; i < 19; ++i) tick();
  EXPECT_TRUE(coordinator_.membership().Find(WorkerId(worker.getId()))->alive) << "dead_after_s is 2";
  for (int i = 0; i < 3; ++i) tick();
  EXPECT_FALSE(coordinator_.membership().Find(WorkerId(worker.getId()))->alive);
  EXPECT_EQ(ReadStatus(Beat(worker, 2, false).getStatus()).code(), StatusCode::kAborted);
}

}  // namespace
}  // namespace baton
