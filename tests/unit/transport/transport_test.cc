// The factory, shared arenas, waking, and local transports on threads of their own.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "base/mailbox.h"
#include "side_support.h"
#include "transport/peer_memory.h"

namespace baton {
namespace {

TEST(MakeTransportTest, SaysWhatIsMissing) {
  TransportConfig config;
  config.kind = "rdma";
  config.self = WorkerId(1);
  EXPECT_THAT(MakeTransport(config).status().message(), ::testing::HasSubstr("tcp"));
  config.kind = "local";
  EXPECT_EQ(MakeTransport(config).status().code(), StatusCode::kInvalid) << "no hub";
  config.kind = "tcp";
  config.bind_host = "203.0.113.1";
  EXPECT_EQ(MakeTransport(config).status().code(), StatusCode::kUnavailable) << "not an address of this machine";
  config.bind_host = "localhost.invalid";
  EXPECT_EQ(MakeTransport(config).status().code(), StatusCode::kInvalid);
  config.bind_host = "0.0.0.0";
  EXPECT_EQ(MakeTransport(config).status().code(), StatusCode::kInvalid) << "peers need an address";
  config.advertise_host = "127.0.0.1";
  EXPECT_TRUE(MakeTransport(config).ok());
  config.self = WorkerId();
  EXPECT_EQ(MakeTransport(config).status().code(), StatusCode::kInvalid);
}

TEST(TransportTest, ArenasMayNotOverlap) {
  TransportConfig config;
  config.self = WorkerId(1);
  auto transport = MakeTransport(config);
  ASSERT_TRUE(transport.ok());
  std::vector<std::byte> memory(1000);
  EXPECT_FALSE((*transport)->Register({}).ok());
  EXPECT_TRUE((*transport)->Register({{memory.data(), 500}}).ok());
  EXPECT_FALSE((*transport)->Register({{memory.data() + 499, 100}}).ok());
  EXPECT_TRUE((*transport)->Register({{memory.data() + 500, 500}}).ok());
}

class Waking : public ::testing::TestWithParam<std::string> {};

TEST_P(Waking, WakeEndsThisWaitOrTheNext) {
  TransportConfig config;
  config.kind = GetParam();
  config.self = WorkerId(1);
  config.hub = MakeLocalHub();
  auto transport = std::move(*MakeTransport(config));
  SystemClock clock;
  Completion none[1];
  for (int i = 0; i < 200; ++i) {
    const Instant begin = clock.Now();
    std::thread other([&] { transport->Wake(); });
    if (i % 2 == 0) other.join();
    if (i % 4 == 0) transport->Poll(none);  // must not swallow it
    transport->Wait(std::chrono::seconds(20));
    EXPECT_LT(ToSeconds(clock.Now() - begin), 10);
    if (other.joinable()) other.join();
  }
}
INSTANTIATE_TEST_SUITE_P(Kinds, Waking, ::testing::Values("auto", "local", "shm", "tcp"));

TEST(LocalTransport, EachEndOnAThreadOfItsOwn) {
  const auto hub = MakeLocalHub();
  constexpr uint64_t kTransfers = 300;
  constexpr size_t kBytes = 50000;
  Mailbox<std::string> addresses(1);
  std::atomic<bool> sent{false};
  std::thread sender([&] {
    TransportConfig config;
    config.kind = "local";
    config.self = WorkerId(1);
    config.hub = hub;
    auto transport = std::move(*MakeTransport(config));
    ASSERT_TRUE(addresses.Push(transport->address()));
    std::vector<std::vector<std::byte>> sources(kTransfers, std::vector<std::byte>(kBytes));
    for (uint64_t id = 1; id <= kTransfers; ++id) {
      FillPattern(id, 0, sources[id - 1]);
      const Segment segment{0, sources[id - 1].data(), kBytes};
      ASSERT_TRUE(transport->Push(TransferId(id), WorkerId(2), {&segment, 1}).ok());
    }
    size_t done = 0;
    Completion out[32];
    while (done < kTransfers) {
      const size_t n = transport->Poll(out);
      for (size_t i = 0; i < n; ++i) {
        ++done;  // sent or cancelled: the source is ours again
        std::fill(sources[out[i].transfer.value - 1].begin(), sources[out[i].transfer.value - 1].end(), std::byte{0});
        if (out[i].transfer.value % 7 == 0 && out[i].transfer.value + 1 <= kTransfers) transport->Cancel(TransferId(out[i].transfer.value + 1));
      }
      if (n == 0) transport->Wait(std::chrono::milliseconds(20));
    }
    sent = true;
    while (transport->stats().peers > 0) transport->Wait(std::chrono::milliseconds(20)), transport->Poll(out);
  });
  TransportConfig config;
  config.kind = "local";
  config.self = WorkerId(2);
  config.hub = hub;
  auto transport = std::move(*MakeTransport(config));
  std::vector<std::byte> arena(kTransfers * kBytes);
  ASSERT_TRUE(transport->Register({arena}).ok());
  addresses.WaitFor(std::chrono::seconds(10));
  const auto address = addresses.Drain();
  ASSERT_EQ(address.size(), 1u);
  ASSERT_TRUE(transport->Connect(WorkerId(1), address[0]).ok());
  for (uint64_t id = 1; id <= kTransfers; ++id) {
    const Landing landing{arena.data() + (id - 1) * kBytes, kBytes};
    ASSERT_TRUE(transport->Expect(TransferId(id), WorkerId(1), {&landing, 1}, SystemClock().Now() + std::chrono::seconds(30)).ok());
  }
  size_t ended = 0, landed = 0;
  Completion out[32];
  std::vector<std::byte> wanted(kBytes);
  while (ended < kTransfers) {
    const size_t n = transport->Poll(out);
    for (size_t i = 0; i < n; ++i) {
      if (out[i].kind == CompletionKind::kSegmentLanded) continue;
      ++ended;
      if (out[i].kind == CompletionKind::kFailed) continue;
      ++landed;
      FillPattern(out[i].transfer.value, 0, wanted);
      EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), arena.begin() + (out[i].transfer.value - 1) * kBytes));
    }
    if (n == 0) transport->Wait(std::chrono::milliseconds(20));
  }
  EXPECT_GT(landed, kTransfers / 2);
  transport.reset();
  sender.join();
  EXPECT_TRUE(sent);
}

TEST(SharedArenaTest, IsSealedZeroFilledAndMoves) {
  EXPECT_FALSE(MakeSharedArena(0).ok());
  EXPECT_EQ(MakeSharedArena(SIZE_MAX / 2).status().code(), StatusCode::kExhausted);
  auto made = MakeSharedArena(5000);
  ASSERT_TRUE(made.ok());
  SharedArena arena = std::move(*made);
  EXPECT_EQ(arena.memory().bytes.size() % 4096, 0u);
  EXPECT_EQ(arena.memory().bytes[4999], std::byte{0});
  EXPECT_NE(ftruncate(arena.memory().fd, 0), 0) << "nobody can pull it away";
}

TEST(PeerMemoryTest, TrustsNothingItIsShown) {
  auto arena = std::move(*MakeSharedArena(8192));
  PeerMemory memory;
  EXPECT_FALSE(memory.Map(4096).ok()) << "no descriptor";
  const int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(plain, 4096), 0);
  ASSERT_TRUE(memory.TakeDescriptor(plain).ok());
  EXPECT_FALSE(memory.Map(4096).ok()) << "it could shrink";
  ASSERT_TRUE(memory.TakeDescriptor(dup(arena.memory().fd)).ok());
  EXPECT_FALSE(memory.Map(8193).ok()) << "larger than it is";
  ASSERT_TRUE(memory.TakeDescriptor(dup(arena.memory().fd)).ok());
  ASSERT_TRUE(memory.Map(4096).ok());  // the generations
  ASSERT_TRUE(memory.TakeDescriptor(dup(arena.memory().fd)).ok());
  ASSERT_TRUE(memory.Map(8192).ok());
  EXPECT_TRUE(memory.Find({.arena = 1, .slot = 511, .offset = 8000, .bytes = 192}).ok());
  EXPECT_FALSE(memory.Find({.arena = 1, .slot = 511, .offset = 8000, .bytes = 193}).ok());
  EXPECT_FALSE(memory.Find({.arena = 1, .slot = 512, .offset = 0, .bytes = 1}).ok()) << "no such generation";
  EXPECT_FALSE(memory.Find({.arena = 0, .slot = 0, .offset = 0, .bytes = 1}).ok()) << "the generations are no source";
  EXPECT_FALSE(memory.Find({.arena = 2, .slot = 0, .offset = 0, .bytes = 1}).ok());
  EXPECT_FALSE(memory.Find({.arena = 1, .slot = 0, .offset = UINT64_MAX, .bytes = 2}).ok());
}

}  // namespace
}  // namespace baton
