#include "app/start_ranks.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <utility>
#include <vector>

#include "app/bind_host.h"
#include "app/mpi_launch.h"
#include "app/roles.h"
#include "base/log.h"
#include "base/random.h"

namespace baton {
namespace {

std::string MakeKey() { return fmt::format("{:016x}{:016x}{:016x}{:016x}", EntropySeed(), EntropySeed(), EntropySeed(), EntropySeed()); }

/// A lonely rank is of no use: it ends when mpirun does, even if that was killed.
void EndWithParent() {
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) raise(SIGTERM);
}

/// Before MPI makes threads: the signals that Rank waits for must reach the main thread only.
void BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGUSR2, SIGCONT}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

/// For a job nobody listens to HTTP; a rank that would only do that computes.
std::vector<std::string> JobRoles(const std::vector<std::string>& roles) {
  std::vector<std::string> out;
  bool computes = roles == std::vector<std::string>{"gateway"};
  for (const std::string& role : roles) {
    if (role == "prefill" || role == "decode") computes = true;
    else if (role != "gateway") out.push_back(role);
  }
  if (computes) out.insert(out.end(), {"prefill", "decode"});
  return out;
}

/// Every rank's own address, and one key for all where other machines reach them. Each rank calls this, whatever it finds, since
/// Share is collective.
Status ResolveOnEveryHost(MpiLaunch& mpi, Config* config) {
  Status resolved = ResolveHost(config);
  char own[256] = {};
  gethostname(own, sizeof own - 1);
  ASSIGN_OR_RETURN(const std::string first, mpi.Share(own));
  ASSIGN_OR_RETURN(const std::string key, mpi.Share(MakeKey()));
  if (config->cluster.key.empty() && !OnLoopback(*config)) config->cluster.key = key;
  if (resolved.ok() && first != own && OnLoopback(*config)) {
    resolved = InvalidError("this rank runs on {}, rank 0 on {}, and cluster.bind_host is {}: give an address that other hosts reach, an interface's name "
                            "(--cluster.bind_host=eth0) or a network (--cluster.bind_host=10.0.0.0/8)", own, first, config->cluster.bind_host);
  }
  if (mpi.AllAgree(resolved.ok())) return OkStatus();
  return resolved.ok() ? UnavailableError("another rank has no address for its peers; it says why") : resolved;
}

/// Rank 0's address on every rank, once it has prepared its job; empty where that failed, with the error on rank 0 only.
Result<std::string> ShareAddress(MpiLaunch& mpi, Rank& rank, const Config& config, RankJob* job) {
  Status prepared;
  if (job != nullptr && mpi.rank() == 0) prepared = job->Prepare(config);
  std::string address;
  if (prepared.ok()) {
    ASSIGN_OR_RETURN(const PeerAddress own, rank.Listen());
    address = own.ToString();
  }
  auto shared = mpi.Share(address);
  RETURN_IF_ERROR(prepared);
  return shared;
}

}  // namespace

Status StartLogging(const Config& config, const std::string& name) {
  LogConfig log;
  log.level = config.log.level;
  log.json = config.log.json;
  log.role = name;
  return InitLogging(log);
}

bool OnLoopback(const Config& config) { return IsLoopback(config.cluster.bind_host); }

Status ResolveHost(Config* config) {
  ASSIGN_OR_RETURN(config->cluster.bind_host, ResolveBindHost(config->cluster.bind_host));
  return OkStatus();
}

Status RunAlone(LoadedConfig loaded, RankJob* job) {
  Config& config = loaded.config;
  if (loaded.origins.at("transport.kind") == "default") config.transport.kind = "local";
  const std::string name = job == nullptr ? "serve" : "job";
  RETURN_IF_ERROR(StartLogging(config, name));
  RETURN_IF_ERROR(ResolveHost(&config));
  if (config.cluster.key.empty() && !OnLoopback(config)) config.cluster.key = MakeKey();
  if (job != nullptr) RETURN_IF_ERROR(job->Prepare(config));
  const std::vector<std::string> roles = {"coordinator", "gateway", "store", "prefill", "decode"};
  RankSetup setup{config, job == nullptr ? roles : JobRoles(roles), name};
  setup.job = job;
  Rank rank(std::move(setup));
  ASSIGN_OR_RETURN(const PeerAddress own, rank.Listen());
  return rank.Run(own);
}

Status RunUnderMpi(LoadedConfig loaded, RankJob* job) {
  BlockStopSignals();
  EndWithParent();
  Config& config = loaded.config;
  ASSIGN_OR_RETURN(const std::unique_ptr<MpiLaunch> mpi, MpiLaunch::Begin());
  ASSIGN_OR_RETURN(const auto roles, AssignRoles(config.cluster.roles, loaded.origins.at("cluster.roles") == "default", mpi->size()));
  const std::string name = fmt::format("{}-{}", config.cluster.name.empty() ? "rank" : config.cluster.name, mpi->rank());
  RETURN_IF_ERROR(StartLogging(config, name));
  if (const Status ready = ResolveOnEveryHost(*mpi, &config); !ready.ok()) {
    mpi->End();
    return ready;
  }
  RankSetup setup{config, job == nullptr ? roles[mpi->rank()] : JobRoles(roles[mpi->rank()]), name};
  setup.mpi_communicator = mpi->communicator();
  setup.ranks = mpi->size();
  setup.launched_by_mpirun = true;
  if (mpi->rank() == 0) setup.job = job;
  auto rank = std::make_unique<Rank>(std::move(setup));
  auto shared = ShareAddress(*mpi, *rank, config, job);
  if (!shared.ok() || shared->empty()) {
    rank.reset();
    mpi->End();
    return shared.status();
  }
  ASSIGN_OR_RETURN(const PeerAddress coordinator, ParsePeerAddress(*shared));
  const bool keep_mpi = config.transport.kind == "mpi";
  if (!keep_mpi) mpi->End();
  const Status status = rank->Run(coordinator);
  const bool lost_a_member = rank->lost_a_member();
  rank.reset();
  // Open MPI 4's mpirun waits for ever for a job one of whose ranks was killed: the last rank tells it that it is over.
  if (mpi->rank() == 0 && lost_a_member) kill(getppid(), SIGTERM);
  if (keep_mpi) mpi->End();
  return status;
}

}  // namespace baton
