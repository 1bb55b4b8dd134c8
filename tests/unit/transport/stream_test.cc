// The tcp transport among strangers and on broken lines: hostile bytes, keys, versions.
#include "base/random.h"
#include "proxy_support.h"
#include "side_support.h"
#include "transport/handshake.h"

namespace baton {
namespace {

/// Anybody who speaks to the port by hand.
class Stranger {
 public:
  explicit Stranger(uint16_t port) : fd_(DialPort(port)) {}
  ~Stranger() { close(fd_); }
  void Say(std::string_view bytes) { (void)!send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT); }
  /// What has come; nothing more is read after the end.
  std::string Hear() {
    char buffer[65536];
    const ssize_t n = ended_ ? 0 : recv(fd_, buffer, sizeof buffer, MSG_DONTWAIT);
    ended_ = ended_ || n == 0 || (n < 0 && errno != EAGAIN);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  bool ended() const { return ended_; }

 private:
  const int fd_;
  bool ended_ = false;
};

class Stream : public ::testing::Test {
 protected:
  static TransportConfig Config(uint32_t worker, const std::string& key = "", uint64_t incarnation = 1) {
    TransportConfig config;
    config.kind = "tcp";
    config.self = WorkerId(worker);
    config.cluster_key = key;
    config.incarnation = Incarnation(incarnation);
    config.handshake_timeout = std::chrono::milliseconds(200);
    return config;
  }
  template <typename Done>
  bool Until(std::vector<End*> ends, Done done, double limit_s = 8) {
    const Instant limit = clock_.Now() + FromSeconds(limit_s);
    while (!done()) {
      if (clock_.Now() > limit) return false;
      for (End* end : ends) end->Poll(0.0002);
    }
    return true;
  }
  /// That the two can still serve each other.
  void ExpectTransfer(End& from, End& to, uint64_t id, size_t bytes = 100000) {
    ASSERT_EQ(to.Expect(id, from.id().value, {bytes}), "ok");
    ASSERT_EQ(from.Push(id, to.id().value, {{0, bytes}}), "ok");
    EXPECT_TRUE(Until({&from, &to}, [&] { return to.Find("landed", id) != nullptr; }));
    EXPECT_TRUE(to.Intact());
  }
  SystemClock clock_;
};

TEST_F(Stream, GarbageWrongWordsAndSilenceAreClosedInTime) {
  End near(MakeDirectSide(Config(1)), 1), far(MakeDirectSide(Config(2)), 2);
  ASSERT_EQ(near.Connect(2, far.address()), "ok");
  const uint16_t port = PortOf(near.address());
  Random random(1);
  std::vector<std::unique_ptr<Stranger>> strangers;
  for (int i = 0; i < 50; ++i) {
    auto& stranger = strangers.emplace_back(std::make_unique<Stranger>(port));
    std::string noise(random.Below(3000), '\0');
    for (char& c : noise) c = static_cast<char>(random.Next64());
    if (i % 5 == 0) noise = MakeFrame({.type = FrameType::kData, .transfer = 1}, "early");
    if (i % 5 == 1) noise = MakeFrame({.type = FrameType::kHello}, "NOTBATON and some more to fill a hello");
    if (i % 5 == 2) noise.clear();  // says nothing at all
    if (i % 5 == 3) {
      FrameHeader huge{.body_bytes = 0xfffffff0, .type = FrameType::kHello};
      noise = std::string(reinterpret_cast<const char*>(&huge), sizeof huge);
    }
    stranger->Say(noise);
    near.Poll(), far.Poll();
  }
  ExpectTransfer(far, near, 1);
  EXPECT_TRUE(Until({&near}, [&] {
    return std::all_of(strangers.begin(), strangers.end(), [](const auto& s) { return s->Hear(), s->ended(); });
  })) << "every stranger is closed";
  EXPECT_EQ(near.Stats()["refused_peers"], 50);
  ExpectTransfer(far, near, 2);
}

TEST_F(Stream, StrangersDoNotPileUp) {
  End near(MakeDirectSide(Config(1)), 1);
  const size_t before = near.Descriptors();
  std::vector<std::unique_ptr<Stranger>> strangers;
  for (int i = 0; i < 120; ++i) {
    strangers.push_back(std::make_unique<Stranger>(PortOf(near.address())));
    near.Poll();
  }
  for (int i = 0; i < 20; ++i) near.Poll();
  EXPECT_LE(near.Descriptors(), before + 120 + 64) << "at most 64 of them hold a descriptor here";
}

/// A peer that has been let in and then misbehaves.
class Mad : public Stranger {
 public:
  explicit Mad(uint16_t port, uint32_t worker = 9) : Stranger(port) {
    Say(Handshake({WorkerId(worker), Incarnation(1), "tcp:127.0.0.1:1"}, "", WorkerId()).Hello());
  }
};

TEST_F(Stream, APeerThatBreaksTheAgreementHarmsOnlyItself) {
  End near(MakeDirectSide(Config(1)), 1), far(MakeDirectSide(Config(2)), 2);
  ASSERT_EQ(near.Connect(2, far.address()), "ok");
  ASSERT_EQ(near.Expect(1, 9, {100, 100}), "ok");
  ASSERT_EQ(near.Expect(2, 2, {100}), "ok") << "not the mad one's";
  const auto data = [](uint64_t id, uint32_t index, uint32_t piece, size_t bytes) {
    return MakeFrame({.type = FrameType::kData, .transfer = id, .index = index, .piece = piece}, std::string(bytes, 'x'));
  };
  Mad mad(PortOf(near.address()));
  mad.Say(data(2, 0, 0, 100));       // another peer's transfer
  mad.Say(data(77, 0, 0, 100));      // nobody's
  mad.Say(EndFrame(TransferId(2), false, CancelledError("no")));
  mad.Say(AckFrame(TransferId(3), std::vector<PieceRef>{{1, 2}}));
  mad.Say(data(1, 0, 0, 100));       // right
  mad.Say(data(1, 1, 0, 101));       // too long by one
  ASSERT_TRUE(Until({&near, &far}, [&] { return near.Find("failed", 1) != nullptr; }));
  EXPECT_EQ(near.Find("failed", 1)->code, "invalid");
  EXPECT_EQ(near.Find("failed", 2), nullptr);
  ASSERT_EQ(far.Push(2, 1, {{0, 100}}), "ok");
  EXPECT_TRUE(Until({&near, &far}, [&] { return near.Find("landed", 2) != nullptr; }));
  EXPECT_TRUE(near.Find("segment", 2)->right);
  EXPECT_TRUE(near.Intact());
  for (const std::string& nonsense : {MakeFrame({.type = FrameType::kAck}, "odd"), MakeFrame({.type = FrameType::kArena}, "12345678"),
                                      MakeFrame({.type = FrameType::kData, .flags = kByReference}, std::string(32, 'x')), MakeFrame({.type = FrameType::kHello}, "again"),
                                      std::string(64, '\xff')}) {
    Mad other(PortOf(near.address()), 10);
    other.Say(nonsense);
    EXPECT_TRUE(Until({&near, &far}, [&] { return other.Hear(), other.ended(); })) << "dropped";
  }
  ExpectTransfer(far, near, 5);
}

TEST_F(Stream, RandomFramesFromAPeerNeitherCrashNorHang) {
  End near(MakeDirectSide(Config(1)), 1);
  Random random(7);
  for (int round = 0; round < 300; ++round) {
    ASSERT_EQ(near.Expect(1000 + round, 9, {100, 0, 3000}, 0.5), "ok");
    Mad mad(PortOf(near.address()));
    for (int i = 0; i < 8; ++i) {
      FrameHeader h{.type = static_cast<FrameType>(4 + random.Below(6)), .flags = static_cast<uint8_t>(random.Below(8)), .transfer = 990 + random.Below(30 + round),
                    .index = static_cast<uint32_t>(random.Below(4)), .piece = static_cast<uint32_t>(random.Below(3))};
      std::string body(random.Below(3) == 0 ? 3000 : random.Below(200), '\0');
      for (char& c : body) c = static_cast<char>(random.Below(4) == 0 ? random.Next64() : 0);
      mad.Say(MakeFrame(h, body));
    }
    for (int i = 0; i < 6; ++i) near.Poll();
    mad.Hear();
  }
  EXPECT_TRUE(Until({&near}, [&] { return near.Stats()["receiving"] == 0 && near.Stats()["peers"] == 0; }));
  EXPECT_TRUE(near.Intact());
}

TEST_F(Stream, OnlyTheClusterKeyOpensTheDoor) {
  for (const auto& [one, other, fits] : std::vector<std::tuple<std::string, std::string, bool>>{
           {"secret", "secret", true}, {"secret", "Secret", false}, {"secret", "", false}, {"", "secret", false}}) {
    End near(MakeDirectSide(Config(1, one)), 1), far(MakeDirectSide(Config(2, other)), 2);
    ASSERT_EQ(near.Expect(1, 2, {10}), "ok");
    const Instant begin = clock_.Now();
    ASSERT_EQ(near.Connect(2, far.address()), "ok");
    ASSERT_EQ(far.Push(1, 1, {{0, 10}}), "ok");
    ASSERT_TRUE(Until({&near, &far}, [&] { return near.Count("landed", 1) + near.Count("failed", 1) > 0; })) << one << "/" << other;
    EXPECT_EQ(near.Count("landed", 1), fits ? 1u : 0u) << one << "/" << other;
    EXPECT_LT(ToSeconds(clock_.Now() - begin), 1.0) << "refused within a second";
  }
}

TEST_F(Stream, AnOlderIncarnationIsRefused) {
  End near(MakeDirectSide(Config(1)), 1);
  End current(MakeDirectSide(Config(2, "", 5)), 2);
  ASSERT_EQ(near.Connect(2, current.address()), "ok");
  ExpectTransfer(current, near, 1);
  End zombie(MakeDirectSide(Config(2, "", 4)), 2);
  ASSERT_EQ(zombie.Connect(1, near.address()), "ok");
  ASSERT_EQ(zombie.Push(2, 1, {{0, 10}}), "ok");
  ASSERT_TRUE(Until({&near, &zombie, &current}, [&] { return zombie.Find("failed", 2) != nullptr; }));
  EXPECT_EQ(zombie.Find("failed", 2)->code, "unavailable");
  ExpectTransfer(current, near, 3);
}

TEST_F(Stream, AnAddressWhereNobodyListensFailsAtOnce) {
  End near(MakeDirectSide(Config(1)), 1);
  std::string gone;
  {
    End other(MakeDirectSide(Config(2)), 2);
    gone = other.address();
  }
  ASSERT_EQ(near.Connect(2, gone), "ok");
  ASSERT_EQ(near.Expect(1, 2, {10}), "ok");
  ASSERT_TRUE(Until({&near}, [&] { return near.Find("failed", 1) != nullptr; }, 2));
  EXPECT_EQ(near.Find("failed", 1)->code, "unavailable");
}

TEST(HandshakeTest, VersionsMeetOrSayThatTheyDoNot) {
  const auto meet = [](uint16_t mine, uint16_t theirs) {
    Handshake a({WorkerId(1), {}, "tcp:a"}, "k", WorkerId(2), mine), b({WorkerId(2), {}, "tcp:b"}, "k", WorkerId(), theirs);
    const auto give = [](Handshake& to, const std::string& frame) { return to.Take(*ParseHeader(AsBytes(frame)), AsBytes(frame).subspan(sizeof(FrameHeader))); };
    auto from_b = give(b, a.Hello()), from_a = give(a, b.Hello());
    if (!from_a.ok() || !from_b.ok()) return -1;
    if (!give(a, *from_b).ok() || !give(b, *from_a).ok()) return -2;
    EXPECT_TRUE(a.done() && b.done());
    EXPECT_EQ(a.peer().worker, WorkerId(2));
    EXPECT_EQ(a.version(), b.version());
    return static_cast<int>(a.version());
  };
  EXPECT_EQ(meet(kWireVersion, kWireVersion), kWireVersion);
  EXPECT_EQ(meet(kWireVersion + 1, kWireVersion), kWireVersion) << "the newer one speaks the older's version";
  EXPECT_EQ(meet(0, kWireVersion), -1) << "too old for one that speaks from " << kOldestWireVersion;
}

TEST(HandshakeTest, AMirroredProofIsWorthless) {
  Handshake victim({WorkerId(1), {}, "tcp:a"}, "k", WorkerId(2));
  const auto give = [&](const std::string& frame) { return victim.Take(*ParseHeader(AsBytes(frame)), AsBytes(frame).subspan(sizeof(FrameHeader))); };
  Handshake attacker({WorkerId(2), {}, "tcp:b"}, "does not know it", WorkerId());
  const auto proof = give(attacker.Hello());
  ASSERT_TRUE(proof.ok());
  EXPECT_FALSE(give(*proof).ok()) << "its own words sent back";
  EXPECT_FALSE(victim.done());
}

}  // namespace
}  // namespace baton
