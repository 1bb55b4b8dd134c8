// `baton bench engine`: medians of prefill and decode speed on a model, the process's peak memory, and on request what share
// of the machine's measured limits that is.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <thread>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/machine_limits.h"
#include "app/model_flags.h"
#include "base/clock.h"
#include "base/random.h"
#include "kvstore/block_pool.h"
#include "model/model.h"

namespace baton {
namespace {

struct BenchEngineCommand {
  LoadOptions model;
  uint32_t prompt_tokens = 512, generate_tokens = 64, batch = 1, repeats = 3;
  int64_t context = -1;  // position of the answers' first token; negative: behind the prompt
  bool json = false, contiguous = false, limits = false;
  uint32_t start() const { return context < 0 ? prompt_tokens : static_cast<uint32_t>(context); }
  uint32_t filled() const { return std::max(prompt_tokens, start()); }
};

struct Sequences {
  std::unique_ptr<BlockPool> pool;                 // the memory of all blocks, as a worker has it
  std::vector<std::vector<std::byte*>> blocks;     // one entry a sequence, as the following
  std::vector<std::vector<TokenId>> prompts;
  std::vector<float> logits;                       // [batch][vocab]
};

/// Blocks lie where those of a pool long in use do: anywhere.
Result<Sequences> MakeSequences(const Model& model, const BenchEngineCommand& c) {
  Sequences s;
  const KvLayout& layout = model.kv_layout();
  const size_t count = CeilDiv(uint64_t{c.filled()} + c.generate_tokens, layout.block_tokens);
  BlockPoolOptions options;
  options.huge_pages = true;
  ASSIGN_OR_RETURN(s.pool, BlockPool::Create(count * c.batch, layout.BlockBytes(), options));
  ASSIGN_OR_RETURN(std::vector<BlockId> ids, s.pool->Allocate(count * c.batch));
  Random(7).Shuffle(ids);
  s.blocks.resize(c.batch);
  s.prompts.resize(c.batch);
  s.logits.resize(size_t{c.batch} * model.info().vocab);
  for (uint32_t b = 0; b < c.batch; ++b) {
    for (size_t i = 0; i < count; ++i) s.blocks[b].push_back(s.pool->data(ids[b * count + i]));
    for (uint32_t i = 0; i < c.filled(); ++i) s.prompts[b].push_back(static_cast<TokenId>((uint64_t{i} * 7919 + b * 104729 + 1) % model.info().vocab));
  }
  return Result<Sequences>(std::move(s));
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

/// Bytes that one step of the answers reads: the weights once, and each sequence's cache at the middle of its answer.
double StepBytes(const Model& model, const BenchEngineCommand& c) {
  const KvLayout& layout = model.kv_layout();
  const double position_bytes = static_cast<double>(layout.BlockBytes()) / layout.block_tokens;
  return static_cast<double>(model.weight_bytes()) + c.batch * (c.start() + c.generate_tokens / 2.0) * position_bytes;
}

/// Products of digits a prompt's token takes in the layers' matrices; 0 where they are not multiplied as integers.
double TokenDots(const Model& model) {
  const ModelInfo& m = model.info();
  if (model.numerics() != Numerics::kExact && model.numerics() != Numerics::kFast) return 0;
  const double digits = model.numerics() == Numerics::kFast ? 1 : 2, heads = static_cast<double>(m.head_dim) * m.hidden;
  return m.layers * (2 * heads * (m.heads + 2 * m.kv_heads) + digits * (heads * m.heads + 3.0 * m.hidden * m.ffn));
}

/// Shares of the machine's limits, by CPU time: of its memory bandwidth in the answers, of its integer dots in the prompt.
Status AddLimits(const Model& model, const BenchEngineCommand& c, double prefill_cpu_ms, double decode_cpu_ms, nlohmann::ordered_json& result) {
  const unsigned threads = c.model.threads != 0 ? c.model.threads : std::max(1u, std::thread::hardware_concurrency());
  ASSIGN_OR_RETURN(const Kernels* kernels, SelectKernels(c.model.isa));
  ASSIGN_OR_RETURN(const double read_rate, MeasureReadRate(threads));
  const double dot_rate = MeasureDotRate(*kernels, threads);
  result["read_gb_per_s"] = 1e-9 * read_rate * threads;
  result["dot_gops_per_s"] = 2e-9 * dot_rate * threads;
  result["decode_share_of_read"] = StepBytes(model, c) / (1e-3 * decode_cpu_ms * c.batch) / read_rate;
  result["prefill_share_of_dots"] = TokenDots(model) / (1e-3 * prefill_cpu_ms) / dot_rate;
  return OkStatus();
}

Result<nlohmann::ordered_json> Bench(const BenchEngineCommand& c) {
  LoadOptions options = c.model;
  if (c.contiguous) options.block_tokens = static_cast<uint32_t>(RoundUp(uint64_t{c.filled()} + c.generate_tokens, kAttentionTile));
  const Stopwatch loading;
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(options));
  const Spent load = loading.Read();
  ASSIGN_OR_RETURN(Sequences sequences, MakeSequences(*model, c));
  Measured m;
  for (uint32_t run = 0; run < c.repeats; ++run) RETURN_IF_ERROR(RunOnce(*model, c, sequences, m));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::ordered_json result = {{"batch", c.batch},
                                   {"prefill_tokens_per_s", Median(m.prefill_rate)},
                                   {"decode_tokens_per_s", Median(m.decode_rate)},
                                   {"prefill_cpu_ms_per_token", Median(m.prefill_cpu_ms)},
                                   {"decode_cpu_ms_per_token", Median(m.decode_cpu_ms)},
                                   {"load_s", load.wall_s},
                                   {"peak_rss_bytes", static_cast<uint64_t>(usage.ru_maxrss) * 1024}};
  if (c.limits) RETURN_IF_ERROR(AddLimits(*model, c, Median(m.prefill_cpu_ms), Median(m.decode_cpu_ms), result));
  return result;
}

int RunBenchEngine(const BenchEngineCommand& c) {
  const auto result = Bench(c);
  if (!result.ok()) return Fail(result.status());
  if (c.json) {
    std::printf("%s\n", result->dump().c_str());
  } else {
    for (const auto& [name, value] : result->items()) std::printf("%-26s %.3f\n", name.c_str(), value.get<double>());
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
  app->add_flag("--contiguous", c.contiguous, "each sequence's cache in one piece, to see what blocks in any place cost");
  app->add_flag("--limits", c.limits, "also measure the machine's memory bandwidth and integer dots, and print the engine's share of them");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchEngine(*command); });
}

}  // namespace baton
