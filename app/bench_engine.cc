// `baton bench engine`: medians of prefill and decode speed on a model, and the process's peak memory.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/model_flags.h"
#include "base/clock.h"
#include "model/model.h"

namespace baton {
namespace {

struct BenchEngineCommand {
  LoadOptions model;
  uint32_t prompt_tokens = 512, generate_tokens = 64, batch = 1, repeats = 3;
  bool json = false;
};

struct Sequences {
  std::vector<std::vector<std::byte>> memory;      // one per sequence
  std::vector<std::vector<std::byte*>> blocks;
  std::vector<std::vector<TokenId>> prompts;
  std::vector<float> logits;                       // [batch][vocab]
};

Sequences MakeSequences(const Model& model, const BenchEngineCommand& c) {
  Sequences s;
  const KvLayout& layout = model.kv_layout();
  const size_t count = CeilDiv(uint64_t{c.prompt_tokens} + c.generate_tokens, layout.block_tokens);
  s.memory.resize(c.batch);
  s.blocks.resize(c.batch);
  s.prompts.resize(c.batch);
  s.logits.resize(size_t{c.batch} * model.info().vocab);
  for (uint32_t b = 0; b < c.batch; ++b) {
    s.memory[b].resize(count * layout.BlockBytes());
    for (size_t i = 0; i < count; ++i) s.blocks[b].push_back(s.memory[b].data() + i * layout.BlockBytes());
    for (uint32_t i = 0; i < c.prompt_tokens; ++i) s.prompts[b].push_back(static_cast<TokenId>((uint64_t{i} * 7919 + b * 104729 + 1) % model.info().vocab));
  }
  return s;
}

/// Seconds of the prompts and of the greedy answers after them.
Result<std::pair<double, double>> RunOnce(Model& model, const BenchEngineCommand& c, Sequences& s) {
  const SystemClock clock;
  const size_t vocab = model.info().vocab;
  std::vector<SequenceSlice> batch(c.batch);
  for (uint32_t b = 0; b < c.batch; ++b) batch[b] = {s.prompts[b], 0, s.blocks[b], 1, &s.logits[b * vocab]};
  const Instant begin = clock.Now();
  RETURN_IF_ERROR(model.Forward(batch));
  const Instant middle = clock.Now();
  std::vector<TokenId> next(c.batch);
  for (uint32_t step = 0; step < c.generate_tokens; ++step) {
    for (uint32_t b = 0; b < c.batch; ++b) {
      const float* row = &s.logits[b * vocab];
      next[b] = static_cast<TokenId>(std::max_element(row, row + vocab) - row);
      batch[b] = {std::span(&next[b], 1), c.prompt_tokens + step, s.blocks[b], 1, &s.logits[b * vocab]};
    }
    RETURN_IF_ERROR(model.Forward(batch));
  }
  return std::pair<double, double>(ToSeconds(middle - begin), ToSeconds(clock.Now() - middle));
}

int RunBenchEngine(const BenchEngineCommand& c) {
  auto model = LoadModel(c.model);
  if (!model.ok()) return Fail(model.status());
  Sequences sequences = MakeSequences(**model, c);
  std::vector<double> prefill, decode;
  for (uint32_t run = 0; run < c.repeats; ++run) {
    auto seconds = RunOnce(**model, c, sequences);
    if (!seconds.ok()) return Fail(seconds.status());
    prefill.push_back(static_cast<double>(c.prompt_tokens) * c.batch / seconds->first);
    decode.push_back(static_cast<double>(c.generate_tokens) * c.batch / seconds->second);
  }
  const auto median = [](std::vector<double>& v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const nlohmann::ordered_json result = {{"prefill_tokens_per_s", median(prefill)}, {"decode_tokens_per_s", median(decode)},
                                         {"peak_rss_bytes", static_cast<uint64_t>(usage.ru_maxrss) * 1024}};
  if (c.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [name, value] : result.items()) std::printf("%-22s %.1f\n", name.c_str(), value.get<double>());
  }
  return 0;
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchEngineCommand>();
  BenchEngineCommand& c = *command;
  CLI::App* app = bench.add_subcommand("engine", "speed of prompts and answers, and peak memory");
  AddModelFlags(*app, c.model);
  app->add_option("--prompt-tokens", c.prompt_tokens, "tokens of each prompt")->check(CLI::Range(1, 1000000));
  app->add_option("--generate-tokens", c.generate_tokens, "tokens of each answer")->check(CLI::Range(1, 1000000));
  app->add_option("--batch", c.batch, "sequences at once")->check(CLI::Range(1, 1024));
  app->add_option("--repeats", c.repeats, "runs; medians are printed")->check(CLI::Range(1, 1000));
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchEngine(*command); });
}

}  // namespace baton
