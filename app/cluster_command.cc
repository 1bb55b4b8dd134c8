// `baton cluster` (one rank of a cluster, under mpirun or joining one) and `baton serve` (all roles in one process).
#include <unistd.h>

#include <algorithm>

#include "app/cli.h"
#include "app/config.h"
#include "app/mpi_launch.h"
#include "app/rank.h"
#include "app/roles.h"
#include "app/start_ranks.h"

namespace baton {
namespace {

constexpr double kSettleS = 1;  // workers look for their coordinator ten times a second

struct ClusterCommand {
  std::string config_file, model, join, role = "decode";
  uint32_t port = 0;
  bool port_given = false;
};

Result<LoadedConfig> Load(const ClusterCommand& c, const CommandLine& line) {
  std::map<std::string, std::string> flags = line.settings;
  if (!c.model.empty()) flags["model.path"] = c.model;
  if (c.port_given) flags["gateway.port"] = std::to_string(c.port);
  if (!c.join.empty()) flags["cluster.join"] = c.join;
  ASSIGN_OR_RETURN(LoadedConfig loaded, LoadConfig(c.config_file, line.environment, flags));
  if (loaded.config.model.path.empty()) return InvalidError("no model: give --model PATH or set model.path to a GGUF file or a folder of safetensors");
  return Result<LoadedConfig>(std::move(loaded));
}

Status RunJoining(const LoadedConfig& loaded, const std::string& role) {
  Config config = loaded.config;
  RETURN_IF_ERROR(ResolveHost(&config));
  if (config.cluster.key.empty() && !OnLoopback(config)) {
    return InvalidError("a worker that other machines reach needs the cluster's key to join: start the cluster with cluster.key (BATON_CLUSTER_KEY) set, "
                        "and give it here, too");
  }
  ASSIGN_OR_RETURN(const PeerAddress coordinator, ParsePeerAddress(config.cluster.join));
  ASSIGN_OR_RETURN(std::vector<std::string> roles, ParseRoles(role));
  if (config.transport.kind == "mpi" || config.transport.kind == "local") {
    return InvalidError("a worker that joins later is outside MPI's job: set transport.kind to auto, tcp, shm or ucx on every rank");
  }
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  const std::string name = config.cluster.name.empty() ? fmt::format("{}-{}", host, getpid()) : config.cluster.name;
  RETURN_IF_ERROR(StartLogging(config, name));
  RankSetup setup;
  // The coordinator is at the address that everybody joins: the first of a cluster without MPI, or the successor of one that died.
  if (std::find(roles.begin(), roles.end(), "coordinator") != roles.end()) {
    config.cluster.bind_host = coordinator.host;
    setup.listen_port = coordinator.port;
    setup.settle_s = kSettleS;
  }
  setup.config = config;
  setup.roles = roles;
  setup.name = name;
  Rank rank(std::move(setup));
  RETURN_IF_ERROR(rank.Listen().status());
  return rank.Run(coordinator);
}

int RunCluster(const ClusterCommand& c, const CommandLine& line) {
  auto loaded = Load(c, line);
  if (!loaded.ok()) return Fail(loaded.status());
  if (!loaded->config.cluster.join.empty()) {
    const Status status = RunJoining(*loaded, c.role);
    return status.ok() ? 0 : Fail(status);
  }
  if (!StartedByMpirun()) {
    return Fail(InvalidError("`baton cluster` is one rank of several: start it with `mpirun -n 4 baton cluster …`, join a running cluster with "
                             "--join HOST:PORT, or serve from one process with `baton serve`"));
  }
  const Status status = RunUnderMpi(std::move(*loaded));
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

void AddServeCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<ClusterCommand>();
  ClusterCommand& c = *command;
  CLI::App* app = program.add_subcommand("serve", "serves a model from this one process: gateway, store, prefill and decode");
  app->add_option("--model", c.model, "GGUF file or folder of safetensors");
  app->add_option("--config", c.config_file, "YAML file");
  CLI::Option* port = app->add_option("--port", c.port, "port of the HTTP server; 0: any free one")->check(CLI::Range(0, 65535));
  app->callback([command, port, &context] {
    command->port_given = port->count() > 0;
    auto loaded = Load(*command, context.line);
    const Status status = loaded.ok() ? RunAlone(std::move(*loaded)) : loaded.status();
    context.exit_code = status.ok() ? 0 : Fail(status);
  });
}

void AddClusterCommand(CLI::App& program, CommandContext& context) {
  auto command = std::make_shared<ClusterCommand>();
  ClusterCommand& c = *command;
  CLI::App* app = program.add_subcommand("cluster", "one rank of a cluster, started by mpirun; or a worker that joins one");
  app->add_option("--config", c.config_file, "YAML file; the same on every rank");
  app->add_option("--model", c.model, "GGUF file or folder of safetensors");
  CLI::Option* port = app->add_option("--port", c.port, "port of the gateway; 0: any free one")->check(CLI::Range(0, 65535));
  app->add_option("--join", c.join, "HOST:PORT of a running cluster's coordinator; with the role coordinator: the address it takes");
  app->add_option("--role", c.role, "with --join: roles joined by +, for example prefill+decode, or coordinator in place of one that died");
  app->callback([command, port, &context] {
    command->port_given = port->count() > 0;
    context.exit_code = RunCluster(*command, context.line);
  });
}

}  // namespace baton
