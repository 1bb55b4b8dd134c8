// `baton doctor`: one line a check, with what to change. A failed check makes the exit code 1; a warning does not.
#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "app/build_info.h"
#include "app/cli.h"
#include "app/config.h"
#include "app/transfer_bench.h"
#include "base/bytes.h"
#include "model/weights.h"
#include "transport/transport.h"

namespace baton {
namespace {

struct DoctorCommand {
  bool json = false;
  std::string config_file;
};
enum class Verdict { kGood, kWarning, kBad };
struct Check {
  std::string name;
  Verdict verdict = Verdict::kGood;
  std::string found, advice;
};

Check CheckCores() {
  const unsigned cores = std::thread::hardware_concurrency();
  return {"cores", cores >= 2 ? Verdict::kGood : Verdict::kWarning, fmt::format("{} logical cores", cores),
          cores >= 2 ? "" : "a prefill and a decode worker share one core; give the machine two"};
}

Check CheckIsa() {
  const std::string isa = GetBuildInfo().isa;
  return {"isa", isa == "scalar" ? Verdict::kWarning : Verdict::kGood, isa,
          isa == "scalar" ? "no AVX2: the portable kernels run, several times slower" : ""};
}

Check CheckMemory(const Config& config) {
  const uint64_t total = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  const uint64_t wanted = config.engine.kv_bytes + config.store.memory_bytes;
  const bool fits = wanted < total / 2;
  return {"memory", fits ? Verdict::kGood : Verdict::kWarning,
          fmt::format("{} of memory; KV and store memory of one worker ask for {}", HumanBytes(total), HumanBytes(wanted)),
          fits ? "" : "lower engine.kv_bytes or store.memory_bytes"};
}

Check CheckFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const bool enough = limit.rlim_cur >= 1024;
  return {"open files", enough ? Verdict::kGood : Verdict::kWarning, fmt::format("{} allowed", limit.rlim_cur),
          enough ? "" : "raise it: ulimit -n 4096"};
}

Check CheckPort(const Config& config) {
  const std::string where = fmt::format("{}:{}", config.gateway.host, config.gateway.port);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(config.gateway.port));
  if (fd < 0 || inet_pton(AF_INET, config.gateway.host.c_str(), &address.sin_addr) != 1) {
    if (fd >= 0) close(fd);
    return {"port", Verdict::kBad, where + " is not an IPv4 address and port", "set gateway.host, for example to 127.0.0.1"};
  }
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool free = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const std::string reason = free ? "free" : std::strerror(errno);
  close(fd);
  return {"port", free ? Verdict::kGood : Verdict::kBad, where + ": " + reason, free ? "" : "stop what uses it or give --gateway.port=N"};
}

Check CheckDisk(const Config& config) {
  if (config.store.path.empty()) {
    return {"store", Verdict::kWarning, "memory only", "set store.path to a folder to keep prefixes over a restart"};
  }
  std::error_code error;
  std::filesystem::path folder = std::filesystem::absolute(config.store.path, error);
  while (!folder.empty() && !std::filesystem::exists(folder, error) && folder != folder.parent_path()) folder = folder.parent_path();
  if (!std::filesystem::is_directory(folder, error)) {
    return {"store", Verdict::kBad, fmt::format("{} is no folder", folder.string()), "give store.path a folder, or a name that is free in one"};
  }
  struct statvfs info{};
  if (statvfs(folder.c_str(), &info) != 0 || access(folder.c_str(), W_OK) != 0) {
    return {"store", Verdict::kBad, fmt::format("{}: {}", folder.string(), std::strerror(errno)), "give store.path a folder you may write"};
  }
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  return {"store", free >= config.store.disk_bytes ? Verdict::kGood : Verdict::kWarning,
          fmt::format("{}: {} free, quota {}", folder.string(), HumanBytes(free), HumanBytes(config.store.disk_bytes)),
          free >= config.store.disk_bytes ? "" : "lower store.disk_bytes below what is free"};
}

Check CheckSharedMemory() {
  struct statvfs info{};
  if (statvfs("/dev/shm", &info) != 0) return {"shared memory", Verdict::kWarning, "no /dev/shm", "use transport.kind tcp"};
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  return {"shared memory", free >= 64_MiB ? Verdict::kGood : Verdict::kWarning, HumanBytes(free) + " free in /dev/shm",
          free >= 64_MiB ? "" : "give the container more (--shm-size=1g) or use transport.kind tcp"};
}

/// The file of that name in a folder of PATH, or "".
std::string FindInPath(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::stringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (!folder.empty() && access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

Check CheckMpi() {
#if BATON_HAVE_MPI
  const std::string mpirun = FindInPath("mpirun");
  if (mpirun.empty()) return {"mpi", Verdict::kWarning, "built in, but there is no mpirun in PATH", "install openmpi-bin, or use `baton serve`"};
  const bool root = geteuid() == 0;
  const bool allowed = std::getenv("OMPI_ALLOW_RUN_AS_ROOT") != nullptr && std::getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") != nullptr;
  return {"mpi", root && !allowed ? Verdict::kWarning : Verdict::kGood, mpirun,
          root && !allowed ? "as root Open MPI asks for OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the environment" : ""};
#else
  return {"mpi", Verdict::kWarning, "this build has none", "install libopenmpi-dev and build again, or use `baton serve`"};
#endif
}

bool HasRdmaDevice() {
  std::error_code error;
  const std::filesystem::path devices("/sys/class/infiniband");
  return std::filesystem::is_directory(devices, error) && !std::filesystem::is_empty(devices, error);
}

Check CheckTransports(const Config& config) {
  std::string kinds;
  bool there = false;
  for (const std::string_view kind : TransportKinds()) {
    kinds += (kinds.empty() ? "" : ", ") + std::string(kind);
    there = there || kind == config.transport.kind;
  }
  const bool rdma = HasRdmaDevice();
  const std::string choice = config.transport.kind == "auto" ? "auto: shared memory between workers of one host, TCP between hosts" : config.transport.kind;
  return {"transports", there ? Verdict::kGood : Verdict::kBad,
          fmt::format("{} ({}); {}", choice, kinds, rdma ? "an RDMA device is there: transport.kind=ucx would use it" : "no RDMA device"),
          there ? "" : fmt::format("transport.kind is {}: take one of these", config.transport.kind)};
}

/// GB/s between two processes of this machine, now; 0 where it cannot be measured.
double MeasuredGbPerS(const std::string& kind) {
  TransferBench bench{.transport = kind, .depth = 8, .rounds = 3, .latencies = 1, .seconds = 0.03};
  double measured = 0;
  const auto send = [&](const PairEnd& end) {
    const auto result = SendTransfers(bench, end);
    if (result.ok()) measured = result->at("gb_per_s").get<double>();
    return result.ok() ? 0 : 1;
  };
  const Result<int> code = RunForked(send, [&](const PairEnd& end) { return ReceiveTransfers(bench, end); });
  return code.ok() ? measured : 0;
}

Check MeasureTransports(const Config& config) {
  const bool rdma = HasRdmaDevice();
  std::vector<std::string> kinds = {"shm", "tcp"};
  if (rdma || config.transport.kind == "ucx") kinds.push_back("ucx");
  std::string found;
  bool all = true;
  for (const std::string& kind : kinds) {
    const double gb_per_s = MeasuredGbPerS(kind);
    all = all && gb_per_s > 0;
    found += gb_per_s > 0 ? fmt::format("{} {:.2f} GB/s, ", kind, gb_per_s) : fmt::format("{} does not work here, ", kind);
  }
  if (config.transport.kind == "auto") {
    found += "auto takes shm on one host (one copy) and tcp between hosts";
    found += rdma ? " (ucx is not chosen by itself: set transport.kind)" : " (there is no RDMA device for ucx)";
  } else {
    found += fmt::format("{} is taken, as transport.kind says", config.transport.kind);
  }
  return {"transfer speed", all ? Verdict::kGood : Verdict::kWarning, found, all ? "" : "`baton bench transfer --transport KIND` says why"};
}

Check CheckGpu(const Config& config) {
  const bool driver = access("/dev/nvidiactl", F_OK) == 0;
  const bool wanted = config.model.device == "cuda";
  return {"gpu", wanted ? Verdict::kBad : Verdict::kGood, driver ? "an NVIDIA driver is there; this build computes on the CPU" : "none",
          wanted ? "this build has no CUDA backend: set model.device to cpu" : ""};
}

Check CheckModel(const Config& config) {
  if (config.model.path.empty()) return {"model", Verdict::kWarning, "none given", "set model.path to a GGUF file or a folder of safetensors"};
  auto weights = OpenWeights(config.model.path);
  if (!weights.ok()) return {"model", Verdict::kBad, weights.status().message(), "give a complete file of a supported architecture"};
  const ModelInfo& info = (*weights)->info();
  return {"model", Verdict::kGood, fmt::format("{}: {}, {} layers, hidden {}, vocabulary {}", info.name, info.architecture, info.layers,
          info.hidden, info.vocab), ""};
}

int RunDoctor(const DoctorCommand& command, const CommandLine& line) {
  auto loaded = LoadConfig(command.config_file, line.environment, line.settings);
  if (!loaded.ok()) return Fail(loaded.status());
  const Config& config = loaded->config;
  static constexpr const char* kWords[] = {"ok", "warning", "failed"};
  bool bad = false;
  for (const Check& check : {CheckCores(), CheckIsa(), CheckMemory(config), CheckFiles(), CheckMpi(), CheckTransports(config), MeasureTransports(config), CheckSharedMemory(),
                             CheckGpu(config), CheckPort(config), CheckDisk(config), CheckModel(config)}) {
    const char* word = kWords[static_cast<int>(check.verdict)];
    bad = bad || check.verdict == Verdict::kBad;
    if (command.json) {
      const nlohmann::ordered_json object = {{"check", check.name}, {"verdict", word}, {"found", check.found}, {"advice", check.advice}};
      std::printf("%s\n", object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    } else {
      std::printf("%-8s %-14s %s%s%s\n", word, check.name.c_str(), check.found.c_str(), check.advice.empty() ? "" : "\n                        → ",
                  check.advice.c_str());
    }
  }
  return bad ? 1 : 0;
}

}  // namespace

void AddDoctorCommand(CLI::App& program, CommandContext& context) {
  auto c = std::make_shared<DoctorCommand>();
  CLI::App* app = program.add_subcommand("doctor", "checks this machine and says what to change");
  app->add_flag("--json", c->json, "one JSON object a check");
  app->add_option("--config", c->config_file, "YAML file whose ports, folders and model are checked");
  app->callback([c, &context] { context.exit_code = RunDoctor(*c, context.line); });
}

}  // namespace baton
