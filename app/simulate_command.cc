// `baton simulate`: what a cluster would do with a trace, from the real router and admission on virtual time.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/config.h"
#include "app/sim/simulator.h"

namespace baton {
namespace {

struct SimulateCommand {
  std::string trace, config;
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
  sim.coordinator.membership.dead_after_s = config.cluster.dead_after_s;
  sim.coordinator.router.local_prefill_tokens = config.router.local_prefill_tokens;
  ASSIGN_OR_RETURN(sim.coordinator.router.policy, ParseRoutePolicy(config.router.policy));
  return OkStatus();
}

/// "prefill0@100+30": dies at 100 s, is back 30 s later.
Result<SimFailure> ParseFailure(const std::string& text) {
  SimFailure failure;
  const size_t at = text.find('@'), plus = text.find('+');
  if (at != std::string::npos) {
    char* end = nullptr;
    failure.worker = text.substr(0, at);
    failure.at_s = std::strtod(text.c_str() + at + 1, &end);
    bool good = end != text.c_str() + at + 1 && failure.at_s >= 0;
    if (plus != std::string::npos) {
      good = good && end == text.c_str() + plus;
      failure.down_s = std::strtod(text.c_str() + plus + 1, &end);
    }
    if (good && *end == '\0' && failure.down_s >= 0) return failure;
  }
  return InvalidError("--fail '{}' is not WORKER@SECONDS or WORKER@SECONDS+DOWN_SECONDS, for example prefill0@100+30", text);
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

int RunSimulate(SimulateCommand& c, const CommandLine& line) {
  if (const Status status = TakeConfig(c, line, c.sim); !status.ok()) return Fail(status);
  for (const std::string& text : c.failures) {
    auto failure = ParseFailure(text);
    if (!failure.ok()) return Fail(failure.status());
    c.sim.failures.push_back(std::move(*failure));
  }
  auto trace = ReadTrace(c.trace);
  if (!trace.ok()) return Fail(trace.status());
  Repeat(*trace, c.requests);
  const auto report = Simulate(c.sim, *trace);
  if (!report.ok()) return Fail(report.status());
  if (c.json) {
    std::printf("%s\n", report->Json().c_str());
    return 0;
  }
  const auto fields = nlohmann::ordered_json::parse(report->Json());
  for (const auto& [name, value] : fields.items()) {
    if (!value.is_object()) std::printf("%-20s %.6g\n", name.c_str(), value.get<double>());
    else std::printf("%-20s p50 %.4g  p90 %.4g  p99 %.4g\n", name.c_str(), value["p50"].get<double>(), value["p90"].get<double>(), value["p99"].get<double>());
  }
  return 0;
}

}  // namespace

void AddSimulateCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<SimulateCommand>();
  SimulateCommand& c = *command;
  SimConfig& s = c.sim;
  CLI::App* app = program.add_subcommand("simulate", "a trace through the real router and admission on virtual time");
  app->add_option("--trace", c.trace, "requests in the Mooncake form, a JSON object a line")->required();
  app->add_option("--config", c.config, "YAML file: roles, engine limits, router");
  app->add_option("--prefill", c.prefill, "prefill workers; default: as in cluster.roles")->check(CLI::Range(0, 10'000));
  app->add_option("--decode", c.decode, "decode workers")->check(CLI::Range(0, 10'000));
  app->add_option("--mixed", c.mixed, "workers of both roles")->check(CLI::Range(0, 10'000));
  app->add_option("--requests", c.requests, "so many, cutting or repeating the trace; 0: as it is")->check(CLI::Range(0, 100'000'000));
  app->add_option("--rate-scale", s.rate_scale, "arrivals come so many times as fast");
  app->add_option("--seed", s.seed, "of what is random: arrivals of one time stamp are spread to the next");
  app->add_option("--fail", c.failures, "WORKER@SECONDS+DOWN_SECONDS, for example prefill0@100+30; may be repeated");
  app->add_option("--step-s", s.worker.cost.base_s, "seconds of any step of an engine");
  app->add_option("--step-stream-s", s.worker.cost.per_stream_s, "seconds more for each decoding stream");
  app->add_option("--prefill-tokens-per-s", s.worker.cost.prefill_tokens_per_s, "prompt tokens a second within a step");
  app->add_option("--worker-blocks", s.worker.blocks, "KV blocks of 512 tokens of a worker")->check(CLI::Range(1, 100'000'000));
  app->add_option("--store-blocks", s.store_blocks, "blocks of the store; 0: none")->check(CLI::Range(0, 1'000'000'000));
  app->add_option("--kv-bytes-per-token", s.kv_bytes_per_token, "bytes of KV of one token");
  app->add_option("--transfer-bytes-per-s", s.transfer_bytes_per_s, "speed of a hand-off");
  app->add_option("--transfer-latency-s", s.transfer_latency_s, "its latency");
  app->add_option("--store-bytes-per-s", s.store_bytes_per_s, "speed of reading the store");
  app->add_option("--slo-ttft-s", s.slo_ttft_s, "longest time to first token that counts as good");
  app->add_option("--slo-itl-s", s.slo_itl_s, "longest mean time between tokens that counts as good");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunSimulate(*command, context.line); });
}

}  // namespace baton
