// `baton warm`: fills the store from a corpus of prompts, so that the first request with a known prefix finds it.
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/config.h"
#include "app/mpi_launch.h"
#include "app/start_ranks.h"
#include "app/warm_job.h"

namespace baton {
namespace {

struct WarmCommand {
  std::string config_file, model;
  WarmOptions options;
  bool json = false;
};

Result<LoadedConfig> Load(const WarmCommand& c, const CommandLine& line) {
  std::map<std::string, std::string> flags = line.settings;
  if (!c.model.empty()) flags["model.path"] = c.model;
  ASSIGN_OR_RETURN(LoadedConfig loaded, LoadConfig(c.config_file, line.environment, flags));
  const Config& config = loaded.config;
  if (config.model.path.empty()) return InvalidError("no model: give --model PATH or set model.path to a GGUF file or a folder of safetensors");
  if (config.store.path.empty()) return InvalidError("no store: set store.path to the folder that the cluster will serve from; a store in memory would end with this job");
  if (!config.cluster.join.empty()) return InvalidError("warming has its own workers and cannot join a cluster: leave out cluster.join");
  return Result<LoadedConfig>(std::move(loaded));
}

void Print(const WarmReport& r, bool json) {
  const WarmProgress& p = r.progress;
  const nlohmann::ordered_json object = {{"prefixes", r.prefixes},           {"blocks", p.blocks},       {"bytes", p.blocks * r.block_bytes},
                                         {"skipped", p.skipped},             {"seconds", r.seconds},     {"lines", r.corpus.lines},
                                         {"bad_lines", r.corpus.bad_lines},  {"failed", p.failed},       {"left_out", p.left_out},
                                         {"complete", p.complete}};
  if (json) {
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("%llu prefixes: %llu blocks (%.1f MB) written, %llu skipped, %llu failed, %llu left out, in %.1f s\n",
                static_cast<unsigned long long>(r.prefixes), static_cast<unsigned long long>(p.blocks), static_cast<double>(p.blocks * r.block_bytes) / 1e6,
                static_cast<unsigned long long>(p.skipped), static_cast<unsigned long long>(p.failed), static_cast<unsigned long long>(p.left_out), r.seconds);
  }
  std::fflush(stdout);
}

/// What is left, in words; nothing where all is done.
std::string Problem(const WarmReport& r) {
  if (r.progress.left_out > 0) {
    return fmt::format("{} blocks, those used least, do not fit store.disk_bytes and were left out: raise it", r.progress.left_out);
  }
  if (r.progress.failed > 0) return fmt::format("{} blocks could not be computed; the log says why", r.progress.failed);
  if (!r.progress.complete) return "stopped before the end; run it again to go on";
  if (r.corpus.bad_lines > 0) return fmt::format("{} of {} lines are no prompts; all others are done", r.corpus.bad_lines, r.corpus.lines);
  return "";
}

int RunWarm(WarmCommand& c, const CommandLine& line) {
  auto loaded = Load(c, line);
  if (!loaded.ok()) return Fail(loaded.status());
  c.options.show_progress = isatty(STDERR_FILENO) == 1;
  if (c.options.show_progress && loaded->origins.at("log.level") == "default") loaded->config.log.level = "warn";  // lines would tear the bar
  WarmJob job(c.options);
  const Status status = StartedByMpirun() ? RunUnderMpi(std::move(*loaded), &job) : RunAlone(std::move(*loaded), &job);
  if (job.report().started) Print(job.report(), c.json);
  if (!status.ok()) return Fail(status);
  if (!job.report().started) return 0;  // a rank that only helped
  const std::string problem = Problem(job.report());
  if (problem.empty()) return 0;
  std::fprintf(stderr, "baton: %s\n", problem.c_str());
  return 1;
}

}  // namespace

void AddWarmCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<WarmCommand>();
  WarmCommand& c = *command;
  CLI::App* app = program.add_subcommand("warm", "fills the store from a corpus of prompts; alone or as every rank of an mpirun; run it again to go on");
  app->add_option("--config", c.config_file, "YAML file; store.path names the folder to fill");
  app->add_option("--model", c.model, "GGUF file or folder of safetensors");
  app->add_option("--input", c.options.input,
                  "JSON lines: {\"prompt\": text}, {\"messages\": [...], \"tools\": ...} or {\"tokens\": [ids]}, each with an optional \"tenant\"")
      ->required();
  app->add_option("--limit-tokens-per-s", c.options.limit_tokens_per_s, "compute no more tokens a second; 0: no limit")->check(CLI::Range(0.0, 1e12));
  app->add_option("--requests", c.options.requests, "prefixes computed at once")->check(CLI::Range(1, 1024));
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunWarm(*command, context.line); });
}

}  // namespace baton
