// Who is connected to whom: addresses given and said, restarts, paths that break under shared memory, room for peers, and what
// of all that is left in the process's table of open files.
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>

#include "proxy_support.h"
#include "side_support.h"

namespace baton {
namespace {

TransportConfig ConfigOf(const std::string& kind, uint32_t worker, uint64_t incarnation = 1) {
  TransportConfig config;
  config.kind = kind;
  config.self = WorkerId(worker);
  config.incarnation = Incarnation(incarnation);
  config.handshake_timeout = std::chrono::milliseconds(200);
  return config;
}

template <typename Step, typename Done>
bool Until(Step step, Done done) {
  const Instant limit = SystemClock().Now() + std::chrono::seconds(8);
  for (; !done(); step()) {
    if (SystemClock().Now() > limit) return false;
  }
  return true;
}

size_t OpenFiles() { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator())); }

class Addresses : public ::testing::Test {
 protected:
  bool Land(uint64_t id, const std::function<void()>& meanwhile = [] {}) {
    return Until([&] { meanwhile(), near_.Poll(), far_.Poll(); },
                 [&] { return near_.Find("landed", id) != nullptr || near_.Find("failed", id) != nullptr; }) &&
           near_.Find("landed", id) != nullptr;
  }
  End near_{MakeDirectSide(ConfigOf("tcp", 1)), 1}, far_{MakeDirectSide(ConfigOf("tcp", 2)), 2};
};

/// Behind a proxy (a container's mapped port, a tunnel) a worker says another address than the one that leads to it. Whoever sends
/// connects before every push: that must not look like a restart.
TEST_F(Addresses, TheAddressThatWasGivenStaysTheSameWorkers) {
  Proxy proxy(PortOf(far_.address()));
  ASSERT_EQ(near_.Connect(2, proxy.address()), "ok");
  ASSERT_EQ(near_.Expect(1, 2, {1000}), "ok");
  ASSERT_EQ(far_.Push(1, 1, {{0, 1000}}), "ok");
  ASSERT_TRUE(Land(1, [&] { proxy.Work(); }));
  ASSERT_EQ(near_.Expect(2, 2, {1000}), "ok");
  ASSERT_EQ(near_.Connect(2, proxy.address()), "ok");
  EXPECT_EQ(near_.Stats()["peers"], 1);
  ASSERT_EQ(far_.Push(2, 1, {{0, 1000}}), "ok");
  EXPECT_TRUE(Land(2, [&] { proxy.Work(); }));
  EXPECT_EQ(proxy.lines(), 2u) << "the two connections of the first time";
  ASSERT_EQ(near_.Expect(3, 2, {1000}), "ok");
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok") << "what it says of itself is no other worker's address, either";
  ASSERT_EQ(far_.Push(3, 1, {{0, 1000}}), "ok");
  EXPECT_TRUE(Land(3, [&] { proxy.Work(); }));
}

TEST_F(Addresses, AnotherAddressIsARestart) {
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  ASSERT_EQ(near_.Expect(1, 2, {1000}), "ok");
  ASSERT_TRUE(Until([&] { near_.Poll(), far_.Poll(); }, [&] { return near_.Stats()["peers"] == 1; }));
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  EXPECT_EQ(near_.Stats()["receiving"], 1) << "the same again is nothing";
  End successor(MakeDirectSide(ConfigOf("tcp", 2, 2)), 2);
  ASSERT_EQ(near_.Connect(2, successor.address()), "ok");
  near_.Poll();
  const Event* failed = near_.Find("failed", 1);
  ASSERT_NE(failed, nullptr);
  EXPECT_EQ(failed->code, "unavailable");
  EXPECT_EQ(failed->message, "worker 2 was restarted: it is now at " + successor.address());
  ASSERT_EQ(near_.Expect(2, 2, {1000}), "ok");
  ASSERT_EQ(successor.Push(2, 1, {{0, 1000}}), "ok");
  EXPECT_TRUE(Land(2, [&] { successor.Poll(); }));
}

TEST_F(Addresses, ASuccessorThatDialsEndsItsPredecessorsTransfers) {
  ASSERT_EQ(near_.Connect(2, far_.address()), "ok");
  ASSERT_EQ(near_.Expect(1, 2, {1000}), "ok");
  ASSERT_TRUE(Until([&] { near_.Poll(), far_.Poll(); }, [&] { return near_.Stats()["peers"] == 1; }));
  End successor(MakeDirectSide(ConfigOf("tcp", 2, 2)), 2);
  ASSERT_EQ(successor.Connect(1, near_.address()), "ok");
  ASSERT_TRUE(Until([&] { near_.Poll(), successor.Poll(); }, [&] { return near_.Find("failed", 1) != nullptr; }));
  EXPECT_EQ(near_.Find("failed", 1)->message, "worker 2 was restarted");
  // The predecessor, which knows of nothing yet, tries again and is told so.
  ASSERT_EQ(far_.Push(9, 1, {{0, 10}}), "ok");
  ASSERT_TRUE(Until([&] { near_.Poll(), far_.Poll(), successor.Poll(); }, [&] { return far_.Find("failed", 9) != nullptr; }));
  EXPECT_EQ(far_.Find("failed", 9)->code, "unavailable");
  ASSERT_EQ(near_.Connect(2, successor.address()), "ok") << "the address that it said itself";
  ASSERT_EQ(near_.Expect(3, 2, {1000}), "ok");
  ASSERT_EQ(successor.Push(3, 1, {{0, 1000}}), "ok");
  EXPECT_TRUE(Land(3, [&] { successor.Poll(); }));
}

TEST(RoomForPeers, IsBoundedAndGivenBack) {
  TransportConfig config = ConfigOf("tcp", 1);
  config.max_peers = 2;
  End near(MakeDirectSide(config), 1);
  std::vector<std::unique_ptr<End>> others;
  for (uint32_t worker = 2; worker <= 4; ++worker) others.push_back(std::make_unique<End>(MakeDirectSide(ConfigOf("tcp", worker)), worker));
  const auto poll = [&] {
    near.Poll();
    for (auto& other : others) other->Poll();
  };
  for (const uint32_t worker : {2, 3}) ASSERT_EQ(near.Connect(worker, others[worker - 2]->address()), "ok");
  ASSERT_TRUE(Until(poll, [&] { return near.Stats()["peers"] == 2; }));
  EXPECT_EQ(near.Connect(4, others[2]->address()), "exhausted");
  EXPECT_EQ(near.Expect(1, 4, {10}), "exhausted");
  EXPECT_EQ(near.Push(2, 4, {{0, 10}}), "exhausted");
  ASSERT_EQ(others[2]->Connect(1, near.address()), "ok") << "nor is one let in that dials";
  ASSERT_EQ(others[2]->Push(3, 1, {{0, 10}}), "ok");
  ASSERT_TRUE(Until(poll, [&] { return others[2]->Find("failed", 3) != nullptr; }));
  EXPECT_THAT(others[2]->Find("failed", 3)->message, ::testing::HasSubstr("too many peers: 2"));
  EXPECT_EQ(near.Stats()["peers"], 2);
  near.Disconnect(2);
  ASSERT_EQ(near.Connect(4, others[2]->address()), "ok");
  ASSERT_EQ(near.Expect(4, 4, {10}), "ok");
  ASSERT_EQ(others[2]->Push(4, 1, {{0, 10}}), "ok");
  EXPECT_TRUE(Until(poll, [&] { return near.Find("landed", 4) != nullptr; }));
}

TEST(RoomForPeers, NobodyAndNonsense) {
  for (const char* kind : {"tcp", "shm", "auto"}) {
    End near(MakeDirectSide(ConfigOf(kind, 1)), 1);
    EXPECT_EQ(near.Connect(0, near.address()), "invalid") << kind;
    for (const std::string& address : {std::string(), std::string("tcp"), std::string("tcp:"), std::string("tcp:127.0.0.1"), std::string("tcp:localhost:80"), std::string("tcp:127.0.0.1:http"),
                                       std::string("udp:127.0.0.1:80"), std::string("auto:"), std::string("auto:|||"), std::string("shm:"), "shm:" + std::string(200, 'x')}) {
      EXPECT_EQ(near.Connect(2, address), "invalid") << kind << " \"" << address << '"';
    }
    EXPECT_EQ(near.Stats()["peers"], 0);
  }
}

/// Both workers dial at once, so that there are two connections; one breaks while references to the sender's arena are on both. The
/// receiver has taken some, so that the sender takes the others back with the first segment: they have to come again.
class SharedMemoryPaths : public ::testing::Test {
 protected:
  struct Worker {
    explicit Worker(uint32_t id) : arena(std::move(*MakeSharedArena(32_MiB))), transport(std::move(*MakeTransport(ConfigOf("shm", id)))) {
      EXPECT_TRUE(transport->Register(arena.memory()).ok());
    }
    void Poll() {
      Completion out[64];
      const size_t n = transport->Poll(out);
      completions.insert(completions.end(), out, out + n);
    }
    size_t Count(CompletionKind kind) const {
      return static_cast<size_t>(std::count_if(completions.begin(), completions.end(), [kind](const Completion& c) { return c.kind == kind; }));
    }
    SharedArena arena;
    std::unique_ptr<Transport> transport;
    std::vector<Completion> completions;
  };
  /// The end of a Unix socket that has the name of a transport's address; empty: it has none.
  static std::string NameOf(int fd, decltype(&getsockname) get) {
    sockaddr_un at{};
    socklen_t bytes = sizeof at;
    if (get(fd, reinterpret_cast<sockaddr*>(&at), &bytes) != 0 || at.sun_family != AF_UNIX || bytes <= offsetof(sockaddr_un, sun_path) + 1) return "";
    return "shm:" + std::string(at.sun_path + 1, bytes - offsetof(sockaddr_un, sun_path) - 1);
  }
  /// The sender's connections: those it dialled and those it accepted.
  std::vector<int> SendersSockets() const {
    std::vector<int> out;
    for (int fd = 3; fd < 1024; ++fd) {
      sockaddr_un at{};
      socklen_t bytes = sizeof at;
      if (getpeername(fd, reinterpret_cast<sockaddr*>(&at), &bytes) != 0) continue;  // a listener, or no socket
      if (NameOf(fd, getpeername) == to_.transport->address() || NameOf(fd, getsockname) == from_.transport->address()) out.push_back(fd);
    }
    return out;
  }
  void Both() { from_.Poll(), to_.Poll(); }

  Worker from_{1}, to_{2};
};

TEST_F(SharedMemoryPaths, OneThatBreaksLosesNothing) {
  constexpr size_t kSmall = 64_KiB, kBig = 16_MiB;
  ASSERT_TRUE(from_.transport->Connect(WorkerId(2), to_.transport->address()).ok());
  ASSERT_TRUE(to_.transport->Connect(WorkerId(1), from_.transport->address()).ok());
  ASSERT_TRUE(Until([&] { Both(); }, [&] { return SendersSockets().size() == 2 && from_.transport->stats().peers == 1 && to_.transport->stats().peers == 1; }));
  for (int i = 0; i < 20; ++i) Both();  // both connections have been greeted, and the arenas shown
  std::byte* const source = from_.arena.memory().bytes.data();
  FillPattern(1, 0, {source, kSmall});
  FillPattern(1, 1, {source + kSmall, kBig});
  const Landing landings[] = {{to_.arena.memory().bytes.data(), kSmall}, {to_.arena.memory().bytes.data() + kSmall, kBig}};
  ASSERT_TRUE(to_.transport->Expect(TransferId(1), WorkerId(1), landings, SystemClock().Now() + std::chrono::seconds(30)).ok());
  for (int i = 0; i < 3; ++i) Both();
  const Segment small{0, source, kSmall}, big{1, source + kSmall, kBig};
  ASSERT_TRUE(from_.transport->Push(TransferId(1), WorkerId(2), {&small, 1}).ok());
  from_.transport->Wait(Duration::zero());  // puts it on one connection
  std::vector<int> used;
  for (const int fd : SendersSockets()) {
    int unread = 0;
    ASSERT_EQ(ioctl(fd, SIOCOUTQ, &unread), 0);
    if (unread > 0) used.push_back(fd);
  }
  ASSERT_EQ(used.size(), 1u);
  ASSERT_TRUE(from_.transport->Push(TransferId(1), WorkerId(2), {&big, 1}).ok());
  from_.transport->Wait(Duration::zero());  // puts the rest on the other
  ASSERT_EQ(shutdown(used[0], SHUT_RD), 0);
  from_.Poll();  // the sender has lost it, and sends the small one again; the receiver still finds it where it was
  ASSERT_EQ(SendersSockets().size(), 1u);
  EXPECT_TRUE(Until([&] { Both(); }, [&] { return to_.Count(CompletionKind::kTransferLanded) + to_.Count(CompletionKind::kFailed) > 0 && from_.completions.size() == 2; }))
      << "received " << to_.transport->stats().landed_bytes << " of " << kSmall + kBig;
  EXPECT_EQ(to_.Count(CompletionKind::kTransferLanded), 1u);
  EXPECT_EQ(from_.Count(CompletionKind::kSent), 2u);
  EXPECT_EQ(std::memcmp(source, to_.arena.memory().bytes.data(), kSmall + kBig), 0);
}

/// Everything that can go wrong with a connection, again and again: the table of open files is as long as before.
TEST(OpenFilesTest, StayAsManyWhateverHappens) {
  const auto life = [](const std::string& kind, uint64_t round) {
    End near(MakeDirectSide(ConfigOf(kind, 1)), 1), far(MakeDirectSide(ConfigOf(kind, 2, round)), 2);
    TransportConfig keyed = ConfigOf(kind, 3);
    keyed.cluster_key = "another cluster's";
    End stranger(MakeDirectSide(keyed), 3);
    const auto poll = [&] { near.Poll(), far.Poll(), stranger.Poll(); };
    ASSERT_EQ(near.Connect(2, far.address()), "ok");
    ASSERT_EQ(far.Connect(1, near.address()), "ok");
    ASSERT_EQ(stranger.Connect(1, near.address()), "ok");
    ASSERT_EQ(stranger.Push(7, 1, {{0, 10}}), "ok");
    ASSERT_EQ(near.Connect(9, kind == "tcp" ? "tcp:127.0.0.1:1" : "shm:baton-0-0"), "ok") << "nobody is there";
    ASSERT_EQ(near.Push(8, 9, {{0, 10}}), "ok");
    ASSERT_EQ(near.Expect(1, 2, {100'000}), "ok");
    ASSERT_EQ(far.Push(1, 1, {{0, 100'000}}), "ok");
    ASSERT_TRUE(Until(poll, [&] { return near.Find("landed", 1) != nullptr && stranger.Find("failed", 7) != nullptr && near.Find("failed", 8) != nullptr; }));
    ASSERT_EQ(near.Expect(2, 2, {100'000}), "ok");  // open at the end
    near.Disconnect(2);
    ASSERT_EQ(near.Connect(2, far.address()), "ok");  // and dialling
    near.Poll();
  };
  for (const char* kind : {"tcp", "shm", "auto"}) {
    life(kind, 1);  // whatever a process opens once
    const size_t before = OpenFiles();
    for (uint64_t round = 2; round < 8; ++round) life(kind, round);
    EXPECT_EQ(OpenFiles(), before) << kind;
  }
}

}  // namespace
}  // namespace baton
