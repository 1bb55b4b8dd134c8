#include "app/start_ranks.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "app/bind_host.h"
#include "app/mpi_launch.h"
#include "app/roles.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"

namespace baton {
namespace {

std::string MakeKey() { return fmt::format("{:016x}{:016x}{:016x}{:016x}", EntropySeed(), EntropySeed(), EntropySeed(), EntropySeed()); }

constexpr double kFlushTimeS = 10;  // a rank may take so long after its drain

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

/// Of a process that lives: its parent and its name.
struct ProcessStat {
  pid_t parent = 0;
  std::string name;
};
std::optional<ProcessStat> ReadStat(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t open = line.find('('), close = line.rfind(") ");  // the name may contain anything
  if (open == std::string::npos || close == std::string::npos) return std::nullopt;
  char state = 0;
  ProcessStat stat;
  std::istringstream rest(line.substr(close + 2));
  if (!(rest >> state >> stat.parent) || state == 'Z') return std::nullopt;
  stat.name = line.substr(open + 1, close - open - 1);
  return stat;
}

std::vector<pid_t> LivingSiblings() {
  std::vector<pid_t> siblings;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto stat = ReadStat(name);
    if (stat && stat->parent == getppid()) siblings.push_back(static_cast<pid_t>(std::stol(name)));
  }
  return siblings;
}

/// Rank 0 is dead, so that another one has to be the last: of those that mpirun started on its own host the one with the least
/// number waits until the others have gone, and is told true; the others go at once.
bool IsLastSibling(double limit_s) {
  const auto launcher = ReadStat(std::to_string(getppid()));
  if (!launcher || (launcher->name != "mpirun" && launcher->name != "orterun" && launcher->name != "mpiexec")) return false;
  const SystemClock clock;
  const Instant deadline = clock.Now() + FromSeconds(limit_s);
  for (;;) {
    const std::vector<pid_t> siblings = LivingSiblings();
    if (std::any_of(siblings.begin(), siblings.end(), [](pid_t pid) { return pid < getpid(); })) return false;
    if (siblings.size() <= 1 || clock.Now() > deadline) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
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
  const bool lost_a_member = rank->lost_a_member(), lost_the_coordinator = rank->lost_the_coordinator();
  rank.reset();
  // Open MPI 4's mpirun waits for ever for a job one of whose ranks was killed: the last rank tells it that it is over.
  if (lost_a_member || (lost_the_coordinator && IsLastSibling(config.gateway.drain_timeout_s + kFlushTimeS))) kill(getppid(), SIGTERM);
  if (keep_mpi) mpi->End();
  return status;
}

}  // namespace baton
