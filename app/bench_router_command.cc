// `baton bench router`: what a whole routing decision costs (keys to choice, with admission and the record of it), a look-up in
// the prefix index alone, and the index's memory a held block.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "app/cli.h"
#include "app/trace.h"
#include "base/random.h"
#include "coordinator/coordinator.h"

namespace baton {
namespace {

struct BenchRouterCommand {
  uint32_t workers = 64, blocks = 1'000'000, prompt_tokens = 12'000, requests = 20'000;
  uint64_t seed = 1;
  std::string trace;
  bool json = false;
};

constexpr uint32_t kMostLookUps = 20'000;
constexpr uint32_t kBlockTokens = 64, kSharedBlocks = 16, kBeatEvery = 1000;  // blocks of a system prompt that all hold; decisions

BlockKey RandomKey(Random& random) {
  BlockKey key;
  for (size_t i = 0; i < key.bytes.size(); i += 8) {
    const uint64_t word = random.Next64();
    std::memcpy(key.bytes.data() + i, &word, sizeof word);
  }
  return key;
}

struct Prompt {
  uint32_t tokens;
  std::vector<BlockKey> keys;
};

/// A coordinator and what its workers would say.
class Cluster {
 public:
  Cluster(uint32_t workers, uint32_t block_tokens) : coordinator_(Settings(), clock_, metrics_) {
    for (uint32_t i = 0; i < workers; ++i) {
      MemberInfo info;
      info.name = std::to_string(i);
      info.roles = {i % 2 == 0 ? "decode" : "prefill"};
      info.model.kv_layout = "bench";
      info.model.block_tokens = block_tokens;
      info.model.block_bytes = 1 << 20;
      MemberInfo member = coordinator_.Register(info).value();
      CHECK(coordinator_.Announce(member.id, member.incarnation, "tcp", "").ok());
      members_.push_back(member);
    }
    sequences_.resize(workers);
    reports_.resize(workers);
  }
  Coordinator& coordinator() { return coordinator_; }
  HeartbeatReport& report(size_t worker) { return reports_[worker]; }
  size_t size() const { return members_.size(); }
  size_t IndexOf(WorkerId id) const { return id.value - 1; }
  void Beat(Random& random) {
    for (size_t i = 0; i < members_.size(); ++i) {
      HeartbeatReport& report = reports_[i];
      report.snapshot = sequences_[i] == 0;
      report.sequence = ++sequences_[i];
      report.load.running = static_cast<uint32_t>(random.Below(32));
      report.load.queued_prefill_tokens = random.Below(20'000);
      report.load.prefill_tokens_per_s = 8000 + static_cast<double>(random.Below(2000));
      report.load.decode_step_s = 0.01 + random.Uniform() * 0.01;
      CHECK(coordinator_.Heartbeat(members_[i].id, members_[i].incarnation, report).status.ok());
      report = {};
    }
  }

 private:
  static CoordinatorConfig Settings() {
    CoordinatorConfig config;
    config.admission.max_wait_s = 1e9;  // nothing is refused here
    config.admission.max_in_flight = 1u << 30;
    return config;
  }
  SystemClock clock_;
  Metrics metrics_;
  Coordinator coordinator_;
  std::vector<MemberInfo> members_;
  std::vector<uint64_t> sequences_;
  std::vector<HeartbeatReport> reports_;
};

/// Conversations of up to prompt_tokens, each held by one worker behind a system prompt that all hold.
std::vector<std::vector<BlockKey>> Fill(const BenchRouterCommand& c, Cluster& cluster, Random& random) {
  std::vector<BlockKey> shared;
  for (uint32_t i = 0; i < kSharedBlocks; ++i) shared.push_back(RandomKey(random));
  const size_t length = std::max<size_t>(kSharedBlocks + 1, c.prompt_tokens / kBlockTokens);
  std::vector<std::vector<BlockKey>> chains;
  for (size_t w = 0; w < cluster.size(); ++w) {
    for (const BlockKey& key : shared) cluster.report(w).changes.push_back({true, key});
  }
  for (size_t held = kSharedBlocks * cluster.size(); held < c.blocks;) {
    std::vector<BlockKey> chain = shared;
    const size_t worker = random.Below(cluster.size());
    for (; chain.size() < length && held < c.blocks; ++held) {
      chain.push_back(RandomKey(random));
      cluster.report(worker).changes.push_back({true, chain.back()});
    }
    chains.push_back(std::move(chain));
  }
  cluster.Beat(random);
  return chains;
}

/// A next turn: part of a conversation that is held, then what is new.
Prompt NextTurn(const BenchRouterCommand& c, const std::vector<std::vector<BlockKey>>& chains, Random& random) {
  Prompt prompt{c.prompt_tokens, {}};
  if (!chains.empty()) {
    const auto& chain = chains[random.Below(chains.size())];
    prompt.keys.assign(chain.begin(), chain.begin() + random.Below(chain.size() + 1));
  }
  const size_t full = c.prompt_tokens / kBlockTokens;
  if (prompt.keys.size() > full) prompt.keys.resize(full);
  while (prompt.keys.size() < full) prompt.keys.push_back(RandomKey(random));
  return prompt;
}

struct Times {
  std::vector<double> decision_s, decision_cpu_s, lookup_s;  // the processor's time: others may use it meanwhile
};

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void Decide(Cluster& cluster, const Prompt& prompt, uint64_t number, Times& times, RouteDecision& decision) {
  const SystemClock clock;
  RouteQuery query;
  query.request = RequestId(number);
  query.prompt_tokens = prompt.tokens;
  query.max_tokens = 300;
  const double cpu_before_s = CpuSeconds();
  const Instant begin = clock.Now();
  const RouteDecision& made = cluster.coordinator().Route(prompt.keys, std::move(query));
  const Instant middle = clock.Now();
  times.decision_cpu_s.push_back(CpuSeconds() - cpu_before_s);
  times.decision_s.push_back(ToSeconds(middle - begin));
  decision = made;
  cluster.coordinator().Finished({RequestId(number), 0, 0, prompt.tokens, 0, true});
}

/// Of prompts that were not just looked up: their entries are in no cache of the processor. Their keys are: whoever routes has
/// just read them off the wire.
void LookUp(const PrefixIndex& index, const std::vector<Prompt>& prompts, Times& times) {
  const SystemClock clock;
  std::vector<PrefixMatch> matches;
  std::vector<BlockKey> keys;
  for (const Prompt& prompt : prompts) {
    keys.assign(prompt.keys.begin(), prompt.keys.end());
    const Instant begin = clock.Now();
    index.Match(keys, matches);
    times.lookup_s.push_back(ToSeconds(clock.Now() - begin));
  }
}

Times RunSynthetic(const BenchRouterCommand& c, Cluster& cluster, Random& random) {
  const auto chains = Fill(c, cluster, random);
  Times times;
  RouteDecision decision;
  for (uint64_t i = 1; i <= c.requests; ++i) {
    if (i % kBeatEvery == 0) cluster.Beat(random), cluster.coordinator().Tick();
    Decide(cluster, NextTurn(c, chains, random), i, times, decision);
  }
  std::vector<Prompt> prompts;
  for (uint64_t i = 0; i < std::min(c.requests, kMostLookUps); ++i) prompts.push_back(NextTurn(c, chains, random));
  LookUp(cluster.coordinator().index(), prompts, times);
  return times;
}

/// Replays a trace: who is chosen holds the prompt from then on, the oldest blocks make room.
Times RunTrace(const BenchRouterCommand& c, const std::vector<TraceRequest>& trace, Cluster& cluster, Random& random) {
  Times times;
  RouteDecision decision;
  std::deque<std::pair<size_t, BlockKey>> held;
  cluster.Beat(random);
  uint64_t number = 0;
  for (const TraceRequest& request : trace) {
    const Prompt prompt{request.prompt_tokens, request.Keys()};
    Decide(cluster, prompt, ++number, times, decision);
    if (!decision.ok()) continue;
    const size_t worker = cluster.IndexOf(decision.prefill_order.empty() ? decision.chosen.decode : decision.chosen.prefill);
    for (const BlockKey& key : prompt.keys) {
      if (cluster.coordinator().index().Holds(decision.chosen.decode, key)) continue;
      cluster.report(worker).changes.push_back({true, key});
      held.emplace_back(worker, key);
    }
    for (; held.size() > c.blocks; held.pop_front()) {
      cluster.report(held.front().first).changes.push_back({false, held.front().second});
    }
    if (number % 16 == 0) cluster.Beat(random), cluster.coordinator().Tick();
  }
  std::vector<Prompt> prompts;
  for (size_t i = trace.size() - std::min<size_t>(trace.size(), kMostLookUps); i < trace.size(); ++i) prompts.push_back({trace[i].prompt_tokens, trace[i].Keys()});
  LookUp(cluster.coordinator().index(), prompts, times);
  return times;
}

double Percentile(std::vector<double>& sorted, double p) { return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))]; }

int RunBenchRouter(const BenchRouterCommand& c) {
  Random random(c.seed);
  Cluster cluster(c.workers, c.trace.empty() ? kBlockTokens : kTraceBlockTokens);
  Times times;
  if (c.trace.empty()) {
    times = RunSynthetic(c, cluster, random);
  } else {
    const auto trace = ReadTrace(c.trace);
    if (!trace.ok()) return Fail(trace.status());
    times = RunTrace(c, *trace, cluster, random);
  }
  const auto mean_of = [](const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()); };
  std::sort(times.decision_s.begin(), times.decision_s.end());
  std::sort(times.lookup_s.begin(), times.lookup_s.end());
  const double mean = mean_of(times.decision_s), cpu_mean = mean_of(times.decision_cpu_s);
  const PrefixIndex& index = cluster.coordinator().index();
  const nlohmann::ordered_json result = {
      {"decisions_per_s", 1 / mean},
      {"decisions_per_cpu_s", 1 / cpu_mean},
      {"mean_us", mean * 1e6},
      {"mean_cpu_us", cpu_mean * 1e6},
      {"p50_us", Percentile(times.decision_s, 0.5) * 1e6},
      {"p99_us", Percentile(times.decision_s, 0.99) * 1e6},
      {"lookup_p50_ns", Percentile(times.lookup_s, 0.5) * 1e9},
      {"lookup_p99_ns", Percentile(times.lookup_s, 0.99) * 1e9},
      {"holder_blocks", index.holder_blocks()},
      {"bytes_per_block", index.holder_blocks() == 0 ? 0.0 : static_cast<double>(index.bytes()) / static_cast<double>(index.holder_blocks())}};
  if (c.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [name, value] : result.items()) std::printf("%-16s %.1f\n", name.c_str(), value.get<double>());
  }
  return 0;
}

}  // namespace

void AddBenchRouterCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchRouterCommand>();
  BenchRouterCommand& c = *command;
  CLI::App* app = bench.add_subcommand("router", "time of a routing decision and memory of the prefix index");
  app->add_option("--workers", c.workers, "workers, half of them prefill and half decode")->check(CLI::Range(2, 1024));
  app->add_option("--blocks", c.blocks, "blocks held, counted once a holder")->check(CLI::Range(1, 100'000'000));
  app->add_option("--prompt-tokens", c.prompt_tokens, "tokens of each prompt")->check(CLI::Range(1, 10'000'000));
  app->add_option("--requests", c.requests, "decisions")->check(CLI::Range(1, 100'000'000));
  app->add_option("--trace", c.trace, "replay this trace (Mooncake form) instead of made-up conversations");
  app->add_option("--seed", c.seed, "of what is made up");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchRouter(*command); });
}

}  // namespace baton
