// The greeting in front of the control plane: who gets in, who does not and hears why, and what strangers send.
#include "protocol/greeting.h"

#include <map>

#include "base/random.h"
#include "protocol/node.h"
#include "protocol/peers.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

/// How a dialler's and a listener's greeting end: both reasons, empty where they got through.
struct Ends {
  std::string dialler, listener;
  uint16_t version = 0;
};

/// Carries each message over until both are done or one has refused. `bend` may change a message on its way.
Ends Meet(Greeting dialler, Greeting listener, const std::function<void(int, std::string&)>& bend = [](int, std::string&) {}) {
  Ends ends;
  std::string message = dialler.First();
  EXPECT_EQ(listener.First(), "");
  for (int n = 0; !message.empty(); ++n) {
    bend(n, message);
    const bool to_listener = n % 2 == 0;
    const Result<std::string> answer = (to_listener ? listener : dialler).Take(AsBytes(message));
    if (answer.ok()) {
      message = *answer;
      continue;
    }
    (to_listener ? ends.listener : ends.dialler) = answer.status().message();
    const Result<std::string> told = (to_listener ? dialler : listener).Take(AsBytes(RefusalMessage(answer.status())));
    EXPECT_FALSE(told.ok());
    (to_listener ? ends.dialler : ends.listener) = told.status().message();
    break;
  }
  EXPECT_EQ(ends.dialler.empty() && ends.listener.empty(), dialler.done() && listener.done());
  if (dialler.done() && listener.done()) {
    EXPECT_EQ(dialler.version(), listener.version());
  }
  ends.version = listener.version();
  return ends;
}

Greeting Dialler(std::string key, SpokenVersions versions = kControlVersions) { return {ProofSide::kDialler, std::move(key), versions}; }
Greeting Listener(std::string key, SpokenVersions versions = kControlVersions) { return {ProofSide::kListener, std::move(key), versions}; }

TEST(GreetingTest, TheSameKeyGetsIn) {
  for (const std::string& key : std::vector<std::string>{"", "k", "a longer key with \n and \x01", std::string(1000, 'x')}) {
    const Ends ends = Meet(Dialler(key), Listener(key));
    EXPECT_EQ(ends.dialler, "");
    EXPECT_EQ(ends.listener, "");
    EXPECT_EQ(ends.version, kControlVersions.newest);
  }
}

TEST(GreetingTest, AnotherKeyIsRefusedAndBothSidesKnowWhy) {
  for (const auto& [mine, theirs] : std::vector<std::pair<std::string, std::string>>{{"key", "Key"}, {"key", "key1"}, {"key", std::string("key\0", 4)}}) {
    const Ends ends = Meet(Dialler(mine), Listener(theirs));
    EXPECT_THAT(ends.listener, ::testing::HasSubstr("wrong cluster key"));
    EXPECT_THAT(ends.dialler, ::testing::HasSubstr("wrong cluster key"));
  }
  for (const auto& [mine, theirs] : std::vector<std::pair<std::string, std::string>>{{"", "key"}, {"key", ""}}) {
    const Ends ends = Meet(Dialler(mine), Listener(theirs));
    EXPECT_THAT(ends.listener, ::testing::HasSubstr("has none"));
    EXPECT_THAT(ends.dialler, ::testing::HasSubstr("cluster.key"));
  }
}

TEST(GreetingTest, NeighbouringVersionsMeetInTheOlder) {
  const SpokenVersions old{.newest = 4, .oldest = 3}, now{.newest = 5, .oldest = 4}, next{.newest = 6, .oldest = 5};
  EXPECT_EQ(Meet(Dialler("k", old), Listener("k", now)).version, 4);
  EXPECT_EQ(Meet(Dialler("k", now), Listener("k", old)).version, 4);
  EXPECT_EQ(Meet(Dialler("k", now), Listener("k", next)).version, 5);
  EXPECT_EQ(Meet(Dialler("k", now), Listener("k", now)).version, 5);
  for (const auto& [mine, theirs] : std::vector<std::pair<SpokenVersions, SpokenVersions>>{{old, next}, {next, old}}) {
    const Ends ends = Meet(Dialler("k", mine), Listener("k", theirs));
    EXPECT_THAT(ends.dialler, ::testing::HasSubstr("same release"));
    EXPECT_THAT(ends.dialler, ::testing::HasSubstr("3 to 4"));
    EXPECT_THAT(ends.listener, ::testing::HasSubstr("5 to 6"));
  }
}

TEST(GreetingTest, AnotherByteOrderIsRefusedByName) {
  const Ends ends = Meet(Dialler("k"), Listener("k"), [](int n, std::string& message) {
    if (n == 0) std::reverse(message.begin() + 11, message.begin() + 15);  // behind header and magic
  });
  EXPECT_THAT(ends.listener, ::testing::HasSubstr("byte order"));
  EXPECT_THAT(ends.dialler, ::testing::HasSubstr("byte order"));
}

TEST(GreetingTest, NothingSaidBeforeOpensTheDoor) {
  // A recorded proof: the nonces are others now.
  std::map<int, std::string> recorded;
  Meet(Dialler("k"), Listener("k"), [&](int n, std::string& message) { recorded[n] = message; });
  ASSERT_EQ(recorded.size(), 4u);
  for (const int replayed : {2, 3}) {
    const Ends ends = Meet(Dialler("k"), Listener("k"), [&](int n, std::string& message) {
      if (n == replayed) message = recorded[n];
    });
    EXPECT_THAT(ends.dialler + ends.listener, ::testing::HasSubstr("wrong cluster key"));
  }
  // A mirror: the dialler's own words come back to it.
  Greeting victim = Dialler("k");
  const Result<std::string> proof = victim.Take(AsBytes(victim.First()));
  ASSERT_TRUE(proof.ok());
  EXPECT_FALSE(victim.Take(AsBytes(*proof)).ok());
  EXPECT_FALSE(victim.done());
}

TEST(GreetingTest, EveryBitCounts) {
  for (int message = 0; message < 4; ++message) {
    for (size_t at = 2; at < 64; ++at) {  // the length is the driver's to check
      bool there = false;
      const Ends ends = Meet(Dialler("k"), Listener("k"), [&](int n, std::string& bytes) {
        if (n != message || at >= bytes.size()) return;
        there = true;
        bytes[at] = static_cast<char>(bytes[at] ^ 0x40);
      });
      if (there) {
        EXPECT_FALSE(ends.dialler.empty() && ends.listener.empty()) << "byte " << at << " of message " << message;
      }
    }
  }
}

TEST(GreetingTest, CutsAndNoiseAreRefused) {
  for (int message = 0; message < 4; ++message) {
    for (size_t keep = 0; keep < 40; ++keep) {
      bool cut = false;
      const Ends ends = Meet(Dialler("k"), Listener("k"), [&](int n, std::string& bytes) {
        if (n == message && keep < bytes.size()) cut = true, bytes.resize(keep);
        if (bytes.empty()) bytes = "x";
      });
      if (cut) {
        EXPECT_FALSE(ends.dialler.empty()) << keep << " bytes of message " << message;
      }
    }
  }
  Random random(7);
  for (int round = 0; round < 20000; ++round) {
    Greeting greeting = random.Below(2) == 0 ? Dialler("k") : Listener("k");
    for (int n = 0; n < 4; ++n) {
      std::string noise(random.Below(80), '\0');
      for (char& c : noise) c = static_cast<char>(random.Below(256));
      if (noise.size() > 2 && random.Below(2) == 0) noise[2] = static_cast<char>(1 + random.Below(3));
      (void)greeting.Take(AsBytes(noise));
    }
    ASSERT_FALSE(greeting.done());
  }
}

TEST(GreetingTest, WordsOutOfTurnAreRefused) {
  Greeting other = Dialler("k");
  const std::string hello = other.First();
  const std::string proof = *other.Take(AsBytes(*Listener("k").Take(AsBytes(hello))));
  Greeting early = Listener("k");
  EXPECT_FALSE(early.Take(AsBytes(proof)).ok()) << "a proof before the hello";
  Greeting twice = Listener("k");
  ASSERT_TRUE(twice.Take(AsBytes(hello)).ok());
  EXPECT_FALSE(twice.Take(AsBytes(hello)).ok()) << "two hellos";
}

TEST(GreetingTest, ARefusalIsReadWhateverItSays) {
  Greeting greeting = Dialler("k");
  const Status told = greeting.Take(AsBytes(RefusalMessage(ExhaustedError("come back later")))).status();
  EXPECT_EQ(told.code(), StatusCode::kExhausted);
  EXPECT_THAT(told.message(), ::testing::HasSubstr("come back later"));
  const std::string long_one = RefusalMessage(InvalidError("{}", std::string(100000, 'x')));
  EXPECT_LE(long_one.size(), kMaxGreetingBytes + 3);
  EXPECT_FALSE(greeting.Take(AsBytes(long_one)).ok());
  EXPECT_FALSE(greeting.Take(AsBytes(std::string_view("\0\0\3", 3))).ok()) << "no reason at all";
}

class GreetingOverTcp : public LoopTest {
 protected:
  kj::Own<kj::AsyncIoStream> Dial(const TestNode& node) {
    return Wait(Wait(io_.provider->getNetwork().parseAddress("127.0.0.1", node.server->port()))->connect());
  }
  /// What the other side says until it closes the connection.
  std::string HearAll(kj::AsyncIoStream& stream) {
    std::string heard;
    try {
      char buffer[256];
      while (const size_t n = Wait(stream.tryRead(buffer, 1, sizeof buffer))) heard.append(buffer, n);
    } catch (const kj::Exception&) {  // a reset behind the words, where we had said more than was read
    }
    return heard;
  }
};

TEST_F(GreetingOverTcp, StrangersHearWhyAndAreGone) {
  TestNode node(io_);
  const std::string http = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", zeros(100, '\0'), huge = "\xff\xff\x01";
  uint64_t refused = 0;
  for (const std::string& words : {http, zeros, huge}) {
    auto stream = Dial(node);
    Wait(stream->write(words.data(), words.size()));
    EXPECT_THAT(HearAll(*stream), ::testing::HasSubstr("Baton")) << words;
    EXPECT_TRUE(Until([&] { return node.server->refused() == refused + 1; }));
    ++refused;
  }
  auto gone = Dial(node);
  gone = nullptr;
  EXPECT_TRUE(Until([&] { return node.server->refused() == refused + 1; }));
  PeerTable peers = MakePeers();
  EXPECT_TRUE(Wait(peers.Dial(node.address())).ok()) << "others come in as before";
}

TEST_F(GreetingOverTcp, ASilentOneIsGoneAfterASecond) {
  TestNode node(io_);
  auto silent = Dial(node), slow = Dial(node);
  Greeting greeting = Dialler("key");
  const std::string hello = greeting.First();
  Wait(slow->write(hello.data(), 10));
  const auto begin = timer_.now();
  EXPECT_THAT(HearAll(*silent), ::testing::HasSubstr("within a second"));
  EXPECT_GE(timer_.now() - begin, 500 * kj::MILLISECONDS);
  EXPECT_THAT(HearAll(*slow), ::testing::HasSubstr("within a second"));
  EXPECT_EQ(node.server->refused(), 2u);
}

TEST_F(GreetingOverTcp, ACrowdOfStrangersLeavesRoomForPeersOnceItIsGone) {
  TestNode node(io_);
  std::vector<kj::Own<kj::AsyncIoStream>> crowd;
  for (int i = 0; i < 80; ++i) crowd.push_back(Dial(node));
  EXPECT_THAT(HearAll(*crowd.back()), ::testing::HasSubstr("too many strangers"));
  crowd.clear();
  EXPECT_TRUE(Until([&] { return node.server->refused() == 80; }));
  PeerTable peers = MakePeers();
  EXPECT_TRUE(Wait(peers.Dial(node.address())).ok());
}

TEST_F(GreetingOverTcp, ADiallerRefusesAListenerThatIsNotOne) {
  auto listener = Wait(io_.provider->getNetwork().parseAddress("127.0.0.1", 0))->listen();
  PeerTable peers = MakePeers();
  const PeerAddress address{"127.0.0.1", static_cast<uint16_t>(listener->getPort())};
  // One that knows no key but claims to: its proof does not hold.
  auto impostor = listener->accept().then([](kj::Own<kj::AsyncIoStream> stream) {
    auto greeting = kj::heap<Greeting>(ProofSide::kListener, "not the key");
    auto greeted = Greet(*stream, *greeting);
    return greeted.attach(kj::mv(greeting), kj::mv(stream));
  });
  auto dialled = peers.Dial(address);
  const Status impostors = Wait(kj::mv(impostor));
  const auto peer = Wait(kj::mv(dialled));
  EXPECT_THAT(impostors.message(), ::testing::HasSubstr("wrong cluster key"));
  EXPECT_EQ(peer.status().code(), StatusCode::kInvalid);
  auto web = listener->accept().then([](kj::Own<kj::AsyncIoStream> stream) {
    static constexpr std::string_view kAnswer = "HTTP/1.1 400 Bad Request\r\n\r\n";
    auto written = stream->write(kAnswer.data(), kAnswer.size());
    auto& raw = *stream;
    return written.then([&raw]() { return raw.readAllText().ignoreResult(); }).attach(kj::mv(stream));
  });
  PeerTable others = MakePeers();
  auto again = others.Dial(address);
  auto answered = web.catch_([](kj::Exception&&) {}).eagerlyEvaluate(nullptr);
  EXPECT_THAT(Wait(kj::mv(again)).status().message(), ::testing::HasSubstr("not Baton's control port"));
}

}  // namespace
}  // namespace baton
