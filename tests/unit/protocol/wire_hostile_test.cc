// Messages that no honest rank would send: every word changed, lists that claim to be longer than memory, pointers in circles, text
// with any byte. A reader gives a value, a refusal or an exception of the message layer, and takes no more memory than the message.
#include <capnp/serialize.h>

#include <bit>

#include "base/random.h"
#include "protocol/convert.h"
#include "protocol/member.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

using Words = std::vector<uint64_t>;

/// A message as its words: a segment table of one word, then the segment.
template <typename Struct, typename Write>
Words Written(Write write) {
  capnp::MallocMessageBuilder message;
  write(message.template initRoot<Struct>());
  const kj::Array<capnp::word> flat = capnp::messageToFlatArray(message);
  Words out(flat.size());
  std::memcpy(out.data(), flat.begin(), out.size() * sizeof(uint64_t));
  return out;
}

enum class Outcome { kTaken, kRefused, kBroken };

template <typename Struct, typename Read>
Outcome Received(const Words& words, Read read) {
  bool ok = false;
  const auto problem = kj::runCatchingExceptions([&] {
    const kj::ArrayPtr<const capnp::word> view(reinterpret_cast<const capnp::word*>(words.data()), words.size());
    capnp::FlatArrayMessageReader reader(view);
    ok = read(reader.template getRoot<Struct>());
  });
  KJ_IF_MAYBE(exception, problem) {
    EXPECT_FALSE(StatusFromException(*exception).ok());
    return Outcome::kBroken;
  }
  return ok ? Outcome::kTaken : Outcome::kRefused;
}

/// Every word of the message, changed in each of these ways.
template <typename Struct, typename Read>
std::array<int, 3> MutateEveryWord(const Words& good, Read read) {
  std::array<int, 3> outcomes{};
  Random random(good.size());
  for (size_t at = 0; at < good.size(); ++at) {
    const uint64_t was = good[at];
    for (const uint64_t now : {uint64_t{0}, ~uint64_t{0}, was ^ 1, was ^ 2, was ^ 3, was + (uint64_t{1} << 32), was ^ (uint64_t{1} << 63), was | 0xfffffffc, std::rotl(was, 32), random.Next64()}) {
      Words words = good;
      words[at] = now;
      ++outcomes[static_cast<size_t>(Received<Struct>(words, read))];
    }
  }
  return outcomes;
}

CacheRecord SomeRecord() { return {"cache_0123456789abcdef0123456789abcdef", "alice/0011223344556677", {1, -2, 3, INT32_MIN, INT32_MAX}, 1.5e9, 1.6e9}; }

MemberInfo SomeMember() {
  MemberInfo member;
  member.id = WorkerId(7);
  member.incarnation = Incarnation(9);
  member.name = "decode-1";
  member.roles = {"decode", "store"};
  member.address = {"127.0.0.1", 4100};
  member.model.kv_layout = "layout";
  member.model.block_tokens = 16;
  member.model.block_bytes = 4096;
  member.model.eos_ids = {1, 2};
  return member;
}

GenerateRequest SomeRequest() {
  GenerateRequest request;
  request.id = RequestId(5);
  request.tenant = "alice";
  request.prompt = {1, 2, 3, 4, 5, 6, 7};
  request.sampling.logit_bias = {{3, 0.5f}, {4, -100.f}};
  request.sampling.grammar = "root ::= \"a\"";
  request.stop_tokens = {9};
  request.prediction = {1, 2};
  return request;
}

TEST(HostileWords, OfARequest) {
  const BlockKey root{Sha256(AsBytes("root"))};
  const Words good = Written<wire::GenerateRequest>([&](auto b) { WriteRequest(SomeRequest(), root, b); });
  const auto read = [](auto r) {
    const auto got = ReadRequest(r);
    if (got.ok()) {
      EXPECT_NE(got->request.id.value, 0u);
    }
    return got.ok();
  };
  ASSERT_EQ(Received<wire::GenerateRequest>(good, read), Outcome::kTaken);
  const auto outcomes = MutateEveryWord<wire::GenerateRequest>(good, read);
  EXPECT_GT(outcomes[0], 0) << "a changed number is a number";
  EXPECT_GT(outcomes[1], 0) << "a key of another size";
  EXPECT_GT(outcomes[2], 0) << "a pointer to nowhere";
}

TEST(HostileWords, OfAMember) {
  const Words good = Written<wire::Member>([&](auto b) { WriteMember(SomeMember(), b); });
  const auto read = [](auto r) {
    const auto got = ReadMember(r);
    if (got.ok()) {
      EXPECT_TRUE(got->id.value != 0 && !got->name.empty() && (got->model.empty() || got->model.block_tokens > 0));
    }
    return got.ok();
  };
  ASSERT_EQ(Received<wire::Member>(good, read), Outcome::kTaken);
  const auto outcomes = MutateEveryWord<wire::Member>(good, read);
  EXPECT_GT(outcomes[0], 0);
  EXPECT_GT(outcomes[1], 0);
  EXPECT_GT(outcomes[2], 0);
}

TEST(HostileWords, OfWhatHasNoRefusal) {
  const Words record = Written<wire::CacheRecord>([](auto b) { WriteCacheRecord(SomeRecord(), b); });
  const auto records = MutateEveryWord<wire::CacheRecord>(record, [](auto r) { return ReadCacheRecord(r).tokens.size() < 1000; });
  EXPECT_GT(records[0], 0);
  EXPECT_EQ(records[1], 0) << "no list is longer than the message";
  EXPECT_GT(records[2], 0);
  const Words status = Written<wire::WireStatus>([](auto b) { WriteStatus(ExhaustedError("no room in the inn"), b); });
  const auto statuses = MutateEveryWord<wire::WireStatus>(status, [](auto r) { return StatusCodeName(ReadStatus(r).code()) != "unknown"; });
  EXPECT_EQ(statuses[1], 0) << "a code that nobody knows is an internal error";
  TokenEvent event{.token = 3, .logprob = -1, .top = {{1, -2}, {2, -3}}, .predicted = true};
  const Words token = Written<wire::TokenEvent>([&](auto b) { WriteToken(event, b); });
  EXPECT_EQ(MutateEveryWord<wire::TokenEvent>(token, [](auto r) { return ReadToken(r).top.size() < 1000; })[1], 0);
  RequestStats stats{.prompt_tokens = 5, .queue_s = 0.5, .route = "prefill-0"};
  const Words words = Written<wire::Stats>([&](auto b) { WriteStats(stats, b); });
  EXPECT_EQ(MutateEveryWord<wire::Stats>(words, [](auto r) { return ReadStats(r).route.size() < 1000; })[1], 0);
}

/// The pointer to a list of `count` elements of that size; null where the message has none.
uint64_t* ListPointer(Words& words, uint32_t count, uint32_t element_size) {
  for (uint64_t& word : words) {
    if ((word & 3) == 1 && word >> 32 == (uint64_t{count} << 3 | element_size)) return &word;
  }
  return nullptr;
}

/// A list of half a billion elements that take no room is a message of a few bytes; it must not become gigabytes here.
TEST(HostileLists, OfNothingHalfABillionTimes) {
  constexpr uint32_t kFourBytes = 4;
  const BlockKey root{Sha256(AsBytes("root"))};
  for (const uint32_t element_size : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u}) {
    Words words = Written<wire::GenerateRequest>([&](auto b) { WriteRequest(SomeRequest(), root, b); });
    uint64_t* const prompt = ListPointer(words, 7, kFourBytes);
    ASSERT_NE(prompt, nullptr);
    *prompt = (*prompt & 0xffffffff) | (uint64_t{0x1fffffff} << 3 | element_size) << 32;
    EXPECT_EQ(Received<wire::GenerateRequest>(words, [](auto r) { return ReadRequest(r).ok(); }), Outcome::kBroken) << "element size " << element_size;
    Words record = Written<wire::CacheRecord>([](auto b) { WriteCacheRecord(SomeRecord(), b); });
    uint64_t* const tokens = ListPointer(record, 5, kFourBytes);
    ASSERT_NE(tokens, nullptr);
    *tokens = (*tokens & 0xffffffff) | (uint64_t{0x1fffffff} << 3 | element_size) << 32;
    EXPECT_EQ(Received<wire::CacheRecord>(record, [](auto r) { return ReadCacheRecord(r).tokens.empty(); }), Outcome::kBroken) << "element size " << element_size;
  }
}

TEST(HostileLists, OfKeysThatAreNoKeys) {
  for (const size_t bytes : {0u, 1u, 31u, 33u, 64u, 4096u}) {
    const std::vector<kj::byte> noise(bytes, 7);
    const Words words = Written<wire::RouteQuery>([&](auto b) {
      auto keys = b.initKeys(3);
      keys.set(0, ToData(BlockKey{Sha256(AsBytes("a"))}));
      keys.set(1, kj::arrayPtr(noise.data(), noise.size()));
      keys.set(2, ToData(BlockKey{Sha256(AsBytes("b"))}));
    });
    Status status;
    EXPECT_EQ(Received<wire::RouteQuery>(words, [&](auto r) {
                const auto keys = ReadKeys(r.getKeys());
                status = keys.status();
                return keys.ok();
              }),
              Outcome::kRefused);
    EXPECT_EQ(status.message(), fmt::format("a block key has {} bytes, must have 32", bytes));
  }
  const Words none = Written<wire::RouteQuery>([](auto) {});
  EXPECT_EQ(Received<wire::RouteQuery>(none, [](auto r) { return ReadKeys(r.getKeys()).value().empty(); }), Outcome::kTaken) << "no list is an empty one";
}

TEST(HostileCuts, AtEveryWord) {
  const auto cut_everywhere = [](const Words& good, const auto& received) {
    for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(received(Words(good.begin(), good.begin() + static_cast<ptrdiff_t>(n))), Outcome::kTaken) << n << " of " << good.size();
  };
  cut_everywhere(Written<wire::Member>([](auto b) { WriteMember(SomeMember(), b); }),
                 [](const Words& w) { return Received<wire::Member>(w, [](auto r) { return ReadMember(r).ok(); }); });
  cut_everywhere(Written<wire::CacheRecord>([](auto b) { WriteCacheRecord(SomeRecord(), b); }),
                 [](const Words& w) { return Received<wire::CacheRecord>(w, [](auto r) { return ReadCacheRecord(r) == SomeRecord(); }); });
}

/// Names, salts and grammars come from clients: every byte travels, zeros included, or two of them could become one on the way.
TEST(TextOnTheWire, KeepsEveryByte) {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  for (const std::string& text : {all, std::string("\0", 1), std::string("a\0b", 3), std::string("\0\0end\0", 6), std::string("\xff\xfe"), std::string(100'000, 'x')}) {
    CacheRecord record = SomeRecord();
    record.id = record.tenant = text;
    const Words words = Written<wire::CacheRecord>([&](auto b) { WriteCacheRecord(record, b); });
    EXPECT_EQ(Received<wire::CacheRecord>(words, [&](auto r) { return ReadCacheRecord(r) == record; }), Outcome::kTaken) << text.size();
    GenerateRequest request = SomeRequest();
    request.tenant = request.sampling.grammar = text;
    const Words asked = Written<wire::GenerateRequest>([&](auto b) { WriteRequest(request, BlockKey(), b); });
    EXPECT_EQ(Received<wire::GenerateRequest>(asked, [&](auto r) {
                const auto got = ReadRequest(r);
                return got.ok() && got->request.tenant == text && got->request.sampling.grammar == text;
              }),
              Outcome::kTaken)
        << text.size();
    const Words said = Written<wire::WireStatus>([&](auto b) { WriteStatus(Status(StatusCode::kAborted, text), b); });
    EXPECT_EQ(Received<wire::WireStatus>(said, [&](auto r) { return ReadStatus(r) == Status(StatusCode::kAborted, text); }), Outcome::kTaken);
    MemberInfo member = SomeMember();
    member.name = member.hostname = member.transport_address = text;
    const Words info = Written<wire::Member>([&](auto b) { WriteMember(member, b); });
    EXPECT_EQ(Received<wire::Member>(info, [&](auto r) {
                const auto got = ReadMember(r);
                return got.ok() && got->name == text && got->hostname == text && got->transport_address == text;
              }),
              Outcome::kTaken);
  }
}

TEST(CacheRecordsOnTheWire, RandomOnesComeBack) {
  Random random(12);
  for (int i = 0; i < 200; ++i) {
    CacheRecord record;
    for (uint64_t n = random.Below(40); n > 0; --n) record.id += static_cast<char>(random.Below(256)), record.tenant += static_cast<char>(random.Below(256));
    for (uint64_t n = random.Below(100); n > 0; --n) record.tokens.push_back(static_cast<TokenId>(random.Next64()));
    record.created_unix_s = static_cast<double>(random.Next64() >> random.Below(64)) / 1000;
    record.expires_unix_s = random.Below(3) == 0 ? 0 : record.created_unix_s + random.Uniform() * 1e6;
    const HeldBlocks held{static_cast<uint32_t>(random.Next64()), static_cast<uint32_t>(random.Next64()), static_cast<uint32_t>(random.Next64()), random.Next64()};
    const Words words = Written<wire::CacheRecord>([&](auto b) { WriteCacheRecord(record, b); }), blocks = Written<wire::HeldBlocks>([&](auto b) { WriteHeldBlocks(held, b); });
    EXPECT_EQ(Received<wire::CacheRecord>(words, [&](auto r) { return ReadCacheRecord(r) == record; }), Outcome::kTaken);
    EXPECT_EQ(Received<wire::HeldBlocks>(blocks, [&](auto r) { return ReadHeldBlocks(r) == held; }), Outcome::kTaken);
  }
}

/// What a worker holds as two numbers: the order of changes does not count, and what comes and goes is nothing.
TEST(HeldSums, AreOfTheSetAndNotOfItsHistory) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    std::map<uint64_t, BlockKey> holds;
    HeldSum by_changes;
    for (int i = 0; i < 400; ++i) {
      const uint64_t name = random.Below(30);
      const BlockKey key{Sha256(std::as_bytes(std::span(&name, 1)))};
      const bool added = !holds.contains(name);
      added ? (void)holds.emplace(name, key) : (void)holds.erase(name);
      by_changes.Count({added, key});
    }
    std::vector<BlockKey> keys;
    for (const auto& [name, key] : holds) keys.push_back(key);
    random.Shuffle(keys);
    HeldSum at_once;
    for (const BlockKey& key : keys) at_once.Count({true, key});
    EXPECT_EQ(by_changes, at_once) << "seed " << seed;
    EXPECT_EQ(by_changes.blocks, holds.size());
    if (keys.empty()) continue;
    HeldSum other = at_once;
    other.Count({false, keys[0]});
    other.Count({true, BlockKey{Sha256(AsBytes("another"))}});
    EXPECT_FALSE(other == at_once) << "as many, but not the same";
  }
}

TEST(Addresses, ReadAsTheyArePrintedAndNoOtherWay) {
  for (const PeerAddress& address : {PeerAddress{"127.0.0.1", 1}, PeerAddress{"node-7.example", 65535}, PeerAddress{"::1", 4100}}) {
    const auto read = ParsePeerAddress(address.ToString());
    ASSERT_TRUE(read.ok()) << address.ToString();
    EXPECT_EQ(*read, address);
  }
  for (const char* text : {"", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:+1", "host: 1", "host:1 ", "host:1x", "host:0x10", "host:99999999999999999999", "host:1.5"}) {
    const auto read = ParsePeerAddress(text);
    ASSERT_FALSE(read.ok()) << text;
    EXPECT_THAT(read.status().message(), ::testing::HasSubstr("give HOST:PORT")) << text;
  }
}

}  // namespace
}  // namespace baton
