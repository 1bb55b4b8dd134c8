// Answers under a grammar: what they look like, and that no bit of them depends on how they were computed.
#include <nlohmann/json.hpp>

#include "model/grammar/grammar_text.h"
#include "model/tokenizer.h"
#include "tests/unit/worker/engine_support.h"
#include "worker/constraint.h"
#include "worker/grammars.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

const std::string kCheckpoint = std::string(BATON_SHARED_DIR) + "/golden/checkpoints/tiny-llama-tied-f32";

/// The fake model over a real tokenizer's vocabulary.
class WordyModel final : public Model {
 public:
  explicit WordyModel(const Tokenizer& tokenizer) : inner_(SmallModel(tokenizer.vocab_size())), info_(inner_->info()) {
    info_.tokenizer_path = kCheckpoint;
    info_.eos_ids = {tokenizer.eos_id()};
  }
  const ModelInfo& info() const override { return info_; }
  const KvLayout& kv_layout() const override { return inner_->kv_layout(); }
  Numerics numerics() const override { return inner_->numerics(); }
  Status Forward(std::span<const SequenceSlice> batch, const LayerObserver& on_layer) override { return inner_->Forward(batch, on_layer); }

 private:
  const std::unique_ptr<Model> inner_;
  ModelInfo info_;
};

std::string SchemaGbnf() {
  const auto gbnf = JsonSchemaToGbnf(Json::parse(R"({"properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "tags": {"items": {"enum": ["red", "green"]}, "maxItems": 3}}, "required": ["name", "age", "tags"]})"));
  EXPECT_TRUE(gbnf.ok());
  return *gbnf;
}

class GrammarAnswers : public testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::Load(kCheckpoint);
    if (!tokenizer.ok()) GTEST_SKIP() << "no reference data: " << tokenizer.status().message();
    tokenizer_ = *tokenizer;
    model_ = std::make_unique<WordyModel>(*tokenizer_);
  }
  EngineRequest Request(uint64_t id, std::string gbnf, SamplingParams sampling = GreedyParams(), uint32_t max_tokens = 200) {
    sampling.grammar = std::move(gbnf);
    return MakeRequest(id, TestPrompt(9, id), max_tokens, sampling);
  }
  std::string Text(const Answer& answer) const { return tokenizer_->Decode(answer.tokens, true); }
  Answer Run(EngineRequest request, BenchOptions options = {}) {
    EngineBench bench(*model_, options);
    const uint64_t id = request.request.id.value;
    const Status status = bench.Submit(std::move(request));
    EXPECT_TRUE(status.ok()) << status.ToString();
    bench.Drain();
    return bench.Get(id);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<WordyModel> model_;
};

TEST_F(GrammarAnswers, FollowTheSchemaAndEndByThemselves) {
  for (uint64_t id = 1; id <= 12; ++id) {
    const Answer answer = Run(Request(id, SchemaGbnf(), id % 2 ? GreedyParams() : SeededParams(id)));
    EXPECT_EQ(answer.reason, FinishReason::kStop) << answer.status.ToString();
    const Json json = Json::parse(Text(answer), nullptr, false);
    ASSERT_TRUE(json.is_object()) << Text(answer);
    EXPECT_TRUE(json["name"].is_string());
    EXPECT_LE(json["age"].get<int>(), 150);
    EXPECT_TRUE(json["tags"].is_array());
  }
}

TEST_F(GrammarAnswers, SameBitsAloneInABatchInChunksAndWithoutRoom) {
  std::map<uint64_t, Answer> alone;
  const auto request = [&](uint64_t id) {
    return Request(id, id % 3 == 0 ? "" : id % 3 == 1 ? SchemaGbnf() : JsonObjectGbnf(), id % 2 ? GreedyParams() : SeededParams(id), 40);
  };
  for (uint64_t id = 1; id <= 9; ++id) alone[id] = Run(request(id));
  BenchOptions tight;
  tight.blocks = 26;  // not for all at once: some are preempted
  tight.config.prefill_chunk_tokens = 3;
  tight.config.step_token_budget = 7;
  for (const BenchOptions& options : {BenchOptions{.blocks = 200}, tight}) {
    EngineBench bench(*model_, options);
    for (uint64_t id = 1; id <= 9; ++id) ASSERT_TRUE(bench.Submit(request(id)).ok());
    bench.Drain();
    for (uint64_t id = 1; id <= 9; ++id) ExpectSameAnswer(bench.Get(id), alone[id], fmt::format("request {}", id));
  }
}

TEST_F(GrammarAnswers, AMovedAnswerGoesOnWithTheSameTokens) {
  for (const SamplingParams& sampling : {GreedyParams(), SeededParams(4)}) {
    const Answer whole = Run(Request(5, SchemaGbnf(), sampling));
    for (uint32_t cut = 1; cut < whole.tokens.size(); cut += 3) {
      EngineRequest rest = Request(5, SchemaGbnf(), sampling, 200 - cut);
      rest.request.prompt.insert(rest.request.prompt.end(), whole.tokens.begin(), whole.tokens.begin() + cut);
      rest.request.generated = cut;
      EXPECT_EQ(Run(std::move(rest)).tokens, std::vector<TokenId>(whole.tokens.begin() + cut, whole.tokens.end())) << "moved after " << cut;
    }
  }
}

TEST_F(GrammarAnswers, ThePrefillWorkersTokenFollowsTheGrammarToo) {
  const Answer whole = Run(Request(7, SchemaGbnf()));
  EngineRequest prefill = Request(7, SchemaGbnf());
  prefill.prefill_only = true;
  const Answer first = Run(std::move(prefill));
  EXPECT_EQ(first.tokens, std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + 1));
  // A whole answer of one token: the decode worker has nothing left to do.
  const std::string one = R"(root ::= [0-9])";
  const Answer digit = Run(Request(8, one));
  ASSERT_EQ(digit.tokens.size(), 1u);
  prefill = Request(8, one);
  prefill.prefill_only = true;
  EXPECT_EQ(Run(std::move(prefill)).reason, FinishReason::kNone) << "the decode worker ends it";
}

TEST_F(GrammarAnswers, ChoicesEndWithoutAnEndToken) {
  const auto gbnf = ChoicesToGbnf({"yes", "no", "maybe"});
  for (uint64_t id = 1; id <= 6; ++id) {
    const Answer answer = Run(Request(id, *gbnf, SeededParams(id)));
    EXPECT_THAT((std::vector<std::string>{"yes", "no", "maybe"}), testing::Contains(Text(answer)));
    EXPECT_EQ(answer.reason, FinishReason::kStop);
  }
}

TEST_F(GrammarAnswers, AnEndTokenIsAllowedOnlyWhereTheTextMayEnd) {
  SamplingParams eager = GreedyParams();
  eager.logit_bias[model_->info().eos_ids[0]] = 100;
  EXPECT_EQ(Text(Run(Request(1, R"(root ::= "Q#" "~"*)", eager))), "Q#");
  EngineRequest never = Request(2, R"(root ::= "Q#" "~"{0,5})", eager);
  never.request.ignore_eos = true;
  const std::string text = Text(Run(std::move(never)));
  EXPECT_EQ(text, "Q#~~~~~");
}

TEST_F(GrammarAnswers, MinTokensHoldsTheEndBack) {
  SamplingParams eager = GreedyParams();
  eager.logit_bias[model_->info().eos_ids[0]] = 100;
  EXPECT_EQ(Run(Request(1, "", eager)).tokens.size(), 1u);
  eager.min_tokens = 6;
  const Answer longer = Run(Request(1, "", eager));
  EXPECT_EQ(longer.tokens.size(), 7u);
  EXPECT_EQ(longer.tokens.back(), model_->info().eos_ids[0]);
  EngineRequest moved = Request(1, "", eager);
  moved.request.prompt.insert(moved.request.prompt.end(), longer.tokens.begin(), longer.tokens.begin() + 4);
  moved.request.generated = 4;
  EXPECT_EQ(Run(std::move(moved)).tokens, std::vector<TokenId>(longer.tokens.begin() + 4, longer.tokens.end()));
}

TEST_F(GrammarAnswers, LogprobsAreTheModelsOwn) {
  const Answer free = Run(Request(3, "", GreedyParams(), 1));
  const Answer bound = Run(Request(3, R"(root ::= "a")", GreedyParams(), 1));
  ASSERT_NE(free.tokens, bound.tokens);
  EXPECT_LT(bound.events[0].logprob, free.events[0].logprob);
  EXPECT_EQ(bound.events[0].top[0].token, free.tokens[0]);
}

TEST_F(GrammarAnswers, WhatCannotBeFollowedIsAnError) {
  EngineBench bench(*model_);
  EXPECT_THAT(bench.Submit(Request(1, "root ::= x")).message(), testing::HasSubstr("not defined"));
  // Twice the stacks with each letter.
  ASSERT_TRUE(bench.Submit(Request(2, "root ::= a \"end\"\na ::= \"a\" a \"b\" | \"a\" a \"c\" | \"a\"")).ok());
  ASSERT_TRUE(bench.Submit(Request(3, R"(root ::= "ok")")).ok());
  bench.Drain();
  EXPECT_EQ(Text(bench.Get(3)), "ok") << "others are not touched";
  EXPECT_NE(bench.Get(2).reason, FinishReason::kNone);
  const auto plain = SmallModel();
  EngineBench without(*plain);
  SamplingParams sampling = GreedyParams();
  sampling.grammar = "root ::= \"a\"";
  EXPECT_THAT(without.Submit(MakeRequest(1, TestPrompt(4, 1), 5, sampling)).message(), testing::HasSubstr("no tokenizer"));
}

TEST_F(GrammarAnswers, GrammarsAreReadOnce) {
  Grammars grammars(kCheckpoint, model_->info().vocab);
  const auto first = grammars.Get("root ::= \"a\"");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*grammars.Get("root ::= \"a\""), *first);
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(grammars.Get(fmt::format("root ::= \"{}\"", i)).ok());
  EXPECT_NE(*grammars.Get("root ::= \"a\""), *first) << "forgotten after many others";
}

TEST(SamplerLimits, MaskAndEnds) {
  Sampler sampler(5);
  const std::vector<float> logits{1, 5, 4, 3, 2};
  SamplingParams greedy;
  greedy.temperature = 0;
  TokenMask mask{{0b11001}, 3};  // 0, 3, 4
  const std::vector<TokenId> ends{1, 99}, history{0};
  const auto pick = [&](TokenLimits limits) { return sampler.Sample(logits, greedy, {history, 0}, limits)->token; };
  EXPECT_EQ(pick({}), 1);
  EXPECT_EQ(pick({.ends = ends, .may_end = false}), 2);
  EXPECT_EQ(pick({.allowed = &mask, .ends = ends, .may_end = false}), 3);
  EXPECT_EQ(pick({.allowed = &mask, .ends = ends, .may_end = true}), 1);
  EXPECT_EQ(pick({.allowed = &mask}), 3);
  TokenMask none{{0}, 0};
  EXPECT_EQ(sampler.Sample(logits, greedy, {history, 0}, {.allowed = &none, .may_end = false}).status().code(), StatusCode::kInvalid);
  SamplingParams drawn;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    drawn.seed = seed;
    EXPECT_TRUE(mask.Has(sampler.Sample(logits, drawn, {history, 0}, {.allowed = &mask, .may_end = false})->token));
  }
}

}  // namespace
}  // namespace baton
