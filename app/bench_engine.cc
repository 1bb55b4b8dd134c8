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
  int64_t context = -1;  // position of the answers' first token; negative: behind the prompt
  bool json = false;
  uint32_t start() const { return context < 0 ? prompt_tokens : static_cast<uint32_t>(context); }
  uint32_t filled() const { return std::max(prompt_tokens, start()); }
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
  const size_t count = CeilDiv(uint64_t{c.filled()} + c.generate_tokens, layout.block_tokens);
  s.memory.resize(c.batch);
  s.blocks.resize(c.batch);
  s.prompts.resize(c.batch);
  s.logits.resize(size_t{c.batch} * model.info().vocab);
  for (uint32_t b = 0; b < c.batch; ++b) {
    s.memory[b].resize(count * layout.BlockBytes());
    for (size_t i = 0; i < count; ++i) s.blocks[b].push_back(s.memory[b].data() + i * layout.BlockBytes());
    for (uint32_t i = 0; i < c.filled(); ++i) s.prompts[b].push_back(static_cast<TokenId>((uint64_t{i} * 7919 + b * 104729 + 1) % model.info().vocab));
  }
  return s;
}

/// Wall and CPU time of one thing measured.
struct Spent {
  double wall_s = 0, cpu_s = 0;
};

class Stopwatch {
 public:
  Spent Read() const { return {ToSeconds(clock_.Now() - begin_), CpuSeconds() - cpu_begin_}; }

 private:
  static double CpuSeconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  SystemClock clock_;
  Instant begin_ = clock_.Now();
  double cpu_begin_ = CpuSeconds();
};

/// The prompts' tokens [begin, end) of every sequence.
Status RunPrompts(Model& model, Sequences& s, uint32_t begin, uint32_t end) {
  if (begin == end) return OkStatus();
  const size_t vocab = model.info().vocab;
  std::vector<SequenceSlice> batch;
  for (size_t b = 0; b < s.prompts.size(); ++b) {
    batch.push_back({std::span(s.prompts[b]).subspan(begin, end - begin), begin, s.blocks[b], 1, &s.logits[b * vocab]});
  }
  return model.Forward(batch);
}

/// Answers from position c.start() on. Tokens are made up, as llama-bench does: no sampler is timed.
Status RunAnswers(Model& model, const BenchEngineCommand& c, Sequences& s) {
  const size_t vocab = model.info().vocab;
  std::vector<SequenceSlice> batch(c.batch);
  std::vector<TokenId> next(c.batch);
  for (uint32_t step = 0; step < c.generate_tokens; ++step) {
    for (uint32_t b = 0; b < c.batch; ++b) {
      next[b] = static_cast<TokenId>((uint64_t{step} * 6007 + b * 104729 + 2) % vocab);
      batch[b] = {std::span(&next[b], 1), c.start() + step, s.blocks[b], 1, &s.logits[b * vocab]};
    }
    RETURN_IF_ERROR(model.Forward(batch));
  }
  return OkStatus();
}

struct Measured {
  std::vector<double> prefill_rate, decode_rate, prefill_cpu_ms, decode_cpu_ms;  // one entry a run
};

Status RunOnce(Model& model, const BenchEngineCommand& c, Sequences& s, Measured& out) {
  const auto prompt = static_cast<double>(uint64_t{c.batch} * c.prompt_tokens), answer = static_cast<double>(uint64_t{c.batch} * c.generate_tokens);
  const Stopwatch prefill;
  RETURN_IF_ERROR(RunPrompts(model, s, 0, c.prompt_tokens));
  const Spent p = prefill.Read();
  RETURN_IF_ERROR(RunPrompts(model, s, c.prompt_tokens, c.filled()));
  const Stopwatch decode;
  RETURN_IF_ERROR(RunAnswers(model, c, s));
  const Spent d = decode.Read();
  out.prefill_rate.push_back(prompt / p.wall_s);
  out.prefill_cpu_ms.push_back(1e3 * p.cpu_s / prompt);
  out.decode_rate.push_back(answer / d.wall_s);
  out.decode_cpu_ms.push_back(1e3 * d.cpu_s / answer);
  return OkStatus();
}

double Median(std::vector<double>& v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

int RunBenchEngine(const BenchEngineCommand& c) {
  const Stopwatch loading;
  auto model = LoadModel(c.model);
  const Spent load = loading.Read();
  if (!model.ok()) return Fail(model.status());
  Sequences sequences = MakeSequences(**model, c);
  Measured m;
  for (uint32_t run = 0; run < c.repeats; ++run) {
    const Status status = RunOnce(**model, c, sequences, m);
    if (!status.ok()) return Fail(status);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const nlohmann::ordered_json result = {{"batch", c.batch},
                                         {"prefill_tokens_per_s", Median(m.prefill_rate)},
                                         {"decode_tokens_per_s", Median(m.decode_rate)},
                                         {"prefill_cpu_ms_per_token", Median(m.prefill_cpu_ms)},
                                         {"decode_cpu_ms_per_token", Median(m.decode_cpu_ms)},
                                         {"load_s", load.wall_s},
                                         {"peak_rss_bytes", static_cast<uint64_t>(usage.ru_maxrss) * 1024}};
  if (c.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [name, value] : result.items()) std::printf("%-26s %.3f\n", name.c_str(), value.get<double>());
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
  app->add_option("--context", c.context, "tokens before each answer (default: the prompt)")->check(CLI::Range(0, 1000000));
  app->add_option("--batch", c.batch, "sequences at once")->check(CLI::Range(1, 1024));
  app->add_option("--repeats", c.repeats, "runs; medians are printed")->check(CLI::Range(1, 1000));
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchEngine(*command); });
}

}  // namespace baton
