// `baton simulate`: what a cluster would do with a trace, from the real router and admission on virtual time.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/cli.h"
#include "app/config.h"
#include "app/sim/fit.h"
#include "app/sim/html.h"
#include "app/sim/search.h"
#include "app/sim/simulator.h"
#include "base/random.h"

namespace baton {
namespace {

struct SimulateCommand {
  std::string trace, config, fit, html;
  SimSearchGoal goal;
  bool search = false;
  uint32_t scale = 1;
  SimConfig sim;
  int prefill = -1, decode = -1, mixed = -1;  // -1: as cluster.roles has them
  uint64_t requests = 0;
  std::vector<std::string> failures;
  bool json = false;
};

void TakeRoles(const Config& config, SimConfig& sim) {
  sim.prefill_workers = sim.decode_workers = sim.mixed_workers = 0;
  for (const std::string& roles : config.cluster.roles) {
    const bool prefill = roles.find("prefill") != std::string::npos, decode = roles.find("decode") != std::string::npos;
    if (prefill && decode) ++sim.mixed_workers;
    else if (prefill) ++sim.prefill_workers;
    else if (decode) ++sim.decode_workers;
  }
}

Status TakeConfig(const SimulateCommand& c, const CommandLine& line, SimConfig& sim) {
  ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(c.config, line.environment, line.settings));
  const Config& config = loaded.config;
  TakeRoles(config, sim);
  if (c.prefill >= 0) sim.prefill_workers = static_cast<uint32_t>(c.prefill);
  if (c.decode >= 0) sim.decode_workers = static_cast<uint32_t>(c.decode);
  if (c.mixed >= 0) sim.mixed_workers = static_cast<uint32_t>(c.mixed);
  sim.heartbeat_s = config.cluster.heartbeat_s;
  sim.worker.max_running = config.engine.max_running;
  sim.worker.step_token_budget = config.engine.step_token_budget;
  sim.worker.prefill_chunk_tokens = config.engine.prefill_chunk_tokens;
  sim.store_policy = config.store.policy;
  sim.coordinator.membership.dead_after_s = config.cluster.dead_after_s;
  sim.coordinator.router.local_prefill_tokens = config.router.local_prefill_tokens;
  ASSIGN_OR_RETURN(sim.coordinator.router.policy, ParseRoutePolicy(config.router.policy));
  return OkStatus();
}

/// The trace over and over, as new conversations, until there are `requests`.
void Repeat(std::vector<TraceRequest>& trace, uint64_t requests) {
  if (requests == 0) return;
  if (requests < trace.size()) trace.resize(requests);
  const size_t once = trace.size();
  const double period_s = trace.back().at_s + (once > 1 ? trace.back().at_s / static_cast<double>(once - 1) : 1);
  uint64_t ids = 0;
  for (const TraceRequest& request : trace) {
    for (const uint64_t id : request.hash_ids) ids = std::max(ids, id + 1);
  }
  trace.reserve(requests);
  for (size_t i = once; i < requests; ++i) {
    TraceRequest request = trace[i % once];
    request.at_s += static_cast<double>(i / once) * period_s;
    for (uint64_t& id : request.hash_ids) id += ids * (i / once);
    trace.push_back(std::move(request));
  }
}

/// So many copies of the trace at once: other conversations at the same rate each, shifted by up to a minute so that bunches do not meet.
void Multiply(std::vector<TraceRequest>& trace, uint32_t copies, uint64_t seed) {
  if (copies <= 1) return;
  constexpr double kShiftS = 60;
  const size_t once = trace.size();
  uint64_t ids = 0;
  for (const TraceRequest& request : trace) {
    for (const uint64_t id : request.hash_ids) ids = std::max(ids, id + 1);
  }
  Random random(seed);
  trace.reserve(once * copies);
  for (uint32_t copy = 1; copy < copies; ++copy) {
    const double shift_s = random.Uniform() * kShiftS;
    for (size_t i = 0; i < once; ++i) {
      TraceRequest request = trace[i];
      request.at_s += shift_s;
      for (uint64_t& id : request.hash_ids) id += ids * copy;
      trace.push_back(std::move(request));
    }
  }
  std::stable_sort(trace.begin(), trace.end(), [](const TraceRequest& a, const TraceRequest& b) { return a.at_s < b.at_s; });
}

void PrintReport(const SimReport& report) {
  const auto fields = nlohmann::ordered_json::parse(report.Json());
  for (const auto& [name, value] : fields.items()) {
    if (!value.is_object()) std::printf("%-20s %.6g\n", name.c_str(), value.get<double>());
    else std::printf("%-20s p50 %.4g  p90 %.4g  p99 %.4g\n", name.c_str(), value["p50"].get<double>(), value["p90"].get<double>(), value["p99"].get<double>());
  }
}

void PrintSearch(const SimSearchResult& result) {
  std::printf("prefill decode mixed    price     good  ttft p99   itl p99    busy\n");
  for (const SimSearchRow& r : result.tried) {
    std::printf("%7u %6u %5u %8.4g %7.2f%% %9.4g %9.4g %6.1f%%%s\n", r.prefill, r.decode, r.mixed, r.price, 100 * r.good_share, r.ttft_p99_s, r.itl_p99_s,
                100 * r.busy_share, r.meets ? "  <- cheapest that meets the SLO" : "");
  }
  if (!result.found()) std::printf("no split within --search-workers meets the SLO\n");
}

Status WriteHtml(const SimulateCommand& c, const SimReport& report, const SimSearchResult* search) {
  std::ofstream file(c.html, std::ios::trunc);
  file << HtmlReport("baton simulate: " + c.trace.substr(c.trace.rfind('/') + 1), c.sim, report, search);
  file.close();
  return file.good() ? OkStatus() : UnavailableError("cannot write {}", c.html);
}

Status Prepare(SimulateCommand& c, const CommandLine& line, std::vector<TraceRequest>& trace) {
  RETURN_IF_ERROR(TakeConfig(c, line, c.sim));
  if (!c.fit.empty()) RETURN_IF_ERROR(FitFile(c.fit, c.sim));
  for (const std::string& text : c.failures) {
    ASSIGN_OR_RETURN(SimFailure failure, ParseSimFailure(text));
    c.sim.failures.push_back(std::move(failure));
  }
  if (c.search && !c.failures.empty()) return InvalidError("--fail names workers, --search changes which there are: give one of them");
  ASSIGN_OR_RETURN(trace, ReadTrace(c.trace));
  for (TraceRequest& request : trace) {
    if (c.sim.block_tokens != kTraceBlockTokens) request.Shrink(c.sim.block_tokens);
  }
  Multiply(trace, c.scale, c.sim.seed);
  Repeat(trace, c.requests);
  return OkStatus();
}

/// With --search: finds the split; the report is then of the cheapest one.
Result<SimSearchResult> Search(SimulateCommand& c, const std::vector<TraceRequest>& trace) {
  ASSIGN_OR_RETURN(SimSearchResult result, SearchSplit(c.sim, trace, c.goal));
  if (!result.tried.empty()) {
    const SimSearchRow& row = result.tried.back();
    c.sim.prefill_workers = row.prefill;
    c.sim.decode_workers = row.decode;
    c.sim.mixed_workers = row.mixed;
  }
  return Result<SimSearchResult>(std::move(result));
}

int RunSimulate(SimulateCommand& c, const CommandLine& line) {
  std::vector<TraceRequest> trace;
  if (const Status status = Prepare(c, line, trace); !status.ok()) return Fail(status);
  std::optional<SimSearchResult> search;
  if (c.search) {
    auto result = Search(c, trace);
    if (!result.ok()) return Fail(result.status());
    search = std::move(*result);
    if (c.json) std::printf("%s\n", search->Json().c_str());
    else PrintSearch(*search);
    if (c.html.empty() || search->tried.empty()) return search->found() ? 0 : 1;
  }
  const auto report = Simulate(c.sim, trace);
  if (!report.ok()) return Fail(report.status());
  if (!c.html.empty()) {
    if (const Status status = WriteHtml(c, *report, search ? &*search : nullptr); !status.ok()) return Fail(status);
  }
  if (search) return search->found() ? 0 : 1;
  if (c.json) std::printf("%s\n", report->Json().c_str());
  else PrintReport(*report);
  return 0;
}

}  // namespace

void AddSimulateCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<SimulateCommand>();
  SimulateCommand& c = *command;
  SimConfig& s = c.sim;
  CLI::App* app = program.add_subcommand("simulate", "a trace through the real router, admission, scheduler and store policy on virtual time");
  app->add_option("--trace", c.trace, "requests in the Mooncake form, a JSON object a line")->required();
  app->add_option("--config", c.config, "YAML file: roles, engine limits, router");
  app->add_option("--prefill", c.prefill, "prefill workers; default: as in cluster.roles")->check(CLI::Range(0, 10'000));
  app->add_option("--decode", c.decode, "decode workers")->check(CLI::Range(0, 10'000));
  app->add_option("--mixed", c.mixed, "workers of both roles")->check(CLI::Range(0, 10'000));
  app->add_option("--requests", c.requests, "so many, cutting or repeating the trace; 0: as it is")->check(CLI::Range(0, 100'000'000));
  app->add_option("--rate-scale", s.rate_scale, "arrivals come so many times as fast");
  app->add_option("--block-tokens", s.block_tokens, "tokens that stand for each 512 of the trace, as bench load's; also those of a block")->check(CLI::Range(1, 512));
  app->add_flag("!--no-spread", s.spread, "arrivals of one time stamp come together");
  app->add_option("--seed", s.seed, "of what is random: arrivals of one time stamp are spread to the next");
  app->add_option("--scale", c.scale, "so many copies of the trace at once, as other conversations")->check(CLI::Range(1, 100'000));
  app->add_option("--fail", c.failures, "WORKER@SECONDS[+DOWN_SECONDS][:kill|stop|slow], for example prefill0@100+30:stop; may be repeated");
  app->add_option("--fit", c.fit, "costs from measurements: lines of `baton bench engine --json`, or a cluster's /metrics, in a file");
  CLI::Option* search = app->add_flag("--search", c.search, "the cheapest split of workers that meets the SLO; exit code 1 when there is none");
  app->add_option("--search-workers", c.goal.max_workers, "at most so many")->needs(search)->check(CLI::Range(1, 10'000));
  app->add_option("--search-share", c.goal.share, "share of the requests that must be good")->needs(search);
  app->add_option("--prefill-price", c.goal.prefill_price, "of one prefill worker")->needs(search);
  app->add_option("--decode-price", c.goal.decode_price, "of one decode worker")->needs(search);
  app->add_option("--mixed-price", c.goal.mixed_price, "of one worker of both roles")->needs(search);
  app->add_option("--html", c.html, "writes a report with plots to this file, one page without anything from elsewhere");
  app->add_option("--step-s", s.worker.cost.base_s, "seconds of any step of an engine");
  app->add_option("--step-stream-s", s.worker.cost.per_stream_s, "seconds more for each decoding stream");
  app->add_option("--prefill-tokens-per-s", s.worker.cost.prefill_tokens_per_s, "prompt tokens a second within a step");
  app->add_option("--worker-blocks", s.worker.blocks, "KV blocks of a worker")->check(CLI::Range(1, 100'000'000));
  app->add_option("--store-blocks", s.store_blocks, "blocks of the store on disk; 0: none")->check(CLI::Range(0, 1'000'000'000));
  app->add_option("--store-memory-blocks", s.store_memory_blocks, "of these in its memory")->check(CLI::Range(0, 1'000'000'000));
  app->add_option("--kv-bytes-per-token", s.kv_bytes_per_token, "bytes of KV of one token");
  app->add_option("--transfer-bytes-per-s", s.transfer_bytes_per_s, "speed of a hand-off");
  app->add_option("--transfer-latency-s", s.transfer_latency_s, "its latency");
  app->add_option("--store-bytes-per-s", s.store_bytes_per_s, "speed of reading the store's memory");
  app->add_option("--store-disk-bytes-per-s", s.store_disk_bytes_per_s, "speed of reading its disk");
  app->add_option("--slo-ttft-s", s.slo_ttft_s, "longest time to first token that counts as good");
  app->add_option("--slo-itl-s", s.slo_itl_s, "longest mean time between tokens that counts as good");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunSimulate(*command, context.line); });
}

}  // namespace baton
