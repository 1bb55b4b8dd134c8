// Random values through real messages and back, bit for bit; and messages whose bytes were changed on the way: a value, a refusal or an
// exception of the message layer, never anything worse.
#include <capnp/serialize.h>

#include <bit>
#include <cmath>

#include "base/random.h"
#include "protocol/convert.h"
#include "protocol/member.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  uint64_t Below(uint64_t bound) { return random_.Below(bound); }
  uint64_t Word() { return random_.Next64() >> random_.Below(64); }
  int32_t Signed() { return static_cast<int32_t>(Word()); }
  bool Flag() { return Below(2) == 0; }
  /// Any bit pattern, infinities and NaNs included.
  double Double() { return std::bit_cast<double>(random_.Next64()); }
  float Float() { return std::bit_cast<float>(static_cast<uint32_t>(random_.Next64())); }
  std::string Text() {
    std::string text;
    for (uint64_t i = 0; i < Below(20); ++i) text += static_cast<char>(Below(256));
    return text;
  }
  std::vector<TokenId> Tokens() {
    std::vector<TokenId> tokens(Below(50));
    for (TokenId& t : tokens) t = Signed();
    return tokens;
  }
  BlockKey Key() {
    const uint64_t word = random_.Next64();
    return {Sha256(std::as_bytes(std::span(&word, 1)))};
  }

 private:
  Random random_;
};

/// Writes a struct into a message, serialises it, and gives what a reader of those bytes sees.
template <typename Struct>
class Sent {
 public:
  template <typename Write>
  explicit Sent(Write write) {
    capnp::MallocMessageBuilder message;
    write(message.template initRoot<Struct>());
    words_ = capnp::messageToFlatArray(message);
  }
  kj::Array<capnp::word>& words() { return words_; }
  template <typename Read>
  auto Receive(Read read) {
    capnp::FlatArrayMessageReader reader(words_);
    return read(reader.template getRoot<Struct>());
  }

 private:
  kj::Array<capnp::word> words_;
};

GenerateRequest AnyRequest(Draw& d) {
  GenerateRequest r;
  r.id = RequestId(d.Word() | 1);
  r.tenant = d.Text();
  r.prompt = d.Tokens();
  r.max_tokens = static_cast<uint32_t>(d.Word());
  r.generated = static_cast<uint32_t>(d.Word());
  SamplingParams& s = r.sampling;
  for (double* value : {&s.temperature, &s.top_p, &s.min_p, &s.typical_p, &s.repetition_penalty, &s.presence_penalty, &s.frequency_penalty}) *value = d.Double();
  s.top_k = static_cast<uint32_t>(d.Word());
  s.no_repeat_ngram = static_cast<uint32_t>(d.Word());
  s.seed = d.Word();
  s.logprobs = d.Signed();
  for (uint64_t i = 0; i < d.Below(6); ++i) s.logit_bias[d.Signed()] = d.Float();
  r.ignore_eos = d.Flag();
  r.stop_tokens = d.Tokens();
  r.priority = d.Signed();
  r.deadline_s = d.Double();
  return r;
}

uint64_t Bits(double v) { return std::bit_cast<uint64_t>(v); }
uint32_t Bits(float v) { return std::bit_cast<uint32_t>(v); }

TEST(WireRandom, Requests) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Draw d(seed);
    const GenerateRequest r = AnyRequest(d);
    const BlockKey root = d.Key();
    Sent<wire::GenerateRequest> sent([&](auto builder) { WriteRequest(r, root, builder); });
    const auto got = sent.Receive([](auto reader) { return ReadRequest(reader); });
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    const GenerateRequest& g = got->request;
    EXPECT_EQ(got->root, root);
    EXPECT_EQ(std::tie(g.id, g.tenant, g.prompt, g.max_tokens, g.generated, g.ignore_eos, g.stop_tokens, g.priority),
              std::tie(r.id, r.tenant, r.prompt, r.max_tokens, r.generated, r.ignore_eos, r.stop_tokens, r.priority));
    EXPECT_EQ(Bits(g.deadline_s), Bits(r.deadline_s));
    const SamplingParams &a = g.sampling, &b = r.sampling;
    EXPECT_EQ(std::make_tuple(Bits(a.temperature), Bits(a.top_p), Bits(a.min_p), Bits(a.typical_p), Bits(a.repetition_penalty), Bits(a.presence_penalty), Bits(a.frequency_penalty)),
              std::make_tuple(Bits(b.temperature), Bits(b.top_p), Bits(b.min_p), Bits(b.typical_p), Bits(b.repetition_penalty), Bits(b.presence_penalty), Bits(b.frequency_penalty)));
    EXPECT_EQ(std::tie(a.top_k, a.no_repeat_ngram, a.seed, a.logprobs), std::tie(b.top_k, b.no_repeat_ngram, b.seed, b.logprobs));
    ASSERT_EQ(a.logit_bias.size(), b.logit_bias.size());
    for (const auto& [token, bias] : b.logit_bias) EXPECT_EQ(Bits(a.logit_bias.at(token)), Bits(bias));
  }
}

TEST(WireRandom, TokenEventsAndStats) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Draw d(seed);
    TokenEvent event{d.Signed(), d.Float(), {}};
    for (uint64_t i = 0; i < d.Below(22); ++i) event.top.push_back({d.Signed(), d.Float()});
    Sent<wire::TokenEvent> token([&](auto builder) { WriteToken(event, builder); });
    const TokenEvent got = token.Receive([](auto reader) { return ReadToken(reader); });
    EXPECT_EQ(got.token, event.token);
    EXPECT_EQ(Bits(got.logprob), Bits(event.logprob));
    ASSERT_EQ(got.top.size(), event.top.size());
    for (size_t i = 0; i < got.top.size(); ++i) {
      EXPECT_EQ(got.top[i].token, event.top[i].token);
      EXPECT_EQ(Bits(got.top[i].logprob), Bits(event.top[i].logprob));
    }
    RequestStats stats;
    stats.prompt_tokens = static_cast<uint32_t>(d.Word());
    stats.cached_tokens = static_cast<uint32_t>(d.Word());
    stats.cache_write_tokens = static_cast<uint32_t>(d.Word());
    stats.queue_s = d.Double(), stats.prefill_s = d.Double(), stats.decode_s = d.Double();
    stats.route = d.Text();
    Sent<wire::Stats> sent([&](auto builder) { WriteStats(stats, builder); });
    const RequestStats back = sent.Receive([](auto reader) { return ReadStats(reader); });
    EXPECT_EQ(std::tie(back.prompt_tokens, back.cached_tokens, back.cache_write_tokens, back.route), std::tie(stats.prompt_tokens, stats.cached_tokens, stats.cache_write_tokens, stats.route));
    EXPECT_EQ(std::make_tuple(Bits(back.queue_s), Bits(back.prefill_s), Bits(back.decode_s)), std::make_tuple(Bits(stats.queue_s), Bits(stats.prefill_s), Bits(stats.decode_s)));
  }
}

MemberInfo AnyMember(Draw& d) {
  MemberInfo m;
  m.id = WorkerId(static_cast<uint32_t>(d.Word()) | 1);
  m.incarnation = Incarnation(d.Word());
  m.name = "w" + d.Text();
  m.hostname = d.Text();
  for (uint64_t i = 0; i < d.Below(4); ++i) m.roles.push_back(d.Text());
  m.address = {d.Text(), static_cast<uint16_t>(d.Word())};
  m.transport_kind = d.Text();
  m.transport_address = d.Text();
  m.pid = static_cast<uint32_t>(d.Word());
  m.kv_blocks = static_cast<uint32_t>(d.Word());
  m.draining = d.Flag();
  if (d.Flag()) {
    m.model.model_name = d.Text();
    m.model.kv_layout = "l" + d.Text();
    m.model.numerics = d.Text();
    m.model.kv_dtype = d.Text();
    m.model.fingerprint = d.Key().bytes;
    m.model.block_tokens = static_cast<uint32_t>(1 + d.Below(1000));
    m.model.block_bytes = 1 + d.Word() / 2;
    m.model.vocab = static_cast<uint32_t>(d.Word());
    m.model.max_positions = static_cast<uint32_t>(d.Word());
    m.model.eos_ids = d.Tokens();
  }
  return m;
}

TEST(WireRandom, Members) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Draw d(seed);
    const MemberInfo m = AnyMember(d);
    Sent<wire::Member> sent([&](auto builder) { WriteMember(m, builder); });
    const auto got = sent.Receive([](auto reader) { return ReadMember(reader); });
    ASSERT_TRUE(got.ok()) << got.status().ToString();
    EXPECT_EQ(std::tie(got->id, got->incarnation, got->name, got->hostname, got->roles, got->address, got->transport_kind, got->transport_address, got->pid, got->kv_blocks, got->draining),
              std::tie(m.id, m.incarnation, m.name, m.hostname, m.roles, m.address, m.transport_kind, m.transport_address, m.pid, m.kv_blocks, m.draining));
    EXPECT_EQ(got->model.empty(), m.model.empty());
    EXPECT_EQ(std::tie(got->model.model_name, got->model.numerics, got->model.block_tokens, got->model.block_bytes, got->model.eos_ids),
              std::tie(m.model.model_name, m.model.numerics, m.model.block_tokens, m.model.block_bytes, m.model.eos_ids));
    EXPECT_EQ(got->model.Root("t"), m.model.Root("t")) << "both ends derive the same keys";
  }
}

TEST(WireRandom, KeysAndStatuses) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Draw d(seed);
    std::vector<BlockKey> keys(d.Below(40));
    for (BlockKey& key : keys) key = d.Key();
    Sent<wire::RouteQuery> query([&](auto builder) { WriteKeys(keys, builder.initKeys(static_cast<uint32_t>(keys.size()))); });
    EXPECT_EQ(*query.Receive([](auto reader) { return ReadKeys(reader.getKeys()); }), keys);
    const Status status(static_cast<StatusCode>(1 + d.Below(9)), d.Text());
    Sent<wire::WireStatus> sent([&](auto builder) { WriteStatus(status, builder); });
    EXPECT_EQ(sent.Receive([](auto reader) { return ReadStatus(reader); }), status);
  }
}

/// How often the changed message was taken, refused and broken.
struct Outcomes {
  int taken = 0, refused = 0, broken = 0;
};
template <typename Struct, typename Write, typename Read>
Outcomes Corrupt(uint64_t seed, Write write, Read read) {
  Outcomes outcomes;
  Draw d(seed);
  for (int round = 0; round < 300; ++round) {
    Sent<Struct> sent(write);
    auto bytes = sent.words().asBytes();
    for (uint64_t i = 0; i < 1 + d.Below(4); ++i) bytes[d.Below(bytes.size())] = static_cast<kj::byte>(d.Below(256));
    bool ok = false;
    const auto problem = kj::runCatchingExceptions([&] { ok = sent.Receive(read); });
    bool threw = false;
    KJ_IF_MAYBE(exception, problem) {
      threw = true;
      EXPECT_NE(StatusFromException(*exception).code(), StatusCode::kOk);
    }
    ++(threw ? outcomes.broken : ok ? outcomes.taken : outcomes.refused);
  }
  return outcomes;
}

TEST(WireCorrupt, RequestsMembersAndKeys) {
  Draw d(99);
  const GenerateRequest request = AnyRequest(d);
  const MemberInfo member = AnyMember(d);
  const BlockKey root = d.Key();
  const std::vector<BlockKey> keys = {d.Key(), d.Key(), d.Key()};
  const Outcomes a = Corrupt<wire::GenerateRequest>(1, [&](auto b) { WriteRequest(request, root, b); }, [](auto r) { return ReadRequest(r).ok(); });
  const Outcomes b = Corrupt<wire::Member>(2, [&](auto b) { WriteMember(member, b); }, [](auto r) { return ReadMember(r).ok(); });
  const Outcomes c = Corrupt<wire::RouteQuery>(3, [&](auto b) { WriteKeys(keys, b.initKeys(3)); }, [](auto r) { return ReadKeys(r.getKeys()).ok(); });
  for (const Outcomes& o : {a, b, c}) {
    EXPECT_EQ(o.taken + o.refused + o.broken, 300);
    EXPECT_GT(o.taken, 0) << "a flipped bit of a value is a value";
    EXPECT_GT(o.refused + o.broken, 0) << "a flipped bit of a size or pointer is not";
  }
}

TEST(WireCorrupt, CutMessages) {
  Draw d(5);
  const GenerateRequest request = AnyRequest(d);
  const BlockKey root = d.Key();
  Sent<wire::GenerateRequest> whole([&](auto b) { WriteRequest(request, root, b); });
  const size_t words = whole.words().size();
  for (size_t cut = 1; cut < words; cut += 1 + words / 60) {
    bool ok = false;
    const auto problem = kj::runCatchingExceptions([&] {
      capnp::FlatArrayMessageReader reader(whole.words().slice(0, cut));
      ok = ReadRequest(reader.getRoot<wire::GenerateRequest>()).ok();
    });
    bool threw = false;
    KJ_IF_MAYBE(ignored, problem) {
      (void)ignored;
      threw = true;
    }
    EXPECT_TRUE(threw || !ok) << cut << " of " << words << " words were taken for a whole request";
  }
}

}  // namespace
}  // namespace baton
