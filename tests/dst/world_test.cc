// The simulated ground itself: time, pauses, connections, paths and disks do what the headers say, or a green run of seeds means nothing.
#include "base/check.h"
#include "tests/dst/sim_network.h"
#include "tests/dst/sim_store.h"
#include "tests/dst/sim_wire.h"
#include "tests/support/test_pch.h"
#include "transport/endpoint.h"

namespace baton::dst {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Ground {
  explicit Ground(uint64_t seed = 1) : scope(loop), world(seed, scope) {
    for (const char* name : {"a", "b", "c"}) Start(world.AddHost(name));
  }
  ~Ground() { world.Clear(); }
  void Start(Host& host) {
    ++host.life;
    host.running = true;
    host.dark = false;
  }
  void RunFor(double seconds) {
    const double end = world.seconds() + seconds;
    world.After(seconds, [] {});
    world.Run(end + 1, [&] { return world.seconds() >= end; }, [] {});
  }
  Host& host(size_t i) { return *world.hosts()[i]; }

  kj::EventLoop loop;
  kj::WaitScope scope;
  World world;
};

// ---- time ----

TEST(World, EventsComeInTheOrderOfTheirTimeThenOfTheirMaking) {
  Ground g;
  std::vector<int> order;
  g.world.After(2, [&] { order.push_back(3); });
  g.world.After(1, [&] {
    order.push_back(1);
    g.world.After(0, [&] { order.push_back(2); });
  });
  g.world.After(2, [&] { order.push_back(4); });
  g.RunFor(3);
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4));
}

TEST(World, NothingRunsOnAPausedHostAndAllOfItAfterwards) {
  Ground g;
  kj::TimerImpl timer(g.world.kj_now());
  g.host(0).timer = &timer;
  std::vector<std::pair<int, double>> ran;
  g.world.AfterOn(g.host(0), 1, [&] { ran.emplace_back(1, g.world.seconds()); });
  auto timed = timer.afterDelay(1 * kj::SECONDS).then([&] { ran.emplace_back(2, g.world.seconds()); }).eagerlyEvaluate(nullptr);
  g.world.AfterOn(g.host(1), 1, [&] { ran.emplace_back(3, g.world.seconds()); });
  g.host(0).paused = true;
  g.world.After(5, [&] { g.world.GoOn(g.host(0)); });
  g.RunFor(6);
  ASSERT_EQ(ran.size(), 3u);
  EXPECT_EQ(ran[0], std::pair(3, 1.0)) << "the other host was not paused";
  EXPECT_EQ(ran[1].second, 5.0);
  EXPECT_EQ(ran[2].second, 5.0);
  g.host(0).timer = nullptr;
}

TEST(World, WhatBelongsToAFormerLifeIsDropped) {
  Ground g;
  int ran = 0;
  g.world.AfterOn(g.host(0), 1, [&] { ++ran; });
  g.host(0).running = false;
  g.Start(g.host(0));
  g.world.AfterOn(g.host(0), 1, [&] { ran += 10; });
  g.RunFor(2);
  EXPECT_EQ(ran, 10);
}

TEST(World, TheLimitIsToldAndTracesFollowTheSeed) {
  const auto trace = [](uint64_t seed) {
    Ground g(seed);
    for (int i = 0; i < 20; ++i) g.world.After(g.world.Between(0, 1), [] {});
    EXPECT_FALSE(g.world.Run(2, [] { return false; }, [] {}));
    return g.world.trace();
  };
  EXPECT_EQ(trace(5), trace(5));
  EXPECT_NE(trace(5), trace(6));
}

// ---- connections ----

/// A connection from a to b with both ends in hand.
struct Wired : Ground {
  explicit Wired(uint64_t seed = 1) : Ground(seed), network(world) {
    net_a = network.Of(host(0));
    net_b = network.Of(host(1));
    listener = net_b->parseAddress("b").wait(scope)->listen();
    accepting = listener->accept().then([this](kj::Own<kj::AsyncIoStream> s) { there = kj::mv(s); }).eagerlyEvaluate(nullptr);
    target = net_a->parseAddress("b").wait(scope);
  }
  void Connect() {
    connecting = target->connect()
                     .then([this](kj::Own<kj::AsyncIoStream> s) { here = kj::mv(s); }, [this](kj::Exception&& e) { failed = e.getDescription().cStr(); })
                     .eagerlyEvaluate(nullptr);
  }
  void Established() {
    Connect();
    RunFor(5);
    CHECK(here.get() != nullptr && there.get() != nullptr);
  }
  /// Reads until the end; what came, and how it ended.
  void ReadAll(kj::AsyncIoStream& stream) {
    reading = Pump(stream).eagerlyEvaluate(nullptr);
  }
  kj::Promise<void> Pump(kj::AsyncIoStream& stream) {
    return stream.tryRead(buffer, 1, sizeof buffer).then(
        [this, &stream](size_t n) -> kj::Promise<void> {
          got.append(buffer, n);
          if (n > 0) return Pump(stream);
          ended = true;
          return kj::READY_NOW;
        },
        [this](kj::Exception&& e) { failed = e.getDescription().cStr(); });
  }
  void Write(kj::AsyncIoStream& stream, std::string text) {
    auto owned = std::make_shared<std::string>(std::move(text));
    writing = stream.write(owned->data(), owned->size()).then([this, owned] { ++written; }, [this](kj::Exception&& e) { failed = e.getDescription().cStr(); }).eagerlyEvaluate(nullptr);
    scope.poll();
  }

  SimNetwork network;
  kj::Own<kj::Network> net_a, net_b;
  kj::Own<kj::ConnectionReceiver> listener;
  kj::Own<kj::NetworkAddress> target;
  kj::Own<kj::AsyncIoStream> here, there;
  char buffer[1 << 16];
  std::string got, failed;
  bool ended = false;
  int written = 0;
  kj::Promise<void> accepting = nullptr, connecting = nullptr, reading = nullptr, writing = nullptr;
};

TEST(SimNetwork, BytesComeInOrderAndTakeTime) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Wired w(seed);
    w.network.traits.loss = 0.3;
    w.Established();
    w.ReadAll(*w.there);
    std::string all;
    for (int i = 0; i < 50; ++i) {
      const std::string text = fmt::format("{} ", i);
      all += text;
      w.Write(*w.here, text);
    }
    EXPECT_EQ(w.got, "") << "no time has passed";
    w.here->shutdownWrite();
    w.RunFor(60);
    EXPECT_EQ(w.got, all);
    EXPECT_TRUE(w.ended);
  }
}

TEST(SimNetwork, AWriterWaitsForAReaderThatDoesNotRead) {
  Wired w;
  w.Established();
  w.Write(*w.here, std::string(200'000, 'x'));
  w.RunFor(5);
  EXPECT_EQ(w.written, 0);
  w.ReadAll(*w.there);
  w.RunFor(5);
  EXPECT_EQ(w.written, 1);
  EXPECT_EQ(w.got.size(), 200'000u);
}

TEST(SimNetwork, APartedLinkHoldsBytesBack) {
  Wired w;
  w.Established();
  w.ReadAll(*w.there);
  w.world.Part(w.host(0), w.host(1));
  w.Write(*w.here, "late");
  w.RunFor(3);
  EXPECT_EQ(w.got, "");
  w.world.Join(w.host(0), w.host(1));
  w.RunFor(0.1);
  EXPECT_EQ(w.got, "late");
}

TEST(SimNetwork, APausedReaderReadsWhenItGoesOn) {
  Wired w;
  w.Established();
  w.ReadAll(*w.there);
  w.host(1).paused = true;
  w.Write(*w.here, "kept");
  w.RunFor(3);
  EXPECT_EQ(w.got, "");
  EXPECT_EQ(w.written, 1) << "the kernel took it";
  w.world.GoOn(w.host(1));
  w.RunFor(0.01);
  EXPECT_EQ(w.got, "kept");
}

TEST(SimNetwork, AResetIsSeenByBoth) {
  Wired w;
  w.Established();
  w.ReadAll(*w.there);
  w.network.Reset(w.host(0), w.host(1));
  w.RunFor(0.1);
  EXPECT_THAT(w.failed, HasSubstr("reset"));
  w.failed.clear();
  w.Write(*w.here, "x");
  EXPECT_THAT(w.failed, HasSubstr("reset"));
}

TEST(SimNetwork, AKilledPeerIsSeenAndADarkOneIsNot) {
  for (const bool dark : {false, true}) {
    Wired w;
    w.Established();
    w.ReadAll(*w.here);
    w.host(1).running = false;
    w.host(1).dark = dark;
    w.network.Die(w.host(1));
    w.there = nullptr;
    w.RunFor(5);
    EXPECT_EQ(w.ended || !w.failed.empty(), !dark);
    w.Start(w.host(1));
    w.network.Back(w.host(1));
    w.RunFor(0.1);
    EXPECT_TRUE(w.ended || !w.failed.empty()) << "the new life knows nothing of the connection";
  }
}

TEST(SimNetwork, NobodyThereRefusesAndAPartedHostIsSilence) {
  Wired w;
  w.world.Part(w.host(0), w.host(1));
  w.Connect();
  w.RunFor(2);
  EXPECT_TRUE(w.failed.empty() && w.here.get() == nullptr);
  w.world.Join(w.host(0), w.host(1));
  w.RunFor(0.1);
  EXPECT_TRUE(w.here.get() != nullptr) << "the knocking went on";
  w.listener = nullptr;
  w.Connect();
  w.RunFor(0.1);
  EXPECT_THAT(w.failed, HasSubstr("refused"));
}

// ---- transfers ----

/// The real Endpoint over the simulated wire, on hosts a and b.
struct Ends : Ground {
  explicit Ends(uint64_t seed) : Ground(seed), fabric(world, traits), memory(1 << 14), source(1 << 14) {
    for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 7 + seed);
    for (uint32_t i = 0; i < 2; ++i) {
      TransportConfig config;
      config.self = WorkerId(i + 1);
      config.incarnation = Incarnation(1);
      clocks.push_back(std::make_unique<HostClock>(world, host(i)));
      ends.push_back(std::make_unique<Endpoint>(config, 256, *clocks.back()));
      ends.back()->Start(std::make_unique<SimWire>(fabric, host(i), config.self, config.incarnation, ends.back()->host(), [] {}));
      EXPECT_TRUE(ends.back()->Register({memory, -1}).ok() || i == 1);
      Poll(i);
    }
  }
  void Poll(uint32_t i) {
    world.AfterOn(host(i), 0.001, [this, i] {
      std::array<Completion, 64> out;
      const size_t n = ends[i]->Poll(out);
      for (size_t k = 0; k < n; ++k) {
        if (out[k].kind == CompletionKind::kTransferLanded) landed = true;
        if (out[k].kind == CompletionKind::kFailed) failures.push_back(out[k].status);
      }
      Poll(i);
    });
  }
  void Transfer() {
    ASSERT_TRUE(ends[0]->Connect(WorkerId(2), ends[1]->address()).ok());
    ASSERT_TRUE(ends[1]->Connect(WorkerId(1), ends[0]->address()).ok());
    std::vector<Landing> landings;
    std::vector<Segment> segments;
    for (uint32_t i = 0; i < 16; ++i) {
      landings.push_back({memory.data() + i * 1024, 1024});
      segments.push_back({i, source.data() + i * 1024, 1024});
    }
    ASSERT_TRUE(ends[0]->Expect(TransferId(9), WorkerId(2), landings, world.now() + std::chrono::seconds(20), 0).ok());
    ASSERT_TRUE(ends[1]->Push(TransferId(9), WorkerId(1), segments).ok());
  }

  NetworkTraits traits;
  SimFabric fabric;
  std::vector<std::byte> memory, source;
  std::vector<std::unique_ptr<HostClock>> clocks;
  std::vector<std::unique_ptr<Endpoint>> ends;
  bool landed = false;
  std::vector<Status> failures;
};

TEST(SimWire, BytesLandWhateverHappensToOnePath) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Ends e(seed);
    e.fabric.traits.duplicate = 0.3;
    e.Transfer();
    e.world.After(e.world.Between(0, 0.02), [&] { e.fabric.BreakPath(e.host(0), e.host(1)); });
    e.RunFor(10);
    EXPECT_TRUE(e.landed) << "seed " << seed;
    EXPECT_EQ(e.memory, e.source);
    EXPECT_EQ(e.ends[0]->stats().receiving + e.ends[1]->stats().sending, 0u);
  }
}

TEST(SimWire, ALostConnectionFailsTheTransferAtBothEnds) {
  size_t failed = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Ends e(seed);
    e.Transfer();
    e.RunFor(0.0035);
    for (int i = 0; i < 10; ++i) e.fabric.BreakPath(e.host(0), e.host(1));
    e.RunFor(30);
    EXPECT_TRUE(e.landed || !e.failures.empty()) << "seed " << seed;
    EXPECT_EQ(e.ends[0]->stats().receiving + e.ends[1]->stats().sending, 0u) << "seed " << seed;
    failed += e.failures.empty() ? 0 : 1;
  }
  EXPECT_GT(failed, 10u) << "or no connection was lost in time";
}

TEST(SimWire, AFlippedByteIsCounted) {
  Ends e(3);
  e.fabric.traits.flip = 1;
  e.Transfer();
  e.RunFor(5);
  EXPECT_TRUE(e.landed) << "the transport itself does not look; the hand-off's digests do";
  EXPECT_NE(e.memory, e.source);
  EXPECT_EQ(e.fabric.flipped(), 64u);
}

// ---- disks ----

TEST(SimStore, WhatWasNotYetOnDiskIsLost) {
  Ground g;
  Disk disk;
  HostClock clock(g.world, g.host(0));
  BlockStoreConfig config;
  config.memory_bytes = 1 << 16;
  std::vector<std::byte> bytes(64, std::byte{5});
  BlockHeader header;
  header.digest = Xxh3(bytes);
  header.tokens = 4;
  const auto key = [&](int i) { return NextKey(BlockKey(), std::vector<TokenId>{i}); };
  auto store = std::make_unique<SimStore>(g.world, g.host(0), disk, config, clock);
  for (int i = 0; i < 40; ++i) {
    header.key = key(i);
    ASSERT_TRUE(store->Put(header, bytes, Durability::kMemory).ok());
  }
  g.RunFor(0.15);
  store = nullptr;
  g.Start(g.host(0));
  g.RunFor(1);
  EXPECT_GT(disk.blocks.size(), 5u);
  EXPECT_LT(disk.blocks.size(), 35u) << "half of the write-behind's time had passed";
  store = std::make_unique<SimStore>(g.world, g.host(0), disk, config, clock);
  EXPECT_EQ(store->Keys().size(), disk.blocks.size());
  disk.faults.flip = 1;
  const auto view = store->View(disk.blocks.begin()->first);
  ASSERT_TRUE(view.ok());
  EXPECT_FALSE(Xxh3(view->bytes) == view->header.digest);
  disk.faults = {.unreadable = 1, .refused = 1};
  EXPECT_EQ(store->View(disk.blocks.begin()->first).status().code(), StatusCode::kNotFound);
  header.key = key(99);
  EXPECT_EQ(store->Put(header, bytes, Durability::kMemory).code(), StatusCode::kExhausted);
}

}  // namespace
}  // namespace baton::dst
