// `baton bench transfer`: app/transfer_bench.h as a command.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "app/cli.h"
#include "app/mpi_launch.h"
#include "app/transfer_bench.h"
#include "transport/transport.h"

namespace baton {
namespace {

struct BenchTransferCommand : TransferBench {
  bool json = false;
};

int Send(const BenchTransferCommand& c, const PairEnd& end) {
  const Result<nlohmann::ordered_json> result = SendTransfers(c, end);
  if (!result.ok()) return Fail(result.status());
  if (c.json) {
    std::printf("%s\n", result->dump().c_str());
  } else {
    for (const auto& [name, value] : result->items()) std::printf("%-18s %s\n", name.c_str(), value.dump().c_str());
  }
  std::fflush(stdout);
  return 0;
}

int RunBenchTransfer(const BenchTransferCommand& c, const CommandLine& line) {
  if (c.transport == "local") return Fail(InvalidError("the local transport stays in one process; give --transport auto, shm, tcp, ucx or mpi"));
  if (c.TransferBytes() > 1_GiB) return Fail(InvalidError("--bytes times --depth is {}; the most is 1 GiB", HumanBytes(c.TransferBytes())));
  const auto kinds = TransportKinds();
  if (std::find(kinds.begin(), kinds.end(), c.transport) == kinds.end()) return Fail(InvalidError("this build has no {} transport", c.transport));
  const auto send = [&c](const PairEnd& end) { return Send(c, end); };
  const auto receive = [&c](const PairEnd& end) { return ReceiveTransfers(c, end); };
  const bool ranks = StartedByMpirun();
  if (!ranks && c.transport == "mpi") return Fail(RestartUnderMpirun(line));
  const Result<int> code = ranks ? RunAsRanks(send, receive) : RunForked(send, receive);
  return code.ok() ? *code : Fail(code.status());
}

}  // namespace

void AddBenchTransferCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchTransferCommand>();
  BenchTransferCommand& c = *command;
  CLI::App* app = bench.add_subcommand("transfer", "speed of a transport between two processes, beside memcpy and a plain socket loop");
  app->add_option("--transport", c.transport, "auto, shm, tcp, ucx or mpi, which starts itself under mpirun")->check(CLI::IsMember({"auto", "local", "shm", "tcp", "ucx", "mpi"}));
  app->add_option("--bytes", c.bytes, "bytes of each segment")->check(CLI::Range(uint64_t{1}, uint64_t{256_MiB}));
  app->add_option("--depth", c.depth, "segments of each transfer")->check(CLI::Range(1, 4096));
  app->add_option("--rounds", c.rounds, "interleaved rounds; medians are printed")->check(CLI::Range(1, 1000));
  app->add_option("--seconds", c.seconds, "about how long each part of a round takes")->check(CLI::Range(0.01, 60.0));
  app->add_flag("--digests", c.digests, "both ends compute the XXH3-128 of every segment, and they are compared");
  app->add_flag("--checksum", c.checksum, "the transport's own checksum of every piece");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchTransfer(*command, context.line); });
}

}  // namespace baton
