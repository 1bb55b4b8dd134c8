// Plain values over the wire and back: every field, and what a peer may not send.
#include "protocol/convert.h"

#include <capnp/message.h>

#include <bit>

#include "base/random.h"
#include "protocol/member.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

BlockKey Key(uint64_t name) { return {Sha256(std::as_bytes(std::span(&name, 1)))}; }

/// A builder of one struct, and what a reader of its message sees.
template <typename Struct>
class Wire {
 public:
  typename Struct::Builder builder() { return builder_; }
  typename Struct::Reader reader() { return builder_.asReader(); }

 private:
  capnp::MallocMessageBuilder message_;
  typename Struct::Builder builder_ = message_.initRoot<Struct>();
};

GenerateRequest FullRequest() {
  GenerateRequest r;
  r.id = RequestId(0xfedcba9876543210);
  r.tenant = "tenant \xc3\xa9";
  r.prompt = {0, 7, 2147483647, -1};
  r.max_tokens = 123;
  r.generated = 3;
  r.sampling = {.temperature = 0.1, .top_p = 0.2, .min_p = 0.3, .typical_p = 0.4, .repetition_penalty = 1.5, .presence_penalty = -0.6, .frequency_penalty = 0.7};
  r.sampling.top_k = 8;
  r.sampling.no_repeat_ngram = 9;
  r.sampling.seed = 0xffffffffffffffff;
  r.sampling.logit_bias = {{5, -100.f}, {6, 0.25f}};
  r.sampling.logprobs = 4;
  r.ignore_eos = true;
  r.stop_tokens = {11, 12};
  r.prediction = {4, 5, 6};
  r.priority = -5;
  r.deadline_s = 1.25;
  return r;
}

TEST(ConvertTest, RequestKeepsEveryField) {
  const GenerateRequest r = FullRequest();
  Wire<wire::GenerateRequest> wire;
  WriteRequest(r, Key(1), wire.builder());
  const auto read = ReadRequest(wire.reader());
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  const GenerateRequest& got = read->request;
  EXPECT_EQ(read->root, Key(1));
  EXPECT_EQ(std::tie(got.id, got.tenant, got.prompt, got.max_tokens, got.generated, got.ignore_eos, got.stop_tokens, got.prediction, got.priority, got.deadline_s),
            std::tie(r.id, r.tenant, r.prompt, r.max_tokens, r.generated, r.ignore_eos, r.stop_tokens, r.prediction, r.priority, r.deadline_s));
  const SamplingParams &a = got.sampling, &b = r.sampling;
  EXPECT_EQ(std::tie(a.temperature, a.top_p, a.min_p, a.typical_p, a.repetition_penalty, a.presence_penalty, a.frequency_penalty),
            std::tie(b.temperature, b.top_p, b.min_p, b.typical_p, b.repetition_penalty, b.presence_penalty, b.frequency_penalty));
  EXPECT_EQ(std::tie(a.top_k, a.no_repeat_ngram, a.seed, a.logit_bias, a.logprobs), std::tie(b.top_k, b.no_repeat_ngram, b.seed, b.logit_bias, b.logprobs));
}

TEST(ConvertTest, RequestOfDefaultsStaysOne) {
  GenerateRequest r;
  r.id = RequestId(1);
  Wire<wire::GenerateRequest> wire;
  WriteRequest(r, Key(1), wire.builder());
  const auto read = ReadRequest(wire.reader());
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(read->request.prompt.empty());
  EXPECT_EQ(read->request.max_tokens, 16u);
  EXPECT_EQ(read->request.sampling.logprobs, -1);
  EXPECT_EQ(read->request.sampling.temperature, 1);
}

TEST(ConvertTest, RequestWithoutIdOrRootIsRefused) {
  GenerateRequest r = FullRequest();
  r.id = RequestId();
  Wire<wire::GenerateRequest> wire;
  WriteRequest(r, Key(1), wire.builder());
  EXPECT_EQ(ReadRequest(wire.reader()).status().code(), StatusCode::kInvalid);
  Wire<wire::GenerateRequest> empty;  // a message of nothing but defaults
  EXPECT_EQ(ReadRequest(empty.reader()).status().code(), StatusCode::kInvalid);
  for (const size_t size : {0, 1, 31, 33}) {
    Wire<wire::GenerateRequest> bad;
    WriteRequest(FullRequest(), Key(1), bad.builder());
    bad.builder().initRoot(static_cast<uint32_t>(size));
    EXPECT_EQ(ReadRequest(bad.reader()).status().code(), StatusCode::kInvalid) << size;
  }
}

TEST(ConvertTest, KeysOfAnotherSizeAreRefused) {
  const std::vector<BlockKey> keys = {Key(1), Key(2), Key(3)};
  Wire<wire::RouteQuery> wire;
  WriteKeys(keys, wire.builder().initKeys(3));
  EXPECT_EQ(*ReadKeys(wire.reader().getKeys()), keys);
  for (const uint32_t size : {0u, 31u, 33u, 4096u}) {
    wire.builder().getKeys().init(1, size);
    const auto read = ReadKeys(wire.reader().getKeys());
    EXPECT_EQ(read.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(read.status().message(), ::testing::HasSubstr(std::to_string(size)));
  }
}

TEST(ConvertTest, TokenEvents) {
  for (const bool alternatives : {false, true}) {
    TokenEvent event{42, -0.125f, {}};
    if (alternatives) event.top = {{42, -0.125f}, {7, -3.5f}};
    event.predicted = alternatives;
    event.rejected_tokens = alternatives ? 0 : 7;
    Wire<wire::TokenEvent> wire;
    WriteToken(event, wire.builder());
    const TokenEvent got = ReadToken(wire.reader());
    EXPECT_EQ(got.token, 42);
    EXPECT_EQ(got.predicted, event.predicted);
    EXPECT_EQ(got.rejected_tokens, event.rejected_tokens);
    EXPECT_EQ(std::bit_cast<uint32_t>(got.logprob), std::bit_cast<uint32_t>(event.logprob));
    ASSERT_EQ(got.top.size(), event.top.size());
    for (size_t i = 0; i < got.top.size(); ++i) {
      EXPECT_EQ(got.top[i].token, event.top[i].token);
      EXPECT_EQ(got.top[i].logprob, event.top[i].logprob);
    }
  }
}

TEST(ConvertTest, StatsAndReasonsAndDigests) {
  const RequestStats stats{1, 2, 3, 4.5, 5.5, 6.5, "route; why"};
  Wire<wire::Stats> wire;
  WriteStats(stats, wire.builder());
  const RequestStats got = ReadStats(wire.reader());
  EXPECT_EQ(std::tie(got.prompt_tokens, got.cached_tokens, got.cache_write_tokens, got.queue_s, got.prefill_s, got.decode_s, got.route),
            std::tie(stats.prompt_tokens, stats.cached_tokens, stats.cache_write_tokens, stats.queue_s, stats.prefill_s, stats.decode_s, stats.route));
  for (int reason = 0; reason < 256; ++reason) {
    EXPECT_EQ(static_cast<int>(ReadReason(static_cast<uint8_t>(reason))), reason <= 4 ? reason : static_cast<int>(FinishReason::kError));
  }
  Wire<wire::Digest> digest;
  WriteDigest({1, 0xffffffffffffffff}, digest.builder());
  EXPECT_EQ(ReadDigest(digest.reader()), (Digest128{1, 0xffffffffffffffff}));
}

TEST(WireStatusTest, EveryCodeTravels) {
  for (int code = 0; code <= static_cast<int>(StatusCode::kInternal); ++code) {
    const Status status = code == 0 ? OkStatus() : Status(static_cast<StatusCode>(code), "what, where, what to do");
    Wire<wire::WireStatus> wire;
    WriteStatus(status, wire.builder());
    EXPECT_EQ(ReadStatus(wire.reader()), status);
  }
}

TEST(WireStatusTest, AnUnknownCodeIsAnError) {
  for (const uint16_t code : {10, 255, 65535}) {
    Wire<wire::WireStatus> wire;
    wire.builder().setCode(code);
    EXPECT_EQ(ReadStatus(wire.reader()).code(), StatusCode::kInternal) << code;
  }
}

TEST(WireStatusTest, ExceptionsBecomeStatus) {
  using Type = kj::Exception::Type;
  const auto code = [](Type type) { return StatusFromException(kj::Exception(type, __FILE__, __LINE__, kj::str("why"))); };
  EXPECT_EQ(code(Type::DISCONNECTED).code(), StatusCode::kUnavailable);
  EXPECT_EQ(code(Type::OVERLOADED).code(), StatusCode::kUnavailable);
  EXPECT_EQ(code(Type::UNIMPLEMENTED).code(), StatusCode::kUnavailable);
  EXPECT_EQ(code(Type::FAILED).code(), StatusCode::kInternal);
  EXPECT_THAT(code(Type::FAILED).message(), ::testing::HasSubstr("why"));
}

MemberInfo FullMember() {
  MemberInfo m;
  m.id = WorkerId(7);
  m.incarnation = Incarnation(1ull << 40);
  m.name = "rank-7";
  m.hostname = "host";
  m.roles = {"prefill", "decode"};
  m.address = {"10.0.0.7", 65535};
  m.transport_kind = "tcp";
  m.transport_address = "tcp:10.0.0.7:1";
  m.pid = 99;
  m.kv_blocks = 1000;
  m.draining = true;
  m.model.model_name = "model";
  m.model.kv_layout = "v1 layers=2";
  m.model.numerics = "exact";
  m.model.kv_dtype = "f16";
  m.model.fingerprint = Sha256(AsBytes("weights"));
  m.model.block_tokens = 64;
  m.model.vocab = 49152;
  m.model.max_positions = 8192;
  m.model.block_bytes = 1ull << 33;
  m.model.eos_ids = {2, 0};
  return m;
}

TEST(MemberTest, KeepsEveryField) {
  const MemberInfo m = FullMember();
  Wire<wire::Member> wire;
  WriteMember(m, wire.builder());
  const auto got = ReadMember(wire.reader());
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(std::tie(got->id, got->incarnation, got->name, got->hostname, got->roles, got->address, got->transport_kind, got->transport_address),
            std::tie(m.id, m.incarnation, m.name, m.hostname, m.roles, m.address, m.transport_kind, m.transport_address));
  EXPECT_EQ(std::tie(got->pid, got->kv_blocks, got->draining), std::tie(m.pid, m.kv_blocks, m.draining));
  const ModelIdentity &a = got->model, &b = m.model;
  EXPECT_EQ(std::tie(a.model_name, a.kv_layout, a.numerics, a.kv_dtype, a.fingerprint, a.block_tokens, a.vocab, a.max_positions, a.block_bytes, a.eos_ids),
            std::tie(b.model_name, b.kv_layout, b.numerics, b.kv_dtype, b.fingerprint, b.block_tokens, b.vocab, b.max_positions, b.block_bytes, b.eos_ids));
  EXPECT_EQ(a.ToString(), b.ToString());
  EXPECT_EQ(a.Root("salt"), b.Root("salt"));
  EXPECT_NE(a.Root("salt"), a.Root(""));
}

TEST(MemberTest, WithoutAModel) {
  MemberInfo m = FullMember();
  m.model = {};
  Wire<wire::Member> wire;
  WriteMember(m, wire.builder());
  const auto got = ReadMember(wire.reader());
  ASSERT_TRUE(got.ok());
  EXPECT_TRUE(got->model.empty());
}

TEST(MemberTest, WhatAPeerMayNotSend) {
  const auto refused = [](const std::function<void(wire::Member::Builder)>& spoil) {
    Wire<wire::Member> wire;
    WriteMember(FullMember(), wire.builder());
    EXPECT_TRUE(ReadMember(wire.reader()).ok());
    spoil(wire.builder());
    return ReadMember(wire.reader()).status().code() == StatusCode::kInvalid;
  };
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.setId(0); }));
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.getInfo().setName(""); }));
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.getInfo().getModel().initFingerprint(31); }));
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.getInfo().getModel().setBlockTokens(0); }));
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.getInfo().getModel().setBlockBytes(0); }));
  EXPECT_TRUE(refused([](wire::Member::Builder m) { m.initInfo(); }));
}

TEST(PeerAddressTest, Parse) {
  EXPECT_EQ(ParsePeerAddress("127.0.0.1:4100")->ToString(), "127.0.0.1:4100");
  EXPECT_EQ(ParsePeerAddress("[::1]:65535")->host, "[::1]");
  for (const char* bad : {"", ":1", "host", "host:", "host:0", "host:65536", "host:99999999999", "host:1x", "host:-1", "host: 1"}) {
    EXPECT_EQ(ParsePeerAddress(bad).status().code(), StatusCode::kInvalid) << bad;
  }
}

TEST(CacheRecordWireTest, RoundTrips) {
  Random random(3);
  for (int i = 0; i < 50; ++i) {
    CacheRecord record{fmt::format("cache_{:032x}", random.Next64()), i % 2 == 0 ? "" : "alice/0123", {}, random.Uniform() * 1e9, i % 3 == 0 ? 0 : random.Uniform() * 1e9};
    for (uint64_t n = random.Below(300); n > 0; --n) record.tokens.push_back(static_cast<TokenId>(random.Below(1 << 20)));
    Wire<wire::CacheRecord> wire;
    WriteCacheRecord(record, wire.builder());
    EXPECT_EQ(ReadCacheRecord(wire.reader()), record);
  }
  Wire<wire::CacheRecord> empty;
  EXPECT_EQ(ReadCacheRecord(empty.reader()), CacheRecord());
}

TEST(CacheRecordWireTest, HeldBlocksRoundTrip) {
  const HeldBlocks blocks{3, 2, 1, uint64_t{1} << 40};
  Wire<wire::HeldBlocks> wire;
  WriteHeldBlocks(blocks, wire.builder());
  EXPECT_EQ(ReadHeldBlocks(wire.reader()), blocks);
}

TEST(RequestWireTest, KeepTravels) {
  for (const bool keep : {false, true}) {
    GenerateRequest request;
    request.id = RequestId(1);
    request.prompt = {1};
    request.keep = keep;
    Wire<wire::GenerateRequest> wire;
    WriteRequest(request, BlockKey(), wire.builder());
    const auto got = ReadRequest(wire.reader());
    ASSERT_TRUE(got.ok()) << got.status().message();
    EXPECT_EQ(got->request.keep, keep);
  }
}

}  // namespace
}  // namespace baton
