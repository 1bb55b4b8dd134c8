// The transport's first words, byte by byte: who gets in, who does not, and that each is told why in words that help.
#include "transport/handshake.h"

#include "base/random.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

// Where the fields of a hello's body lie.
constexpr size_t kMarkAt = 8, kNewestAt = 12, kOldestAt = 14, kKeyedAt = 16, kWorkerAt = 20, kAddressAt = 48;

Introduction Who(uint32_t worker) { return {WorkerId(worker), Incarnation(worker * 10), "tcp:127.0.0.1:" + std::to_string(4000 + worker)}; }

struct Frame {
  FrameHeader header;
  std::string body;
};
Frame Parsed(const std::string& bytes) { return {*ParseHeader(AsBytes(bytes)), bytes.substr(sizeof(FrameHeader))}; }

Result<std::string> Give(Handshake& to, const Frame& frame) { return to.Take(frame.header, AsBytes(frame.body)); }

template <typename T>
std::string With(std::string body, size_t at, T value) {
  std::memcpy(body.data() + at, &value, sizeof value);
  return body;
}

/// A dialler (worker 1, which looks for 2) and a listener (worker 2).
struct Pair {
  explicit Pair(const std::string& key = "", const std::string& listeners_key = "", uint16_t mine = kWireVersion, uint16_t theirs = kWireVersion)
      : dialler(Who(1), key, WorkerId(2), mine), listener(Who(2), listeners_key, WorkerId(), theirs) {}

  /// Says everything there is to say; how each side ended.
  std::pair<Status, Status> Talk() {
    Status dialled, listened;
    std::string to_listener = dialler.Hello(), to_dialler = listener.Hello();
    for (int i = 0; i < 3; ++i) {
      const std::string there = std::exchange(to_listener, {}), back = std::exchange(to_dialler, {});
      if (!there.empty() && listened.ok()) Step(listener, there, &to_dialler, &listened);
      if (!back.empty() && dialled.ok()) Step(dialler, back, &to_listener, &dialled);
    }
    return {dialled, listened};
  }
  static void Step(Handshake& to, const std::string& said, std::string* answer, Status* status) {
    auto taken = Give(to, Parsed(said));
    if (taken.ok()) *answer = *taken;
    else *status = taken.status();
  }

  Handshake dialler, listener;
};

TEST(Handshake, WithoutAKeyTwoHellosAreEnough) {
  Pair pair;
  const auto [dialled, listened] = pair.Talk();
  EXPECT_TRUE(dialled.ok() && listened.ok());
  EXPECT_TRUE(pair.dialler.done() && pair.listener.done());
  EXPECT_EQ(pair.listener.peer().worker, WorkerId(1));
  EXPECT_EQ(pair.listener.peer().incarnation, Incarnation(10));
  EXPECT_EQ(pair.listener.peer().address, "tcp:127.0.0.1:4001");
  EXPECT_EQ(pair.dialler.peer().worker, WorkerId(2));
}

TEST(Handshake, WithAKeyNobodyIsInBeforeTheProof) {
  Pair pair("secret", "secret");
  const auto answer = Give(pair.listener, Parsed(pair.dialler.Hello()));
  ASSERT_TRUE(answer.ok());
  EXPECT_FALSE(pair.listener.done()) << "a hello is no proof";
  EXPECT_EQ(Parsed(*answer).header.type, FrameType::kProof);
  EXPECT_EQ(Parsed(*answer).body.size(), 32u);
  Pair other("secret", "secret");
  EXPECT_TRUE(other.Talk().first.ok());
  EXPECT_TRUE(other.dialler.done() && other.listener.done());
}

TEST(Handshake, KeysThatDifferAreTold) {
  const struct {
    const char *mine, *theirs, *says;
  } cases[] = {{"a", "b", "does not know the cluster key"}, {"a", "", "one of workers 2 and 1 has a cluster key"}, {"", "a", "one of workers 2 and 1 has a cluster key"},
               {"a", "a ", "does not know the cluster key"}, {"a", "A", "does not know the cluster key"}};
  for (const auto& c : cases) {
    Pair pair(c.mine, c.theirs);
    const auto [dialled, listened] = pair.Talk();
    EXPECT_EQ(listened.code(), StatusCode::kUnavailable) << c.mine << '|' << c.theirs;
    EXPECT_THAT(listened.message(), HasSubstr(c.says));
    EXPECT_FALSE(dialled.ok());
    EXPECT_FALSE(pair.dialler.done() || pair.listener.done());
  }
}

/// A key and the same with a zero behind it are one to HMAC, and two to us; so are long ones that hash to others.
TEST(Handshake, NoTwoKeysAreOne) {
  const std::string zero("secret\0", 7), longer(100, 'k');
  std::string hashed(AsText(Sha256(AsBytes(longer))));
  for (const auto& [mine, theirs] : {std::pair(std::string("secret"), zero), {longer, hashed}, {longer, longer + "k"}}) {
    Pair pair(mine, theirs);
    EXPECT_FALSE(pair.Talk().second.ok());
    Pair same(mine, mine);
    EXPECT_TRUE(same.Talk().second.ok());
  }
}

TEST(Handshake, NeighbouringReleasesMeetAndOthersSayBothRanges) {
  Pair newer("", "", kWireVersion + 1, kWireVersion);
  EXPECT_TRUE(newer.Talk().first.ok());
  EXPECT_EQ(newer.dialler.version(), kWireVersion);
  EXPECT_EQ(newer.listener.version(), kWireVersion);
  // A release that no longer speaks ours: its oldest is above our newest.
  Pair pair;
  Frame hello = Parsed(pair.dialler.Hello());
  hello.body = With(With(hello.body, kNewestAt, uint16_t{9}), kOldestAt, uint16_t{8});
  const auto refused = Give(pair.listener, hello);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.status().message(), HasSubstr("versions 1 to 1 of the transport are spoken here, 8 to 9 over there"));
  EXPECT_THAT(refused.status().message(), HasSubstr("install the same release"));
}

/// Each field of the hello, wrong in each way that a foreign machine, release or program would have it.
TEST(Handshake, EachWrongFieldHasItsReason) {
  const Pair honest;
  const std::string good = Parsed(honest.dialler.Hello()).body;
  const struct {
    const char* what;
    std::string body;
    const char* says;
  } cases[] = {
      {"another program", "GET / HTTP/1.1\r\n\r\n", "this is not Baton's transport"},
      {"nothing", "", "this is not Baton's transport"},
      {"another magic", With(good, 0, 'b'), "this is not Baton's transport"},
      {"another byte order", With(good, kMarkAt, uint32_t{0x04030201}), "another byte order"},
      {"no byte order", With(good, kMarkAt, uint32_t{0x11111111}), "wrong byte order mark (11111111)"},
      {"a key where there is none", With(good, kKeyedAt, uint32_t{1}), "give both the same"},
      {"something else instead of a key", With(good, kKeyedAt, uint32_t{2}), "give both the same"},
      {"nobody", With(good, kWorkerAt, uint32_t{0}), "worker 0 is nobody"},
  };
  for (const auto& c : cases) {
    Pair pair;
    const auto refused = Give(pair.listener, {{.type = FrameType::kHello}, c.body});
    ASSERT_FALSE(refused.ok()) << c.what;
    EXPECT_EQ(refused.status().code(), StatusCode::kUnavailable) << c.what << ": a refused peer's transfers end with it";
    EXPECT_THAT(refused.status().message(), HasSubstr(c.says)) << c.what;
    EXPECT_FALSE(pair.listener.done());
  }
}

TEST(Handshake, AnotherWorkerAtTheAddressIsNoticed) {
  Pair pair;
  Handshake third(Who(3), "", WorkerId());
  const auto refused = Give(pair.dialler, Parsed(third.Hello()));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(), "worker 3 answers at the address of worker 2");
}

TEST(Handshake, EveryCutOfAHelloIsRefused) {
  const Pair honest;
  const std::string good = Parsed(honest.dialler.Hello()).body;
  for (size_t n = 0; n < kAddressAt; ++n) {
    Pair pair;
    EXPECT_FALSE(Give(pair.listener, {{.type = FrameType::kHello}, good.substr(0, n)}).ok()) << n;
  }
  Pair pair;
  EXPECT_TRUE(Give(pair.listener, {{.type = FrameType::kHello}, good.substr(0, kAddressAt)}).ok()) << "an address may be empty";
}

/// Whoever changes one bit on the way (a version, a number, an address) makes the proof worthless at the other end.
TEST(Handshake, EveryBitOfAHelloIsUnderTheProof) {
  const size_t bytes = Parsed(Pair("k", "k").dialler.Hello()).body.size();
  size_t refused_at_once = 0;
  for (size_t bit = 0; bit < bytes * 8; ++bit) {
    Pair pair("k", "k");
    Frame hello = Parsed(pair.dialler.Hello());
    hello.body[bit / 8] = static_cast<char>(hello.body[bit / 8] ^ (1 << (bit % 8)));
    const auto listeners_proof = Give(pair.listener, hello);
    if (!listeners_proof.ok()) {
      ++refused_at_once;
      continue;
    }
    const auto diallers_proof = Give(pair.dialler, Parsed(pair.listener.Hello()));
    ASSERT_TRUE(diallers_proof.ok());
    EXPECT_FALSE(Give(pair.listener, Parsed(*diallers_proof)).ok()) << "bit " << bit % 8 << " of byte " << bit / 8;
    EXPECT_FALSE(pair.listener.done());
  }
  EXPECT_GE(refused_at_once, 12 * 8u) << "magic and byte order";
}

TEST(Handshake, EveryBitOfAProofCounts) {
  for (int bit = 0; bit < 256; ++bit) {
    Pair pair("k", "k");
    ASSERT_TRUE(Give(pair.listener, Parsed(pair.dialler.Hello())).ok());
    Frame proof = Parsed(*Give(pair.dialler, Parsed(pair.listener.Hello())));
    proof.body[bit / 8] = static_cast<char>(proof.body[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_FALSE(Give(pair.listener, proof).ok()) << bit;
  }
  for (const size_t length : {0u, 1u, 31u, 33u, 64u}) {
    Pair pair("k", "k");
    ASSERT_TRUE(Give(pair.listener, Parsed(pair.dialler.Hello())).ok());
    Frame proof = Parsed(*Give(pair.dialler, Parsed(pair.listener.Hello())));
    proof.body.resize(length);
    ASSERT_FALSE(Give(pair.listener, proof).ok()) << "a proof of " << length << " bytes";
  }
}

/// What was recorded of one connection opens no other, though both ends are the same.
TEST(Handshake, ARecordedProofIsOfItsConnectionOnly) {
  Pair recorded("k", "k");
  const std::string hello = recorded.dialler.Hello();
  ASSERT_TRUE(Give(recorded.listener, Parsed(hello)).ok());
  const std::string proof = *Give(recorded.dialler, Parsed(recorded.listener.Hello()));
  Handshake again(Who(2), "k", WorkerId());
  ASSERT_TRUE(Give(again, Parsed(hello)).ok());
  EXPECT_FALSE(Give(again, Parsed(proof)).ok());
}

TEST(Handshake, WordsOutOfTurn) {
  for (const FrameType type : {FrameType::kGrant, FrameType::kData, FrameType::kAck, FrameType::kEnd, FrameType::kAsk, FrameType::kPing}) {
    Pair pair;
    EXPECT_FALSE(Give(pair.listener, {{.type = type}, ""}).ok()) << static_cast<int>(type);
  }
  Pair proof_first("k", "k");
  EXPECT_FALSE(Give(proof_first.listener, {{.type = FrameType::kProof}, std::string(32, 'p')}).ok());
  Pair twice("k", "k");
  ASSERT_TRUE(Give(twice.listener, Parsed(twice.dialler.Hello())).ok());
  EXPECT_FALSE(Give(twice.listener, Parsed(twice.dialler.Hello())).ok()) << "one hello";
  Pair unkeyed;
  ASSERT_TRUE(unkeyed.Talk().first.ok());
  EXPECT_FALSE(Give(unkeyed.listener, {{.type = FrameType::kProof}, std::string(32, 'p')}).ok()) << "nobody asked for one";
}

TEST(Handshake, ARefusalIsPassedOn) {
  Pair pair;
  const auto refused = Give(pair.dialler, {{.type = FrameType::kRefuse}, "worker 1 has been restarted since"});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message(), "refused by the peer: worker 1 has been restarted since");
  EXPECT_EQ(refused.status().code(), StatusCode::kUnavailable);
}

TEST(Handshake, NoiseIsRefused) {
  Random random(8);
  for (int i = 0; i < 3000; ++i) {
    Pair pair(i % 2 == 0 ? "k" : "", i % 2 == 0 ? "k" : "");
    std::string body(random.Below(kMaxHandshakeBody + 1), '\0');
    for (char& c : body) c = static_cast<char>(random.Next64());
    if (i % 3 == 0 && body.size() > kMarkAt) body.replace(0, 8, "BATONKV1");
    ASSERT_FALSE(Give(pair.listener, {{.type = FrameType::kHello}, body}).ok());
  }
}

}  // namespace
}  // namespace baton
