// The auto transport: which medium a pair of workers gets, and pairs of which only one end is auto. Everything else it
// owes is in the conformance suite.
#include <sys/socket.h>

#include "side_support.h"

namespace baton {
namespace {

constexpr const char* kNobodysSocket = "shm:baton-0-0";
constexpr const char* kNobodysPort = "tcp:127.0.0.1:1";

TransportConfig ConfigOf(const std::string& kind, uint32_t worker) {
  TransportConfig config;
  config.kind = kind;
  config.self = WorkerId(worker);
  return config;
}

/// The part of an auto address that begins with `family`.
std::string PartOf(const std::string& address, const std::string& family) {
  const size_t begin = address.find(family + ":");
  return address.substr(begin, address.find('|', begin) - begin);
}

/// Connections of this process over TCP, by either end.
size_t TcpConnections() {
  size_t count = 0;
  for (int fd = 3; fd < 1024; ++fd) {
    sockaddr_storage peer{};
    socklen_t bytes = sizeof peer;
    count += getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &bytes) == 0 && peer.ss_family == AF_INET;
  }
  return count;
}

class AutoTransport : public ::testing::Test {
 protected:
  /// A transfer from worker 2, at `address`, to worker 1.
  void Transfer(const std::string& address) {
    ASSERT_EQ(near_.Connect(2, address), "ok");
    ASSERT_EQ(near_.Expect(1, 2, {100'000, 2_MiB}), "ok");
    ASSERT_EQ(far_.Push(1, 1, {{0, 100'000}, {1, 2_MiB}}), "ok");
    EXPECT_EQ(Outcome(), "landed");
    for (const Event& e : near_.events) EXPECT_TRUE(e.right) << e.index;
  }
  /// How transfer 1 ends at the near end.
  std::string Outcome() {
    const Instant limit = clock_.Now() + std::chrono::seconds(8);
    while (near_.Find("landed", 1) == nullptr && near_.Find("failed", 1) == nullptr && clock_.Now() < limit) near_.Poll(), far_.Poll();
    if (const Event* failed = near_.Find("failed", 1)) return failed->message;
    return near_.Find("landed", 1) == nullptr ? "nothing" : "landed";
  }

  SystemClock clock_;
  End near_{MakeDirectSide(ConfigOf("auto", 1)), 1};
  End far_{MakeDirectSide(ConfigOf("auto", 2)), 2};
};

TEST_F(AutoTransport, OneHostSharesMemoryAndOpensNoTcpConnection) {
  EXPECT_THAT(far_.address(), ::testing::MatchesRegex("auto:shm:baton-[0-9a-f-]+\\|tcp:127.0.0.1:[0-9]+"));
  Transfer(far_.address());
  EXPECT_EQ(TcpConnections(), 0u);
  EXPECT_EQ(near_.Stats()["peers"], 1);
}

TEST_F(AutoTransport, SharedMemoryDoesWithoutTheTcpPart) { Transfer("auto:" + PartOf(far_.address(), "shm") + "|" + kNobodysPort); }

TEST_F(AutoTransport, AnotherHostIsReachedOverTcp) {
  Transfer(std::string("auto:") + kNobodysSocket + "|" + PartOf(far_.address(), "tcp"));
  EXPECT_EQ(TcpConnections(), 4u) << "both ends of two paths";
}

TEST_F(AutoTransport, APartThatNobodyKnowsIsPassedOver) { Transfer("auto:quic:10.0.0.1:7|" + PartOf(far_.address(), "tcp")); }

TEST_F(AutoTransport, APeerThatIsGoneFailsItsTransfers) {
  ASSERT_EQ(near_.Connect(2, std::string("auto:") + kNobodysSocket + "|" + kNobodysPort), "ok");
  ASSERT_EQ(near_.Expect(1, 2, {10}), "ok");
  EXPECT_THAT(Outcome(), ::testing::HasSubstr("refused"));
}

TEST_F(AutoTransport, OtherAddressesAreRefusedAtOnce) {
  for (const char* address : {"", "auto", "auto:", "auto:|", "auto:mpi:3", "mpi:3", "tcp", "auto:tcp", "auto:shmem:x|tcpip:127.0.0.1:1", "tcp:nowhere"}) {
    EXPECT_EQ(near_.Connect(2, address), "invalid") << address;
  }
  Transfer(far_.address());
}

TEST_F(AutoTransport, MeetsWorkersOfOneKind) {
  for (const char* kind : {"tcp", "shm"}) {
    near_ = End(MakeDirectSide(ConfigOf("auto", 1)), 1);
    far_ = End(MakeDirectSide(ConfigOf(kind, 2)), 2);
    Transfer(far_.address());
    near_ = End(MakeDirectSide(ConfigOf(kind, 1)), 1);
    far_ = End(MakeDirectSide(ConfigOf("auto", 2)), 2);
    Transfer(far_.address());
  }
}

/// Arenas are shown to peers that share memory, and kept from those over TCP.
TEST(AutoTransportArena, MayComeWhenPeersAreConnected) {
  auto one = std::move(*MakeTransport(ConfigOf("auto", 1)));
  auto shm = std::move(*MakeTransport(ConfigOf("shm", 2)));
  auto tcp = std::move(*MakeTransport(ConfigOf("tcp", 3)));
  ASSERT_TRUE(one->Connect(WorkerId(2), shm->address()).ok());
  ASSERT_TRUE(one->Connect(WorkerId(3), tcp->address()).ok());
  SystemClock clock;
  Completion done[8];
  const Instant limit = clock.Now() + std::chrono::seconds(8);
  const auto all = [&] { return one->Poll(done) + shm->Poll(done) + tcp->Poll(done); };
  while (one->stats().peers < 2 && clock.Now() < limit) all();
  ASSERT_EQ(one->stats().peers, 2u);

  auto source = std::move(*MakeSharedArena(1_MiB));
  auto target = std::move(*MakeSharedArena(2_MiB));
  std::byte* from = source.memory().bytes.data();
  std::byte* to = target.memory().bytes.data();
  FillPattern(1, 0, source.memory().bytes);
  ASSERT_TRUE(one->Register(source.memory()).ok());
  ASSERT_TRUE(shm->Register({{to, 1_MiB}}).ok());
  ASSERT_TRUE(tcp->Register({{to + 1_MiB, 1_MiB}}).ok());
  const Landing landings[2] = {{to, 1_MiB}, {to + 1_MiB, 1_MiB}};
  const Segment whole[1] = {{0, from, 1_MiB}};
  ASSERT_TRUE(shm->Expect(TransferId(1), WorkerId(1), {&landings[0], 1}, limit).ok());
  ASSERT_TRUE(tcp->Expect(TransferId(2), WorkerId(1), {&landings[1], 1}, limit).ok());
  ASSERT_TRUE(one->Push(TransferId(1), WorkerId(2), whole).ok());
  ASSERT_TRUE(one->Push(TransferId(2), WorkerId(3), whole).ok());
  while (shm->stats().receiving + tcp->stats().receiving > 0 && clock.Now() < limit) all();
  EXPECT_EQ(std::memcmp(from, to, 1_MiB), 0);
  EXPECT_EQ(std::memcmp(from, to + 1_MiB, 1_MiB), 0);
}

}  // namespace
}  // namespace baton
