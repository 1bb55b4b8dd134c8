// `baton bench members`: what an idle cluster costs its coordinator. The workers are sessions with connections of their own, in
// a second process; they register, announce themselves, send heartbeats and hold nothing.
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/process_pair.h"
#include "base/log.h"
#include "coordinator/coordinator_service.h"
#include "protocol/member_session.h"
#include "protocol/node.h"

namespace baton {
namespace {

struct BenchMembersCommand {
  uint32_t workers = 100;
  double seconds = 5, heartbeat_s = 0.2, dead_after_s = 1.2;
  bool json = false;
};

constexpr auto kJoinLimit = 60 * kj::SECONDS;

kj::Duration ToKj(double seconds) { return static_cast<int64_t>(seconds * 1e9) * kj::NANOSECONDS; }

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

MemberInfo FakeWorker(uint32_t number) {
  MemberInfo info;
  info.name = "worker-" + std::to_string(number);
  info.roles = {number % 2 == 0 ? "decode" : "prefill"};
  info.address = {"127.0.0.1", 1};
  info.model.model_name = info.model.kv_layout = "bench";
  info.model.block_tokens = 64;
  info.model.block_bytes = 1 << 20;
  return info;
}

/// One fake worker, over a connection of its own.
struct FakeSession {
  FakeSession(kj::AsyncIoContext& io, const BenchMembersCommand& c, uint32_t number, PeerAddress coordinator)
      : peers(io.provider->getNetwork(), io.provider->getTimer(), "", std::chrono::seconds(10)) {
    auto find = [this, coordinator]() {
      return peers.Dial(coordinator).then([](Result<kj::Own<Peer>> peer) -> Result<wire::Coordinator::Client> {
        if (!peer.ok()) return peer.status();
        return (*peer)->coordinator;
      });
    };
    session = std::make_unique<MemberSession>(io.provider->getTimer(), find, FakeWorker(number), view, FromSeconds(c.heartbeat_s), MemberSession::Hooks{});
  }
  PeerTable peers;
  MembershipView view;
  std::unique_ptr<MemberSession> session;
};

/// The second process: all workers, until the control connection ends.
int RunWorkers(const BenchMembersCommand& c, const PairEnd& end) {
  uint16_t port = 0;
  if (!ReceiveAll(end.control, std::as_writable_bytes(std::span(&port, 1)))) return 1;
  auto io = kj::setupAsyncIo();
  std::vector<std::unique_ptr<FakeSession>> workers;
  for (uint32_t i = 0; i < c.workers; ++i) {
    workers.push_back(std::make_unique<FakeSession>(io, c, i, PeerAddress{"127.0.0.1", port}));
    MemberSession& session = *workers.back()->session;
    Status status = session.Join(std::chrono::seconds(30)).wait(io.waitScope);
    if (status.ok()) status = session.Announce("none", "none").wait(io.waitScope);
    if (!status.ok()) return Fail(status);
  }
  char byte = 0;
  auto control = io.lowLevelProvider->wrapInputFd(end.control, 0);
  control->tryRead(&byte, 1, 1).wait(io.waitScope);
  return 0;
}

/// The first process: a coordinator and nothing else.
int RunCoordinator(const BenchMembersCommand& c, const PairEnd& end) {
  auto io = kj::setupAsyncIo();
  kj::Timer& timer = io.provider->getTimer();
  const SystemClock clock;
  Metrics metrics;
  CoordinatorConfig config;
  config.membership.dead_after_s = c.dead_after_s;
  Coordinator coordinator(config, clock, metrics);
  NodeServices services;
  services.coordinator = wire::Coordinator::Client(kj::heap<CoordinatorService>(coordinator, metrics, timer));
  NodeServer node(services, "");
  const Status listening = node.Listen(io.provider->getNetwork(), timer, io.waitScope, "127.0.0.1");
  if (!listening.ok()) return Fail(listening);
  const uint16_t port = node.port();
  if (!SendAll(end.control, std::as_bytes(std::span(&port, 1)))) return 1;
  const auto ticks = RunTicks(coordinator, timer, FromSeconds(c.dead_after_s / 6)).eagerlyEvaluate(nullptr);
  const auto give_up = timer.now() + kJoinLimit;
  while (coordinator.membership().ready_count() < c.workers) {
    if (timer.now() > give_up) return Fail(UnavailableError("only {} of {} workers joined", coordinator.membership().ready_count(), c.workers));
    timer.afterDelay(10 * kj::MILLISECONDS).wait(io.waitScope);
  }
  timer.afterDelay(ToKj(2 * c.heartbeat_s)).wait(io.waitScope);  // by then all know all
  const double cpu_before_s = CpuSeconds();
  const Instant begin = clock.Now();
  timer.afterDelay(ToKj(c.seconds)).wait(io.waitScope);
  const double wall_s = ToSeconds(clock.Now() - begin), cpu_s = CpuSeconds() - cpu_before_s;
  const nlohmann::ordered_json result = {{"workers", coordinator.membership().ready_count()},
                                         {"heartbeats_per_s", c.workers / c.heartbeat_s},
                                         {"core_percent", 100 * cpu_s / wall_s},
                                         {"us_per_heartbeat", 1e6 * cpu_s / (wall_s / c.heartbeat_s * c.workers)}};
  if (c.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [name, value] : result.items()) std::printf("%-16s %.2f\n", name.c_str(), value.get<double>());
  }
  return 0;
}

int RunBenchMembers(const BenchMembersCommand& c) {
  const auto code = RunForked([&](const PairEnd& end) { return RunCoordinator(c, end); }, [&](const PairEnd& end) { return RunWorkers(c, end); });
  return code.ok() ? *code : Fail(code.status());
}

}  // namespace

void AddBenchMembersCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchMembersCommand>();
  BenchMembersCommand& c = *command;
  CLI::App* app = bench.add_subcommand("members", "what an idle cluster costs its coordinator");
  app->add_option("--workers", c.workers, "workers that are only there")->check(CLI::Range(1, 1024));
  app->add_option("--seconds", c.seconds, "how long")->check(CLI::Range(0.1, 3600.0));
  app->add_option("--heartbeat-s", c.heartbeat_s, "seconds between a worker's heartbeats")->check(CLI::Range(0.01, 60.0));
  app->add_option("--dead-after-s", c.dead_after_s, "silence after which a worker counts as dead")->check(CLI::Range(0.05, 600.0));
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchMembers(*command); });
}

}  // namespace baton
