// A hand-off that breaks after any layer of any chunk, on either side and in each way: the client reads the very tokens of an
// undisturbed run, each once, and both workers are idle again and serve the next request.
#include "cluster_support.h"

namespace baton {
namespace {

constexpr size_t kBt = 4;           // block_tokens of the fake model
constexpr uint32_t kChunk = 5;      // so that chunks end inside blocks
constexpr size_t kPrompt = 4 * kBt + 3;

enum class Fault : uint8_t {
  kPrefillForgetsDecode,  // its transport gives the peer up
  kDecodeForgetsPrefill,  // the receiving one does
  kBothForget,
  kPrefillsPassFails,     // the model's next pass ends with an error
};
const char* NameOf(Fault fault) {
  switch (fault) {
    case Fault::kPrefillForgetsDecode: return "PrefillForgetsDecode";
    case Fault::kDecodeForgetsPrefill: return "DecodeForgetsPrefill";
    case Fault::kBothForget: return "BothForget";
    case Fault::kPrefillsPassFails: return "PrefillsPassFails";
  }
  return "?";
}

class HandOffFaults : public ClusterTest, public ::testing::WithParamInterface<Fault> {
 protected:
  ~HandOffFaults() noexcept override = default;

  void Make() {
    decode_ = nullptr;
    prefill_ = nullptr;
    NodeOptions options;
    options.prefill_chunk_tokens = kChunk;
    options.timeout = std::chrono::milliseconds(150);  // for what nobody tells: bytes that are simply lost
    prefill_ = std::make_unique<TestWorker>(cluster_, 1, "prefill", options);
    decode_ = std::make_unique<TestWorker>(cluster_, 2, "decode", options);
  }
  /// On the engine's thread of the prefill worker, once.
  void Strike(Fault fault) {
    const WorkerId prefill = prefill_->base.self.id, decode = decode_->base.self.id;
    if (fault == Fault::kPrefillForgetsDecode || fault == Fault::kBothForget) prefill_->base.pump->Disconnect(decode);
    if (fault == Fault::kDecodeForgetsPrefill || fault == Fault::kBothForget) decode_->base.pump->Disconnect(prefill);
    if (fault == Fault::kPrefillsPassFails) fail_ = true;
    struck_ = true;
  }
  std::unique_ptr<TestWorker> prefill_, decode_;
  std::atomic<bool> struck_{false}, fail_{false};
};

TEST_P(HandOffFaults, AfterEveryLayerOfEveryChunk) {
  size_t events = 0;  // layers of chunks that a whole hand-off has
  {
    Make();
    prefill_->model.after_layer = [&](uint32_t) { ++events; };
    const GenerateRequest request = Request(kPrompt, 11);
    Heard heard;
    ASSERT_TRUE(Generate(*decode_, request, {prefill_->base.self}, &heard).ok());
    ExpectRight(*decode_, request, heard, "undisturbed");
    ExpectIdle(*prefill_);
  }
  const size_t chunks = (kPrompt + kChunk - 1) / kChunk;
  ASSERT_GE(events, 2 * chunks) << "two layers a chunk";
  for (size_t at = 0; at < events; ++at) {
    SCOPED_TRACE(fmt::format("after layer event {} of {}", at, events));
    Make();
    struck_ = fail_ = false;
    size_t seen = 0;
    prefill_->model.after_layer = [&](uint32_t) {
      if (seen++ == at) Strike(GetParam());
    };
    prefill_->model.fail = [this](std::span<const SequenceSlice>) { return fail_.exchange(false) ? InternalError("the pass failed") : OkStatus(); };
    const GenerateRequest request = Request(kPrompt, 20 + at);
    Heard heard;
    const Status status = Generate(*decode_, request, {prefill_->base.self}, &heard);
    ASSERT_TRUE(status.ok()) << status.ToString();
    EXPECT_TRUE(struck_);
    ExpectRight(*decode_, request, heard, "whatever broke");
    ExpectIdle(*decode_);
    ExpectIdle(*prefill_);
    prefill_->model.after_layer = {};
    fail_ = false;
    const GenerateRequest next = Request(kPrompt + 2, 60 + at);
    Heard after;
    ASSERT_TRUE(Generate(*decode_, next, {prefill_->base.self}, &after).ok());
    ExpectRight(*decode_, next, after, "the next request");
    ExpectIdle(*decode_);
    ExpectIdle(*prefill_);
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, HandOffFaults,
                         ::testing::Values(Fault::kPrefillForgetsDecode, Fault::kDecodeForgetsPrefill, Fault::kBothForget, Fault::kPrefillsPassFails),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

/// A client that leaves while layer by layer is pushed: after each of them.
TEST_F(ClusterTest, AClientThatLeavesAfterAnyLayerOfTheHandOff) {
  NodeOptions options;
  options.prefill_chunk_tokens = kChunk;
  TestWorker prefill(cluster_, 1, "prefill", options), decode(cluster_, 2, "decode", options);
  for (size_t at = 0; at < 8; ++at) {
    SCOPED_TRACE(at);
    std::atomic<size_t> seen{0};
    std::atomic<bool> inside{false}, go{false};
    prefill.model.after_layer = [&](uint32_t) {
      if (seen++ != at) return;
      inside = true;
      while (!go) std::this_thread::yield();
    };
    auto heard = std::make_shared<Heard>();
    {
      auto call = Start(decode, Request(kPrompt, 200 + at, 50), {prefill.base.self}, heard).eagerlyEvaluate(nullptr);
      ASSERT_TRUE(Until([&] { return inside.load(); }));
    }
    go = true;
    EXPECT_TRUE(Until([&] { return heard->gone; }));
    ExpectIdle(decode);
    ExpectIdle(prefill);
    prefill.model.after_layer = {};
  }
  const GenerateRequest next = Request(kPrompt, 300);
  Heard answer;
  ASSERT_TRUE(Generate(decode, next, {prefill.base.self}, &answer).ok());
  ExpectRight(decode, next, answer, "the next one");
}

}  // namespace
}  // namespace baton
