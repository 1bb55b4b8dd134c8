// Prefill on one worker, decode on another: the tokens are those of one undisturbed sequence, whatever the prompt's length, what
// either side holds already, and whatever goes wrong on the way; and nothing stays behind.
#include "cluster_support.h"

#include "base/hash.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "worker/layer_pusher.h"

namespace baton {
namespace {

constexpr size_t kBt = 4;  // block_tokens of the fake model

class HandOffTest : public ClusterTest {
 protected:
  ~HandOffTest() noexcept override = default;
  void Make(const NodeOptions& decode = {}, const NodeOptions& prefill = {}) {
    prefill_ = std::make_unique<TestWorker>(cluster_, 1, "prefill", prefill);
    decode_ = std::make_unique<TestWorker>(cluster_, 2, "decode", decode);
  }
  /// From the next connection on; decode makes one.
  void Bent(Bend bend) {
    prefill_->base.node->services.prefill = MakeBentPrefill(KJ_ASSERT_NONNULL(prefill_->prefill), bend);
    decode_->peers->Forget(prefill_->base.self.address, "dial again");
  }
  std::vector<MemberInfo> Remote() const { return {prefill_->base.self}; }
  double Count(const char* name) { return decode_->Count(fmt::format("baton_worker_{}_total", name)); }
  void ExpectBothIdle() {
    ExpectIdle(*decode_);
    ExpectIdle(*prefill_);
  }

  std::unique_ptr<TestWorker> prefill_, decode_;
};

TEST_F(HandOffTest, TheVeryTokensForEveryLength) {
  for (const uint32_t chunk : {256u, 3u}) {
    NodeOptions chunked;
    chunked.prefill_chunk_tokens = chunk;
    Make({}, chunked);
    for (const size_t length : {size_t{1}, kBt - 1, kBt, kBt + 1, 2 * kBt, 3 * kBt, 3 * kBt + 1, 3 * kBt + 5, 10 * kBt}) {
      const GenerateRequest request = Request(length, 100 + length);
      Heard heard;
      const Status status = Generate(*decode_, request, Remote(), &heard);
      const std::string where = fmt::format("{} tokens in chunks of {}", length, chunk);
      ASSERT_TRUE(status.ok()) << where << status.ToString();
      ExpectRight(*decode_, request, heard, where);
      EXPECT_THAT(heard.stats.route, ::testing::HasSubstr("prefill=1"));
      ExpectBothIdle();
    }
    EXPECT_EQ(Count("prefill_remote"), 9);
    EXPECT_EQ(Count("prefill_local") + Count("prefill_fallback") + Count("handoff_corrupt"), 0);
    EXPECT_EQ(decode_->model.tokens, 9u * 5) << "decode computed no prompt: five steps an answer, the first token came with the hand-off";
  }
}

TEST_F(HandOffTest, OneTokenOnly) {
  Make();
  const GenerateRequest request = Request(kBt + 1, 1, 1);
  Heard heard;
  ASSERT_TRUE(Generate(*decode_, request, Remote(), &heard).ok());
  ExpectRight(*decode_, request, heard, "max_tokens 1");
  EXPECT_EQ(decode_->model.tokens, 0u);
  ExpectBothIdle();
}

TEST_F(HandOffTest, DecodeHoldsAPrefix) {
  Make();
  for (const size_t held : {kBt, 2 * kBt, 3 * kBt}) {
    GenerateRequest first = Request(held + 1, held), second = first;  // here, so that decode holds the first blocks
    Heard heard;
    ASSERT_TRUE(Generate(*decode_, first, {}, &heard).ok());
    ExpectRight(*decode_, first, heard, "computed on decode");
    second.prompt = first.prompt;
    for (const TokenId token : TestPrompt(kBt + 2, held + 50)) second.prompt.push_back(token);
    const size_t sent_before = prefill_->model.tokens;
    ASSERT_TRUE(Generate(*decode_, second, Remote(), &heard).ok());
    ExpectRight(*decode_, second, heard, fmt::format("{} tokens held", held));
    EXPECT_EQ(prefill_->model.tokens - sent_before, second.prompt.size()) << "the prefill worker had none of it";
    ExpectBothIdle();
  }
}

TEST_F(HandOffTest, PrefillHoldsAPrefix) {
  Make();
  const GenerateRequest first = Request(3 * kBt, 7);
  Heard heard;
  ASSERT_TRUE(Generate(*prefill_, first, {}, &heard).ok());
  GenerateRequest second = first;
  second.prompt.push_back(1);
  const size_t before = prefill_->model.tokens;
  ASSERT_TRUE(Generate(*decode_, second, Remote(), &heard).ok());
  ExpectRight(*decode_, second, heard, "found on prefill");
  EXPECT_EQ(prefill_->model.tokens - before, 1u);
  EXPECT_EQ(heard.stats.cached_tokens, 3 * kBt);
  ExpectBothIdle();
}

TEST_F(HandOffTest, BothHoldAllFullBlocks) {
  Make();
  const GenerateRequest request = Request(3 * kBt, 9);
  for (int turn = 0; turn < 3; ++turn) {  // the same prompt again: its last token is always computed anew
    Heard heard;
    ASSERT_TRUE(Generate(*decode_, request, Remote(), &heard).ok());
    ExpectRight(*decode_, request, heard, fmt::format("turn {}", turn));
    ExpectBothIdle();
  }
}

TEST_F(HandOffTest, AMovedStreamGoesOn) {
  Make();
  const GenerateRequest whole = Request(2 * kBt + 1, 5, 10);
  const Answer want = PlainAnswer(*decode_->fake, whole);
  for (uint32_t sent = 1; sent < 10; ++sent) {
    GenerateRequest moved = whole;
    moved.prompt.insert(moved.prompt.end(), want.tokens.begin(), want.tokens.begin() + sent);
    moved.generated = sent;
    moved.max_tokens = 10 - sent;
    Heard heard;
    ASSERT_TRUE(Generate(*decode_, moved, Remote(), &heard).ok());
    EXPECT_EQ(heard.AsAnswer().tokens, std::vector<TokenId>(want.tokens.begin() + sent, want.tokens.end())) << sent;
  }
  ExpectBothIdle();
}

TEST_F(HandOffTest, ManyAtOnce) {
  Make();
  std::vector<GenerateRequest> requests;
  std::vector<std::shared_ptr<Heard>> heard;
  std::vector<kj::Promise<Status>> calls;
  for (uint64_t i = 0; i < 12; ++i) {
    requests.push_back(Request(1 + i * 2, 40 + i % 6));  // pairs share a prefix
    heard.push_back(std::make_shared<Heard>());
    calls.push_back(Start(*decode_, requests.back(), i % 3 == 0 ? std::vector<MemberInfo>() : Remote(), heard.back()));
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSERT_TRUE(Wait(kj::mv(calls[i])).ok());
    ExpectRight(*decode_, requests[i], *heard[i], fmt::format("request {}", i));
  }
  ExpectBothIdle();
}

struct BendCase {
  Bend bend;
  const char* name;
  bool corrupt, waits;  // counted as corrupt; ends only with the deadline
};
const BendCase kBends[] = {
    {Bend::kThrows, "throws", false, false},
    {Bend::kThrowsLate, "throws after computing", false, false},
    {Bend::kRefuses, "refuses", false, false},
    {Bend::kCancelled, "is being stopped", false, false},
    {Bend::kSilent, "is silent", false, true},
    {Bend::kLosesBytes, "loses the bytes", false, true},
    {Bend::kWrongDigest, "gives a wrong digest", true, false},
    {Bend::kFewDigests, "gives too few digests", true, false},
    {Bend::kThrowsDigests, "throws instead of digests", false, false},
    {Bend::kSilentDigests, "gives no digests", false, true},
};

TEST_F(HandOffTest, WhateverPrefillDoesTheAnswerIsRight) {
  for (const BendCase& c : kBends) {
    NodeOptions decode;
    if (c.waits) decode.timeout = std::chrono::milliseconds(60);
    Make(decode);
    Bent(c.bend);
    const GenerateRequest request = Request(3 * kBt + 2, 60);
    Heard heard;
    const Status status = Generate(*decode_, request, Remote(), &heard);
    ASSERT_TRUE(status.ok()) << c.name << status.ToString();
    ExpectRight(*decode_, request, heard, c.name);  // also: the first token came once
    EXPECT_EQ(Count("prefill_fallback"), 1) << c.name;
    EXPECT_EQ(Count("prefill_local"), 1) << c.name;
    EXPECT_EQ(Count("handoff_corrupt"), c.corrupt ? 1 : 0) << c.name;
    ExpectBothIdle();
  }
}

TEST_F(HandOffTest, ALostHandOffOfACachedPromptIsComputedHere) {
  NodeOptions decode;
  decode.timeout = std::chrono::milliseconds(60);
  Make(decode);
  const GenerateRequest request = Request(3 * kBt + 1, 70);
  Heard heard;
  ASSERT_TRUE(Generate(*prefill_, request, {}, &heard).ok());  // prefill has it cached and says so
  Bent(Bend::kLosesBytes);
  const Status status = Generate(*decode_, request, Remote(), &heard);
  ASSERT_TRUE(status.ok()) << status.ToString();
  ExpectRight(*decode_, request, heard, "cached over there, lost on the way");
  ExpectBothIdle();
}

TEST_F(HandOffTest, TheNextPrefillWorkerIsTried) {
  Make();
  TestWorker other(cluster_, 3, "other");
  for (const Bend bend : {Bend::kThrows, Bend::kThrowsLate, Bend::kWrongDigest}) {
    Bent(bend);
    const GenerateRequest request = Request(3 * kBt + 2, 80 + static_cast<uint64_t>(bend));
    Heard heard;
    ASSERT_TRUE(Generate(*decode_, request, {prefill_->base.self, other.base.self}, &heard).ok());
    ExpectRight(*decode_, request, heard, "at the second one");
    ExpectIdle(other);
    ExpectBothIdle();
  }
  EXPECT_EQ(Count("prefill_remote"), 3);
  EXPECT_EQ(Count("prefill_local"), 0);
}

TEST_F(HandOffTest, APrefillWorkerThatIsNotThere) {
  Make();
  MemberInfo dead = prefill_->base.self;
  prefill_ = nullptr;
  const GenerateRequest request = Request(2 * kBt, 1);
  Heard heard;
  ASSERT_TRUE(Generate(*decode_, request, {dead}, &heard).ok());
  ExpectRight(*decode_, request, heard, "computed here");
  dead.transport_address = "tcp:127.0.0.1:1";  // not this transport's kind
  ASSERT_TRUE(Generate(*decode_, request, {dead}, &heard).ok());
  ExpectRight(*decode_, request, heard, "computed here");
  ExpectIdle(*decode_);
}

TEST_F(HandOffTest, AWorkerThatRefusesUsIsNotTheClientsFault) {
  Make();
  prefill_->base.node->server = std::make_unique<NodeServer>(prefill_->base.node->services, "another key");
  ASSERT_TRUE(prefill_->base.node->server->Listen(io_.provider->getNetwork(), io_.provider->getTimer(), io_.waitScope, "127.0.0.1").ok());
  MemberInfo stranger = prefill_->base.self;
  stranger.address = prefill_->base.node->address();
  const GenerateRequest request = Request(2 * kBt, 1);
  Heard heard;
  ASSERT_TRUE(Generate(*decode_, request, {stranger}, &heard).ok());
  ExpectRight(*decode_, request, heard, "computed here");
}

TEST_F(HandOffTest, TheTransportDiesAfterTheFirstToken) {
  Make();
  Bent(Bend::kLosesBytes);
  const GenerateRequest request = Request(3 * kBt + 2, 61);
  auto heard = std::make_shared<Heard>();
  heard->on_token = [this, told = false]() mutable {
    if (!std::exchange(told, true)) decode_->base.pump->Disconnect(prefill_->base.self.id);  // the view said that it is gone
  };
  ASSERT_TRUE(Wait(Start(*decode_, request, Remote(), heard)).ok());
  ExpectRight(*decode_, request, *heard, "not waiting for the deadline");
  ExpectBothIdle();
}

TEST_F(HandOffTest, ADeadWorkerThatNeverClosedItsSocket) {
  Make();
  Bent(Bend::kSilent);
  const GenerateRequest request = Request(3 * kBt, 62);
  auto heard = std::make_shared<Heard>();
  auto call = Start(*decode_, request, Remote(), heard);
  ASSERT_TRUE(Until([&] { return decode_->base.open_transfers() == 1; }));
  for (int i = 0; i < 5; ++i) timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
  decode_->peers->Forget(prefill_->base.self.address, "declared dead");
  ASSERT_TRUE(Wait(kj::mv(call)).ok());
  ExpectRight(*decode_, request, *heard, "computed here");
  ExpectBothIdle();
}

TEST_F(HandOffTest, NoRoomForTheLandings) {
  NodeOptions small;
  small.blocks = 6;
  Make(small);
  auto taken = decode_->base.pool->Allocate(4);
  ASSERT_TRUE(taken.ok());
  const GenerateRequest request = Request(3 * kBt, 63, 2);
  auto heard = std::make_shared<Heard>();
  auto call = Start(*decode_, request, Remote(), heard);
  ASSERT_TRUE(Until([&] { return decode_->engine->open_requests() == 1; })) << "it waits in the engine for blocks, computed here";
  for (const BlockId id : *taken) decode_->base.pool->Unref(id);
  ASSERT_TRUE(Wait(kj::mv(call)).ok());
  ExpectRight(*decode_, request, *heard, "when there was room");
  EXPECT_EQ(Count("prefill_fallback"), 1);
  ExpectBothIdle();
}

TEST_F(HandOffTest, WhatCannotBeServedIsSaid) {
  Make();
  Heard heard;
  GenerateRequest request = Request(4);
  request.prompt.clear();
  EXPECT_EQ(Generate(*decode_, request, {}, &heard).code(), StatusCode::kInvalid);
  request = Request(4);
  request.prompt[2] = 50;  // outside the vocabulary
  EXPECT_EQ(Generate(*decode_, request, {}, &heard).code(), StatusCode::kInvalid);
  EXPECT_EQ(Generate(*decode_, request, Remote(), &heard).code(), StatusCode::kInvalid) << "the prefill worker's refusal is final";
  EXPECT_FALSE(heard.end.has_value());
  EXPECT_TRUE(heard.tokens.empty());
  request = Request(4);
  request.id = RequestId();
  EXPECT_EQ(Generate(*decode_, request, {}, &heard).code(), StatusCode::kInvalid);
  ExpectBothIdle();
}

/// The engine counts a request's time from when it gets it; what went by before is not given again.
TEST_F(HandOffTest, ADeadlineThatPassesOnTheWayIsNotStartedAnew) {
  Make();
  for (const auto& prefill : {Remote(), std::vector<MemberInfo>{}}) {
    GenerateRequest request = Request(3 * kBt, 9);
    request.deadline_s = 1e-9;
    Heard heard;
    EXPECT_EQ(Generate(*decode_, request, prefill, &heard).code(), StatusCode::kDeadline);
    ExpectBothIdle();
    request.deadline_s = 1000;
    ASSERT_TRUE(Generate(*decode_, request, prefill, &heard).ok());
    ExpectRight(*decode_, request, heard, "time enough");
  }
  EXPECT_EQ(Count("prefill_fallback"), 0) << "nobody failed";
}

TEST_F(HandOffTest, HostilePrefillCalls) {
  Make();
  using Answer = capnp::Response<wire::Prefill::PrefillResults>;
  for (const uint32_t first : {2u, 3u, 4u, 1000u, ~0u}) {
    auto call = KJ_ASSERT_NONNULL(prefill_->prefill).prefillRequest();
    WriteRequest(Request(2 * kBt), TestRoot(), call.initRequest());
    call.setFirstBlock(first);
    decode_->context->WriteTarget(TransferId(first), call.initTarget());
    const Answer answer = Wait(kj::Promise<Answer>(call.send()));
    EXPECT_EQ(ReadStatus(answer.getStatus()).code(), StatusCode::kInvalid) << first;
  }
  auto nowhere = KJ_ASSERT_NONNULL(prefill_->prefill).prefillRequest();  // no target at all: the answer comes, the bytes go nowhere
  WriteRequest(Request(2 * kBt), TestRoot(), nowhere.initRequest());
  {
    const Answer answer = Wait(kj::Promise<Answer>(nowhere.send()));
    EXPECT_TRUE(ReadStatus(answer.getStatus()).ok());
  }
  ExpectBothIdle();
}

/// At each stage the client goes away, and nobody keeps anything.
class DroppedCallTest : public HandOffTest {
 protected:
  ~DroppedCallTest() noexcept override = default;
  void SetUp() override { Make(); }
  void Drop(const std::function<bool()>& stage, const std::vector<MemberInfo>& prefill, const GenerateRequest& request = Request(5 * kBt, 90, 200)) {
    auto heard = std::make_shared<Heard>();
    {
      heard_ = heard.get();
      auto call = Start(*decode_, request, prefill, heard).eagerlyEvaluate(nullptr);
      ASSERT_TRUE(Until(stage));
    }
    release_ = true;
    EXPECT_TRUE(Until([&] { return heard->gone; })) << "the sink is let go";
    EXPECT_FALSE(heard->end.has_value());
    ExpectBothIdle();
    const GenerateRequest next = Request(5 * kBt + 1, 91);
    Heard answer;
    Bent(Bend::kNone);
    ASSERT_TRUE(Generate(*decode_, next, Remote(), &answer).ok());
    ExpectRight(*decode_, next, answer, "the next one");
    ExpectBothIdle();
  }
  /// Makes a worker's engine stand still until release_.
  void Hold(TestWorker& worker) {
    worker.model.before = [this] {
      inside_ = true;
      while (!release_) std::this_thread::yield();
    };
  }

  Heard* heard_ = nullptr;
  std::atomic<bool> inside_{false}, release_{false};
};

TEST_F(DroppedCallTest, AtOnce) {
  Drop([] { return true; }, Remote());
}

TEST_F(DroppedCallTest, WhilePrefillIsSilent) {
  Bent(Bend::kSilent);
  Drop([this] { return decode_->base.open_transfers() == 1; }, Remote());
}

TEST_F(DroppedCallTest, WhilePrefillComputes) {
  Hold(*prefill_);
  Drop([this] { return inside_.load(); }, Remote());
}

/// The prefill worker hears it although its engine is in the middle of a step: nothing of the caller's may keep the call going.
TEST_F(DroppedCallTest, ThePrefillWorkerHearsOfItWhileItComputes) {
  Hold(*prefill_);
  auto heard = std::make_shared<Heard>();
  auto call = Start(*decode_, Request(5 * kBt + 1, 92), Remote(), heard);
  EXPECT_TRUE(Until([this] { return inside_.load(); }));
  { auto dropped = kj::mv(call); }
  EXPECT_TRUE(Until([this] { return prefill_->context->open_calls == 0; })) << "before its engine goes on";
  release_ = true;
  ExpectBothIdle();
}

TEST_F(DroppedCallTest, BetweenFirstTokenAndBytes) {
  Bent(Bend::kLosesBytes);
  Drop([this] { return heard_->tokens.size() == 1; }, Remote());
}

TEST_F(DroppedCallTest, WhileDigestsAreWaitedFor) {
  Bent(Bend::kSilentDigests);
  Drop([this] { return heard_->tokens.size() == 1; }, Remote());
}

TEST_F(DroppedCallTest, WhileDecodeComputesThePrompt) {
  Hold(*decode_);
  Drop([this] { return inside_.load(); }, {});
}

TEST_F(DroppedCallTest, InTheMiddleOfTheAnswer) {
  decode_->model.before = [this, steps = 0]() mutable {
    if (++steps < 5) return;
    while (!release_) std::this_thread::yield();
  };
  Drop([this] { return heard_->tokens.size() == 5; }, Remote());
}

/// Counts pushes; every segment once.
TEST_F(HandOffTest, ThePusherPushesEachLayerOfEachBlockOnceAndNothingOnceStopped) {
  Make();
  const KvLayout layout = SmallLayout();
  const auto blocks = std::move(prefill_->base.pool->Allocate(4)).value();
  const auto landing_ids = std::move(decode_->base.pool->Allocate(3)).value();
  for (const BlockId id : blocks) std::memset(prefill_->base.pool->data(id), static_cast<int>(id.value + 1), layout.BlockBytes());
  std::vector<Landing> landings;
  for (const BlockId id : landing_ids) {
    for (uint32_t l = 0; l < layout.layers; ++l) landings.push_back({decode_->base.pool->data(id) + l * layout.LayerBytes(), layout.LayerBytes()});
  }
  std::atomic<int> landed{0}, sent{0};
  const TransferId id(77);
  decode_->base.pump->Expect(id, {prefill_->base.self.id, prefill_->base.self.transport_address}, landings, cluster_.clock.Now() + std::chrono::seconds(20),
                             [&](const Status& status) { landed = status.ok() ? 1 : -1; });
  LayerPusher pusher(*prefill_->base.pump, *prefill_->base.pool, layout, {id, {decode_->base.self.id, decode_->base.self.transport_address}, 1, 14});
  // Block 0 is over there, 1 was found here, 2 and the tail of 3 are computed in two chunks.
  for (const auto& [begin, end] : std::vector<std::pair<uint32_t, uint32_t>>{{8, 11}, {11, 14}}) {
    for (uint32_t layer = 0; layer < layout.layers; ++layer) pusher.OnLayer(layer, begin, end, blocks);
  }
  ASSERT_TRUE(Until([&] { return landed != 0; }));
  EXPECT_EQ(landed, 1);
  EXPECT_EQ(pusher.blocks(), std::vector<BlockId>(blocks.begin() + 1, blocks.end()));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Xxh3({decode_->base.pool->data(landing_ids[i]), layout.BlockBytes()}), Xxh3({prefill_->base.pool->data(blocks[i + 1]), layout.BlockBytes()}));
  }
  prefill_->base.pump->CloseSend(id, [&](const Status& status) { sent = status.ok() ? 1 : -1; });
  ASSERT_TRUE(Until([&] { return sent != 0; }));
  EXPECT_EQ(sent, 1) << "nothing was pushed twice";
  pusher.Stop();
  pusher.OnLayer(0, 11, 14, blocks);
  sent = 0;
  prefill_->base.pump->CloseSend(id, [&](const Status& status) { sent = status.ok() ? 1 : -1; });
  ASSERT_TRUE(Until([&] { return sent != 0; }));
  EXPECT_EQ(sent, 1) << "a stopped pusher begins no transfer again";
  for (const BlockId block : blocks) prefill_->base.pool->Unref(block);
  for (const BlockId block : landing_ids) decode_->base.pool->Unref(block);
}

}  // namespace
}  // namespace baton
