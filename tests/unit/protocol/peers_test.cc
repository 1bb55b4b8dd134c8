// Ranks that dial each other over loopback TCP: who is let in, what breaks when a connection goes, the loop's queue.
#include "protocol/peers.h"

#include "protocol/loop.h"
#include "protocol/membership_view.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

/// Answers `lookup` with a number, or never.
class NumberStore final : public wire::Store::Server {
 public:
  explicit NumberStore(bool* dropped = nullptr, bool silent = false) : dropped_(dropped), silent_(silent) {}
  ~NumberStore() noexcept(false) {
    if (dropped_ != nullptr) *dropped_ = true;
  }
  kj::Promise<void> lookup(LookupContext context) override {
    context.allowCancellation();
    context.getResults().setCount(42);
    if (silent_) return kj::NEVER_DONE;
    return kj::READY_NOW;
  }

 private:
  bool* const dropped_;
  const bool silent_;
};

class PeersTest : public LoopTest {
 protected:
  using LookupAnswer = capnp::Response<wire::Store::LookupResults>;
  Result<kj::Own<Peer>> Dial(PeerTable& peers, const PeerAddress& address) { return Wait(peers.Dial(address)); }
  uint32_t Lookup(Peer& peer) { return Wait(kj::Promise<LookupAnswer>(peer.store.lookupRequest().send())).getCount(); }
};

TEST_F(PeersTest, OneConnectionServesEveryDial) {
  TestNode node(io_);
  node.services.store = kj::heap<NumberStore>();
  PeerTable peers = MakePeers();
  auto first = peers.Dial(node.address()), second = peers.Dial(node.address());
  auto a = Wait(kj::mv(first)), b = Wait(kj::mv(second));
  ASSERT_TRUE(a.ok()) << a.status().ToString();
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(a->get(), b->get());
  EXPECT_EQ(Lookup(**a), 42u);
  EXPECT_EQ((*a)->address(), node.address());
}

TEST_F(PeersTest, AnAbsentRoleFailsItsCalls) {
  TestNode node(io_);
  PeerTable peers = MakePeers();
  auto peer = Dial(peers, node.address());
  ASSERT_TRUE(peer.ok());
  auto call = kj::Promise<LookupAnswer>((*peer)->store.lookupRequest().send()).then([](LookupAnswer) { return OkStatus(); });
  EXPECT_FALSE(Wait(CatchAsStatus(kj::mv(call))).ok());
}

TEST_F(PeersTest, AWrongKeyIsRefusedWithTheReason) {
  for (const auto& [here, there] : std::vector<std::pair<std::string, std::string>>{{"", "key"}, {"key", ""}, {"Key", "key"}, {"key1", "key"}}) {
    TestNode node(io_, there);
    node.services.store = kj::heap<NumberStore>();
    PeerTable peers = MakePeers(here);
    for (int i = 0; i < 2; ++i) {  // and again
      const auto peer = Dial(peers, node.address());
      ASSERT_FALSE(peer.ok());
      EXPECT_EQ(peer.status().code(), StatusCode::kInvalid);
      EXPECT_THAT(peer.status().message(), ::testing::HasSubstr("cluster.key"));
      EXPECT_THAT(peer.status().message(), ::testing::HasSubstr(node.address().ToString()));
    }
  }
  TestNode open(io_, "");
  PeerTable peers = MakePeers("");
  EXPECT_TRUE(Dial(peers, open.address()).ok());
}

TEST_F(PeersTest, NobodyListens) {
  PeerAddress address;
  {
    TestNode node(io_);
    address = node.address();
  }
  PeerTable peers = MakePeers();
  const auto peer = Dial(peers, address);
  EXPECT_EQ(peer.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(peer.status().message(), ::testing::HasSubstr(address.ToString()));
}

TEST_F(PeersTest, ASilentPeerTimesOut) {
  auto listener = Wait(io_.provider->getNetwork().parseAddress("127.0.0.1", 0))->listen();
  PeerTable peers = MakePeers("key", 0.05);
  const auto peer = Dial(peers, {"127.0.0.1", static_cast<uint16_t>(listener->getPort())});
  EXPECT_EQ(peer.status().code(), StatusCode::kUnavailable);
}

TEST_F(PeersTest, ForgetBreaksGuardedCallsOnly) {
  TestNode node(io_);
  node.services.store = kj::heap<NumberStore>(nullptr, true);
  PeerTable peers = MakePeers();
  auto peer = Dial(peers, node.address());
  ASSERT_TRUE(peer.ok());
  std::vector<Status> ended;
  const auto call = [&]() {
    auto sent = (*peer)->Guard(kj::Promise<LookupAnswer>((*peer)->store.lookupRequest().send())).then([](LookupAnswer) { return OkStatus(); });
    return CatchAsStatus(kj::mv(sent)).then([&](Status status) { ended.push_back(status); }).eagerlyEvaluate(nullptr);
  };
  auto one = call(), two = call();
  io_.waitScope.poll();
  EXPECT_TRUE(ended.empty());
  peers.Forget(node.address(), "declared dead");
  ASSERT_TRUE(Until([&] { return ended.size() == 2; }));
  for (const Status& status : ended) {
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_THAT(status.message(), ::testing::HasSubstr("declared dead"));
  }
  peers.Forget(node.address(), "twice");
  auto again = Dial(peers, node.address());
  ASSERT_TRUE(again.ok());
  EXPECT_NE(again->get(), peer->get()) << "a fresh connection";
}

TEST_F(PeersTest, ALostConnectionIsDialledAgain) {
  auto node = std::make_unique<TestNode>(io_);
  bool dropped = false;
  node->services.store = kj::heap<NumberStore>(&dropped, true);
  PeerTable peers = MakePeers();
  auto peer = Dial(peers, node->address());
  ASSERT_TRUE(peer.ok());
  Status ended;
  auto sent = (*peer)->Guard(kj::Promise<LookupAnswer>((*peer)->store.lookupRequest().send())).then([](LookupAnswer) { return OkStatus(); });
  auto call = CatchAsStatus(kj::mv(sent)).then([&](Status status) { ended = status; }).eagerlyEvaluate(nullptr);
  io_.waitScope.poll();
  const PeerAddress address = node->address();
  node = nullptr;
  ASSERT_TRUE(Until([&] { return !ended.ok(); }));
  EXPECT_EQ(ended.code(), StatusCode::kUnavailable);
  EXPECT_TRUE(Until([&] { return dropped; })) << "the server's objects go with the connection";
  // The entry is gone: the next dial tries afresh, and finds nobody instead of a dead connection.
  EXPECT_TRUE(Until([&] { return !Dial(peers, address).ok(); }));
  EXPECT_THAT(Dial(peers, address).status().message(), ::testing::HasSubstr("cannot reach"));
}

TEST_F(PeersTest, DroppingACallCancelsItOverThere) {
  TestNode node(io_);
  struct Watched final : public wire::Store::Server {
    explicit Watched(bool* e) : ended(e) {}
    kj::Promise<void> lookup(LookupContext context) override {
      context.allowCancellation();
      return kj::Promise<void>(kj::NEVER_DONE).attach(kj::defer([this] { *ended = true; }));
    }
    bool* ended;
  };
  bool ended = false;
  node.services.store = kj::heap<Watched>(&ended);
  PeerTable peers = MakePeers();
  auto peer = Dial(peers, node.address());
  ASSERT_TRUE(peer.ok());
  {
    auto call = (*peer)->Guard(kj::Promise<LookupAnswer>((*peer)->store.lookupRequest().send()));
    for (int i = 0; i < 10; ++i) timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
    EXPECT_FALSE(ended);
  }
  EXPECT_TRUE(Until([&] { return ended; }));
}

TEST_F(LoopTest, AHostThatCannotBeBound) {
  NodeServices services;
  NodeServer server(services, "");
  const Status status = server.Listen(io_.provider->getNetwork(), io_.provider->getTimer(), io_.waitScope, "203.0.113.1");
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("cluster.bind_host"));
}

TEST_F(LoopTest, PostedWorkRunsInOrderFromManyThreads) {
  LoopQueue loop(io_.unixEventPort);
  constexpr int kThreads = 4, kEach = 2000;
  std::vector<std::vector<int>> seen(kThreads);
  const auto self = std::this_thread::get_id();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        loop.Post([&, t, i] {
          EXPECT_EQ(std::this_thread::get_id(), self);
          seen[t].push_back(i);
        });
      }
    });
  }
  EXPECT_TRUE(Until([&] { return std::all_of(seen.begin(), seen.end(), [](const auto& s) { return s.size() == kEach; }); }));
  for (auto& thread : threads) thread.join();
  for (const auto& s : seen) EXPECT_TRUE(std::is_sorted(s.begin(), s.end()));
}

TEST_F(LoopTest, WorkThatThrowsStopsNobodyElse) {
  LoopQueue loop(io_.unixEventPort);
  int ran = 0;
  loop.Post([&] { ++ran; });
  loop.Post([] { kj::throwFatalException(KJ_EXCEPTION(FAILED, "one request's bad luck")); });
  loop.Post([&] {
    ++ran;
    loop.Post([&] { ++ran; });  // from within
  });
  EXPECT_TRUE(Until([&] { return ran == 3; }));
}

TEST(OwnThreadQueue, RunsInOrderWithoutAnEventPort) {
  kj::EventLoop loop;
  kj::WaitScope scope(loop);
  std::vector<int> ran;
  {
    LoopQueue queue;
    queue.Post([&] { ran.push_back(1); });
    queue.Post([] { kj::throwFatalException(KJ_EXCEPTION(FAILED, "one request's bad luck")); });
    queue.Post([&] {
      ran.push_back(2);
      queue.Post([&] { ran.push_back(4); });  // from within: after what was there before
    });
    queue.Post([&] { ran.push_back(3); });
    EXPECT_TRUE(ran.empty()) << "not from inside Post";
    scope.poll();
    EXPECT_EQ(ran, (std::vector<int>{1, 2, 3, 4}));
    queue.Post([&] { ran.push_back(5); });
  }
  scope.poll();
  EXPECT_EQ(ran.size(), 4u) << "what a destroyed queue still held is dropped";
}

MemberInfo Member(uint32_t id, uint64_t incarnation, std::vector<std::string> roles = {"decode"}) {
  MemberInfo m;
  m.id = WorkerId(id);
  m.incarnation = Incarnation(incarnation);
  m.name = "w" + std::to_string(id);
  m.roles = std::move(roles);
  return m;
}

TEST(MembershipViewTest, TellsWhoIsGone) {
  MembershipView view;
  std::vector<std::pair<uint32_t, uint64_t>> gone;
  view.Watch([&](const MemberInfo& m) { gone.emplace_back(m.id.value, m.incarnation.value); });
  size_t second = 0;
  view.Watch([&](const MemberInfo& m) {
    ++second;
    EXPECT_TRUE(view.Find(m.id) == nullptr || view.Find(m.id)->incarnation != m.incarnation) << "the view has moved on already";
  });
  view.Update({Member(1, 10), Member(2, 20, {"store"}), Member(3, 30)});
  EXPECT_TRUE(gone.empty());
  EXPECT_EQ(view.WithRole("decode").size(), 2u);
  EXPECT_EQ(view.WithRole("store")[0]->id, WorkerId(2));
  EXPECT_TRUE(view.WithRole("prefill").empty());
  view.Update({Member(1, 10), Member(3, 31), Member(4, 40)});  // 2 left, 3 was restarted
  EXPECT_EQ(gone, (std::vector<std::pair<uint32_t, uint64_t>>{{2, 20}, {3, 30}}));
  EXPECT_EQ(view.Find(WorkerId(3))->incarnation, Incarnation(31));
  EXPECT_EQ(view.Find(WorkerId(2)), nullptr);
  view.Update({Member(1, 10), Member(3, 31), Member(4, 40)});
  EXPECT_EQ(gone.size(), 2u) << "nothing changed";
  view.Update({});
  EXPECT_EQ(gone.size(), 5u);
  EXPECT_EQ(second, 5u);
  EXPECT_TRUE(view.all().empty());
}

}  // namespace
}  // namespace baton
