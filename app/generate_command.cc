// `baton generate`: one answer in this process, by the very engine that serves.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/cli.h"
#include "app/model_flags.h"
#include "app/prompt_input.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/random.h"
#include "kvstore/file_layer.h"
#include "gateway/json_text.h"
#include "gateway/stop_matcher.h"
#include "model/detokenizer.h"
#include "model/grammar/grammar_text.h"
#include "worker/engine.h"

namespace baton {
namespace {

struct GenerateCommand {
  LoadOptions model;
  PromptInput prompt;
  GenerateRequest request;
  std::vector<std::string> stop;
  std::string json_schema, grammar_file;
  bool seed_given = false, json = false;
  uint32_t speculative_tokens = EngineConfig().speculative_tokens;
};

/// Collects the one answer: tokens to text, and the first stop string in it.
class AnswerText final : public EngineListener {
 public:
  AnswerText(std::shared_ptr<const Tokenizer> tokenizer, const std::vector<std::string>& stop, bool print)
      : decoder_(std::move(tokenizer), true), matcher_(stop), print_(print) {}
  void OnToken(RequestId, const TokenEvent& event) override {
    if (stopped()) return;
    events.push_back(event);
    Add(decoder_.Push(event.token));
  }
  void OnEnd(RequestId, FinishReason why, const RequestStats& final_stats, const Status& final_status) override {
    if (!stopped()) Add(decoder_.Finish());
    if (!stopped()) Show(matcher_.Finish());
    reason = stopped() ? FinishReason::kStop : why;
    stats = final_stats;
    if (!stopped()) status = final_status;
  }
  void OnSealed(RequestId, SealedBlock) override {}  // the request does not use the pool
  void OnLayer(RequestId, uint32_t, uint32_t, uint32_t, const std::vector<BlockId>&) override {}

  bool stopped() const { return matcher_.matched(); }
  std::vector<TokenEvent> events;
  std::string text;
  FinishReason reason = FinishReason::kNone;
  RequestStats stats;
  Status status;

 private:
  void Add(const std::string& piece) { Show(matcher_.Push(piece)); }
  void Show(const std::string& certain) {
    text += certain;
    if (!print_) return;
    std::fwrite(certain.data(), 1, certain.size(), stdout);
    std::fflush(stdout);
  }

  StreamDecoder decoder_;
  StopMatcher matcher_;
  const bool print_;
};

Status RunEngine(const GenerateRequest& request, uint32_t speculative_tokens, Model& model, AnswerText& answer) {
  const KvLayout& layout = model.kv_layout();
  const uint64_t longest = std::min<uint64_t>(uint64_t{request.prompt.size()} + request.max_tokens, model.info().max_positions);
  ASSIGN_OR_RETURN(const auto pool, BlockPool::Create(CeilDiv(longest, layout.block_tokens), layout.BlockBytes()));
  const SystemClock clock;
  const EngineConfig config{.target_step_s = 0, .speculative_tokens = speculative_tokens};  // nobody else waits
  const auto engine = Engine::Create(config, model, *pool, answer, clock);
  EngineRequest one;
  one.request = request;
  one.use_pool = false;
  RETURN_IF_ERROR(engine->Submit(std::move(one)));
  while (engine->Step()) {
    if (answer.stopped()) engine->Cancel(request.id);
  }
  return answer.status;
}

void PrintJson(const GenerateRequest& request, const AnswerText& answer) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array(), logprobs = nlohmann::ordered_json::array();
  for (const TokenEvent& event : answer.events) {
    tokens.push_back(event.token);
    logprobs.push_back(event.logprob);
  }
  const nlohmann::ordered_json result = {
      {"prompt_tokens", request.prompt},
      {"tokens", tokens},
      {"logprobs", logprobs},
      {"text", answer.text},
      {"finish_reason", answer.reason == FinishReason::kLength ? "length" : "stop"},
      {"seed", request.sampling.seed},
      {"timings", {{"prefill_ms", answer.stats.prefill_s * 1e3}, {"decode_ms", answer.stats.decode_s * 1e3}}}};
  std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

/// The grammar that --json-schema or --grammar asks for; empty: any text.
Result<std::string> ReadGrammar(const GenerateCommand& c) {
  if (!c.grammar_file.empty()) return ReadTextFile(c.grammar_file);
  if (c.json_schema.empty()) return std::string();
  std::string text = c.json_schema;
  if (!text.starts_with('{')) {
    ASSIGN_OR_RETURN(text, ReadTextFile(text));
  }
  const auto schema = ParseJson(text);
  if (!schema.ok()) return schema.status().WithContext("--json-schema");
  return JsonSchemaToGbnf(*schema);
}

Status Generate(GenerateCommand c) {
  for (const std::string& s : c.stop) {
    if (s.empty()) return InvalidError("--stop is empty; give the text that ends the answer");
  }
  LazyTokenizer lazy(c.model.path);
  ASSIGN_OR_RETURN(const auto tokenizer, lazy.Get());
  ASSIGN_OR_RETURN(c.request.prompt, ReadPrompt(c.prompt, lazy));
  ASSIGN_OR_RETURN(c.request.sampling.grammar, ReadGrammar(c));
  ASSIGN_OR_RETURN(const auto model, LoadModel(c.model));
  c.request.id = RequestId(1);
  if (!c.seed_given) c.request.sampling.seed = EntropySeed();
  c.request.sampling.logprobs = c.json ? 0 : -1;
  AnswerText answer(tokenizer, c.stop, !c.json);
  RETURN_IF_ERROR(RunEngine(c.request, c.speculative_tokens, *model, answer));
  if (c.json) {
    PrintJson(c.request, answer);
    return OkStatus();
  }
  std::printf("\n");
  std::fprintf(stderr, "%zu prompt tokens in %.0f ms, %zu tokens in %.0f ms\n", c.request.prompt.size(), answer.stats.prefill_s * 1e3,
               answer.events.size(), answer.stats.decode_s * 1e3);
  return OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<GenerateCommand>();
  GenerateCommand& c = *command;
  SamplingParams& s = c.request.sampling;
  s.temperature = 0;
  c.request.max_tokens = 128;
  CLI::App* app = program.add_subcommand("generate", "one answer, without a cluster");
  AddModelFlags(*app, c.model);
  CLI::Option_group* prompt = app->add_option_group("prompt", "what to answer; one of");
  prompt->add_option("--prompt", c.prompt.text, "text; special tokens in it are recognised");
  prompt->add_option("--messages", c.prompt.messages_file, "JSON file: a list of chat messages, or a request with `messages`");
  prompt->add_option("--tokens", c.prompt.tokens_file, "JSON file: a list of token ids, or a request with `messages`");
  prompt->require_option(1);
  app->add_option("--max-tokens", c.request.max_tokens, "longest answer")->capture_default_str();
  app->add_option("--temperature", s.temperature, "0: always the most probable token")->capture_default_str();
  CLI::Option* seed = app->add_option("--seed", s.seed, "of the draws; default: a new one each time");
  app->add_option("--top-k", s.top_k, "draw among the k most probable; 0: off")->capture_default_str();
  app->add_option("--top-p", s.top_p, "draw among the most probable that hold this mass")->capture_default_str();
  app->add_option("--min-p", s.min_p, "drop what is less probable than this times the best")->capture_default_str();
  app->add_option("--repetition-penalty", s.repetition_penalty, "above 1: tokens seen before become less probable")->capture_default_str();
  app->add_option("--stop", c.stop, "text that ends the answer and is not part of it; may be repeated");
  app->add_option("--speculative-tokens", c.speculative_tokens, "most tokens guessed ahead and checked where that pays; no answer changes; 0: off")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app->add_option("--json-schema", c.json_schema, "the answer is JSON of this schema: its text, or a file");
  app->add_option("--grammar", c.grammar_file, "the answer follows the GBNF grammar in this file")->excludes("--json-schema");
  app->add_flag("--ignore-eos", c.request.ignore_eos, "go on after the model's end-of-sequence token");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, seed, &context] {
    command->seed_given = seed->count() > 0;
    const Status status = Generate(std::move(*command));
    if (!status.ok()) context.exit_code = Fail(status);
  });
}

}  // namespace baton
