// `baton bench transfer`: how fast a transport moves segments between two processes, beside a plain memcpy and a plain
// one-stream socket loop measured in the same rounds, so that the ratio holds on a busy machine.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/mpi_launch.h"
#include "app/process_pair.h"
#include "base/clock.h"
#include "base/hash.h"
#include "transport/shared_arena.h"
#include "transport/transport.h"

namespace baton {
namespace {

constexpr uint32_t kWindow = 3;      // transfers under way at once
constexpr double kPatience_s = 60;   // for the other process, in anything

struct BenchTransferCommand {
  std::string transport = "shm";
  uint64_t bytes = 1_MiB;
  uint32_t depth = 16, rounds = 7;
  double seconds = 0.3;
  bool digests = false, checksum = false, json = false;
  uint64_t TransferBytes() const { return bytes * depth; }
};

double GbPerS(double bytes, double seconds) { return bytes / seconds / 1e9; }

/// One process of the pair.
class Bench {
 public:
  Bench(const BenchTransferCommand& command, bool sender) : c_(command), sender_(sender) {}

  Status Open(int mpi_communicator) {
    ASSIGN_OR_RETURN(arena_, MakeSharedArena(kWindow * std::max<uint64_t>(c_.TransferBytes(), 4096)));
    std::memset(arena_.memory().bytes.data(), sender_ ? 0x5a : 0, arena_.memory().bytes.size());
    TransportConfig config;
    config.kind = c_.transport;
    config.self = WorkerId(sender_ ? 1 : 2);
    config.checksum = c_.checksum;
    config.mpi_communicator = mpi_communicator;
    ASSIGN_OR_RETURN(transport_, MakeTransport(config));
    return transport_->Register(arena_.memory());
  }
  std::string address() const { return transport_->address(); }
  /// All segments' digests so far, whatever their order: the same at both ends.
  uint64_t digests() const { return digests_; }
  Status Connect(const std::string& address) { return transport_->Connect(WorkerId(2), address).status(); }
  std::byte* segment(uint64_t transfer, uint32_t index) { return arena_.memory().bytes.data() + (transfer % kWindow * c_.depth + index) * c_.bytes; }

  /// Receives `count` transfers with ids from `first`.
  Status Receive(uint64_t first, uint64_t count) {
    uint64_t asked = 0, landed = 0;
    const Instant limit = clock_.Now() + FromSeconds(kPatience_s);
    while (landed < count) {
      for (; asked < count && asked < landed + kWindow; ++asked) RETURN_IF_ERROR(Ask(first + asked, limit));
      RETURN_IF_ERROR(Next(limit));
      for (const Completion& done : done_) {
        if (done.kind == CompletionKind::kTransferLanded) ++landed;
        if (done.kind == CompletionKind::kSegmentLanded) Digest(done.transfer.value, done.index);
      }
    }
    return OkStatus();
  }

  Status Send(uint64_t first, uint64_t count) {
    uint64_t pushed = 0, sent = 0;
    const Instant limit = clock_.Now() + FromSeconds(kPatience_s);
    while (sent < count * c_.depth) {
      for (; pushed < count && pushed * c_.depth < sent + kWindow * c_.depth; ++pushed) RETURN_IF_ERROR(PushOne(first + pushed));
      RETURN_IF_ERROR(Next(limit));
      for (const Completion& done : done_) sent += done.kind == CompletionKind::kSent;
    }
    return OkStatus();
  }

  double Memcpy(std::vector<std::byte>& target, uint64_t count) {
    const Instant begin = clock_.Now();
    for (uint64_t id = 0; id < count; ++id) {
      for (uint32_t i = 0; i < c_.depth; ++i) std::memcpy(target.data() + (segment(id, i) - arena_.memory().bytes.data()), segment(id, i), c_.bytes);
    }
    asm volatile("" : : "r"(target.data()) : "memory");
    return ToSeconds(clock_.Now() - begin);
  }

 private:
  Status Ask(uint64_t id, Instant limit) {
    std::vector<Landing> landings;
    for (uint32_t i = 0; i < c_.depth; ++i) landings.push_back({segment(id, i), c_.bytes});
    return transport_->Expect(TransferId(id), WorkerId(1), landings, limit);
  }

  Status PushOne(uint64_t id) {
    std::vector<Segment> segments;
    for (uint32_t i = 0; i < c_.depth; ++i) {
      Digest(id, i);
      segments.push_back({i, segment(id, i), c_.bytes});
    }
    return transport_->Push(TransferId(id), WorkerId(2), segments);
  }

  void Digest(uint64_t id, uint32_t index) {
    if (c_.digests) digests_ += Xxh3({segment(id, index), c_.bytes}).low * (2 * (id * c_.depth + index) + 1);
  }

  /// The next completions into done_; sleeps for them.
  Status Next(Instant limit) {
    done_.resize(256);
    size_t n = transport_->Poll(done_);
    while (n == 0) {
      if (clock_.Now() > limit) return DeadlineError("nothing moved for {:.0f} s", kPatience_s);
      transport_->Wait(std::chrono::milliseconds(100));
      n = transport_->Poll(done_);
    }
    done_.resize(n);
    for (const Completion& done : done_) {
      if (done.kind == CompletionKind::kFailed) return done.status;
    }
    return OkStatus();
  }

  const BenchTransferCommand& c_;
  const bool sender_;
  const SystemClock clock_;
  SharedArena arena_;
  std::vector<Completion> done_;
  uint64_t digests_ = 0;
  std::unique_ptr<Transport> transport_;
};

struct Order {
  uint64_t count = 0, first = 0;  // count 0: the end
  bool plain = false;             // the socket loop
};
struct Answer {
  uint64_t digests = 0;
};
template <typename T>
Bytes Raw(const T& value) { return std::as_bytes(std::span(&value, 1)); }
template <typename T>
MutableBytes Raw(T& value) { return std::as_writable_bytes(std::span(&value, 1)); }

/// The second process: receives what it is told to and answers each time.
int Receive(const BenchTransferCommand& c, const PairEnd& end) {
  Bench bench(c, false);
  if (const Status status = bench.Open(end.mpi_communicator); !status.ok()) return Fail(status);
  const std::string address = bench.address();
  std::vector<std::byte> buffer(kWindow * c.TransferBytes());
  if (!SendAll(end.control, Raw(address.size())) || !SendAll(end.control, AsBytes(address))) return 1;
  Order order;
  while (ReceiveAll(end.control, Raw(order)) && order.count > 0) {
    if (order.plain) {
      for (uint64_t id = 0; id < order.count; ++id) {
        for (uint32_t i = 0; i < c.depth; ++i) {
          if (!ReceiveAll(end.plain, {buffer.data() + (id % kWindow * c.depth + i) * c.bytes, c.bytes})) return 1;
        }
      }
    } else if (const Status status = bench.Receive(order.first, order.count); !status.ok()) {
      return Fail(status);
    }
    if (!SendAll(end.control, Raw(Answer{bench.digests()}))) return 1;
  }
  return 0;
}

class Sender {
 public:
  Sender(const BenchTransferCommand& c, const PairEnd& end) : c_(c), end_(end), bench_(c, true) {}

  Status Open() {
    RETURN_IF_ERROR(bench_.Open(end_.mpi_communicator));
    size_t bytes = 0;
    if (!ReceiveAll(end_.control, Raw(bytes))) return Ended();
    std::string address(bytes, '\0');  // UCX's have hundreds of bytes
    if (!ReceiveAll(end_.control, std::as_writable_bytes(std::span(address)))) return Ended();
    RETURN_IF_ERROR(bench_.Connect(address));
    target_.resize(kWindow * c_.TransferBytes());
    return OkStatus();
  }

  /// Seconds for `count` transfers.
  Result<double> Transport(uint64_t count) {
    const Order order{count, next_};
    next_ += count;
    const Instant begin = clock_.Now();
    if (!SendAll(end_.control, Raw(order))) return Ended();
    RETURN_IF_ERROR(bench_.Send(order.first, count));
    ASSIGN_OR_RETURN(const double seconds, Finish(begin));
    if (answer_.digests != bench_.digests()) return DataLossError("segments arrived with wrong digests");
    return seconds;
  }

  Result<double> Plain(uint64_t count) {
    const Order order{count, 0, true};
    const Instant begin = clock_.Now();
    if (!SendAll(end_.control, Raw(order))) return Ended();
    for (uint64_t id = 0; id < count; ++id) {
      for (uint32_t i = 0; i < c_.depth; ++i) {
        if (!SendAll(end_.plain, {bench_.segment(id, i), c_.bytes})) return Ended();
      }
    }
    return Finish(begin);
  }

  double Memcpy(uint64_t count) { return bench_.Memcpy(target_, count); }
  void End() {
    SendAll(end_.control, Raw(Order{}));
  }

 private:
  static Status Ended() { return UnavailableError("the receiving process ended"); }
  Result<double> Finish(Instant begin) {
    if (!ReceiveAll(end_.control, Raw(answer_))) return Ended();
    return ToSeconds(clock_.Now() - begin);
  }

  const BenchTransferCommand& c_;
  const PairEnd& end_;
  const SystemClock clock_;
  std::vector<std::byte> target_;
  uint64_t next_ = 1;
  Answer answer_;
  Bench bench_;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

Result<nlohmann::ordered_json> Measure(const BenchTransferCommand& c, Sender& sender) {
  ASSIGN_OR_RETURN(const double warm, sender.Transport(4));  // connects, touches all memory
  ASSIGN_OR_RETURN(const double probe, sender.Transport(4));
  const double each = std::max(std::min(warm, probe) / 4, 1e-6);
  const auto count = static_cast<uint64_t>(std::clamp(c.seconds / each, 4.0, 1e6));
  const double bytes = static_cast<double>(count) * static_cast<double>(c.TransferBytes());
  std::vector<double> transport, copy, plain, ratio, plain_ratio, latency;
  sender.Memcpy(count);
  for (uint32_t round = 0; round < c.rounds; ++round) {
    copy.push_back(GbPerS(bytes, sender.Memcpy(count)));
    ASSIGN_OR_RETURN(const double transport_s, sender.Transport(count));
    ASSIGN_OR_RETURN(const double plain_s, sender.Plain(count));
    transport.push_back(GbPerS(bytes, transport_s));
    plain.push_back(GbPerS(bytes, plain_s));
    ratio.push_back(transport.back() / copy.back());
    plain_ratio.push_back(transport.back() / plain.back());
  }
  for (int i = 0; i < 200; ++i) {
    ASSIGN_OR_RETURN(const double seconds, sender.Transport(1));
    latency.push_back(seconds * 1e6);
  }
  return nlohmann::ordered_json{{"transport", c.transport}, {"bytes", c.bytes}, {"depth", c.depth}, {"digests", c.digests}, {"checksum", c.checksum},
                                {"gb_per_s", Quantile(transport, 0.5)}, {"memcpy_gb_per_s", Quantile(copy, 0.5)}, {"ratio", Quantile(ratio, 0.5)},
                                {"socket_gb_per_s", Quantile(plain, 0.5)}, {"socket_ratio", Quantile(plain_ratio, 0.5)},
                                {"ratio_low", Quantile(ratio, 0)}, {"ratio_high", Quantile(ratio, 1)},
                                {"latency_p50_us", Quantile(latency, 0.5)}, {"latency_p99_us", Quantile(latency, 0.99)}, {"rounds", c.rounds}};
}

int Send(const BenchTransferCommand& c, const PairEnd& end) {
  Sender sender(c, end);
  const Status opened = sender.Open();
  const Result<nlohmann::ordered_json> result = opened.ok() ? Measure(c, sender) : Result<nlohmann::ordered_json>(opened);
  sender.End();
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
  const auto receive = [&c](const PairEnd& end) { return Receive(c, end); };
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
