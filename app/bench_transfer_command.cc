// `baton bench transfer`: how fast a transport moves segments between two processes, beside a plain memcpy and a plain
// one-stream socket loop measured in the same rounds, so that the ratio holds on a busy machine.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/cli.h"
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

/// What both processes see: the commands of the parent, the digests of the sender.
struct Board {
  uint64_t digests[kWindow][4096];
  uint64_t wrong;
};


double GbPerS(double bytes, double seconds) { return bytes / seconds / 1e9; }

bool SendAll(int fd, const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
    if (n <= 0) return false;
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

bool ReceiveAll(int fd, std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = recv(fd, data, bytes, 0);
    if (n <= 0) return false;
    data += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

/// One TCP connection over loopback: [0] and [1] are its ends.
Status TcpPair(int ends[2]) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool bound = bind(listener, generic, bytes) == 0 && listen(listener, 1) == 0 && getsockname(listener, generic, &bytes) == 0;
  const bool connected = bound && connect(ends[0], generic, bytes) == 0 && (ends[1] = accept(listener, nullptr, nullptr)) >= 0;
  close(listener);
  const int one = 1;
  for (int i = 0; i < 2; ++i) setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return connected ? OkStatus() : UnavailableError("no TCP connection over loopback: {}", std::strerror(errno));
}

/// One process of the pair.
class Bench {
 public:
  Bench(const BenchTransferCommand& command, Board* board, bool sender) : c_(command), board_(board), sender_(sender) {}

  Status Open() {
    ASSIGN_OR_RETURN(arena_, MakeSharedArena(kWindow * std::max<uint64_t>(c_.TransferBytes(), 4096)));
    std::memset(arena_.memory().bytes.data(), sender_ ? 0x5a : 0, arena_.memory().bytes.size());
    TransportConfig config;
    config.kind = c_.transport;
    config.self = WorkerId(sender_ ? 1 : 2);
    config.checksum = c_.checksum;
    ASSIGN_OR_RETURN(transport_, MakeTransport(config));
    return transport_->Register(arena_.memory());
  }
  std::string address() const { return transport_->address(); }
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
        if (done.kind == CompletionKind::kSegmentLanded && c_.digests) Verify(done);
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
      if (c_.digests) board_->digests[id % kWindow][i] = Xxh3({segment(id, i), c_.bytes}).low;
      segments.push_back({i, segment(id, i), c_.bytes});
    }
    return transport_->Push(TransferId(id), WorkerId(2), segments);
  }

  void Verify(const Completion& done) {
    if (Xxh3({segment(done.transfer.value, done.index), c_.bytes}).low != board_->digests[done.transfer.value % kWindow][done.index]) ++board_->wrong;
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
  Board* const board_;
  const bool sender_;
  const SystemClock clock_;
  SharedArena arena_;
  std::vector<Completion> done_;
  std::unique_ptr<Transport> transport_;
};

struct Order {
  uint64_t count = 0, first = 0;  // count 0: the end
  bool plain = false;             // the socket loop
};

/// The child: receives what it is told to, answers with one byte each time.
int Receiver(const BenchTransferCommand& c, Board* board, int control, int plain) {
  Bench bench(c, board, false);
  if (const Status status = bench.Open(); !status.ok()) return Fail(status);
  char address[128] = {};
  std::snprintf(address, sizeof address, "%s", bench.address().c_str());
  std::vector<std::byte> buffer(kWindow * c.TransferBytes());
  if (!SendAll(control, reinterpret_cast<const std::byte*>(address), sizeof address)) return 1;
  Order order;
  while (ReceiveAll(control, reinterpret_cast<std::byte*>(&order), sizeof order) && order.count > 0) {
    if (order.plain) {
      for (uint64_t id = 0; id < order.count; ++id) {
        for (uint32_t i = 0; i < c.depth; ++i) {
          if (!ReceiveAll(plain, buffer.data() + (id % kWindow * c.depth + i) * c.bytes, c.bytes)) return 1;
        }
      }
    } else if (const Status status = bench.Receive(order.first, order.count); !status.ok()) {
      return Fail(status);
    }
    const std::byte done{1};
    if (!SendAll(control, &done, 1)) return 1;
  }
  return 0;
}

class Sender {
 public:
  Sender(const BenchTransferCommand& c, Board* board, int control, int plain) : c_(c), control_(control), plain_(plain), bench_(c, board, true) {}

  Status Open() {
    RETURN_IF_ERROR(bench_.Open());
    char address[128];
    if (!ReceiveAll(control_, reinterpret_cast<std::byte*>(address), sizeof address)) return UnavailableError("the receiving process ended");
    RETURN_IF_ERROR(bench_.Connect(address));
    target_.resize(kWindow * c_.TransferBytes());
    return OkStatus();
  }

  /// Seconds for `count` transfers.
  Result<double> Transport(uint64_t count) {
    const Order order{count, next_};
    next_ += count;
    const Instant begin = clock_.Now();
    if (!SendAll(control_, reinterpret_cast<const std::byte*>(&order), sizeof order)) return UnavailableError("the receiving process ended");
    RETURN_IF_ERROR(bench_.Send(order.first, count));
    return Finish(begin);
  }

  Result<double> Plain(uint64_t count) {
    const Order order{count, 0, true};
    const Instant begin = clock_.Now();
    if (!SendAll(control_, reinterpret_cast<const std::byte*>(&order), sizeof order)) return UnavailableError("the receiving process ended");
    for (uint64_t id = 0; id < count; ++id) {
      for (uint32_t i = 0; i < c_.depth; ++i) {
        if (!SendAll(plain_, bench_.segment(id, i), c_.bytes)) return UnavailableError("the receiving process ended");
      }
    }
    return Finish(begin);
  }

  double Memcpy(uint64_t count) { return bench_.Memcpy(target_, count); }
  void End() {
    const Order end;
    SendAll(control_, reinterpret_cast<const std::byte*>(&end), sizeof end);
  }

 private:
  Result<double> Finish(Instant begin) {
    std::byte done;
    if (!ReceiveAll(control_, &done, 1)) return UnavailableError("the receiving process ended");
    return ToSeconds(clock_.Now() - begin);
  }

  const BenchTransferCommand& c_;
  const int control_, plain_;
  const SystemClock clock_;
  std::vector<std::byte> target_;
  uint64_t next_ = 1;
  Bench bench_;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

Result<nlohmann::ordered_json> Measure(const BenchTransferCommand& c, Sender& sender, const Board& board) {
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
  if (board.wrong > 0) return DataLossError("{} segments arrived with a wrong digest", board.wrong);
  return nlohmann::ordered_json{{"transport", c.transport}, {"bytes", c.bytes}, {"depth", c.depth}, {"digests", c.digests}, {"checksum", c.checksum},
                                {"gb_per_s", Quantile(transport, 0.5)}, {"memcpy_gb_per_s", Quantile(copy, 0.5)}, {"ratio", Quantile(ratio, 0.5)},
                                {"socket_gb_per_s", Quantile(plain, 0.5)}, {"socket_ratio", Quantile(plain_ratio, 0.5)},
                                {"ratio_low", Quantile(ratio, 0)}, {"ratio_high", Quantile(ratio, 1)},
                                {"latency_p50_us", Quantile(latency, 0.5)}, {"latency_p99_us", Quantile(latency, 0.99)}, {"rounds", c.rounds}};
}

int RunBenchTransfer(const BenchTransferCommand& c) {
  if (c.transport == "local" || c.transport == "mpi") {
    return Fail(InvalidError("the {} transport does not connect two processes that this command could start; give --transport shm, tcp or ucx", c.transport));
  }
  if (c.TransferBytes() > 1_GiB) return Fail(InvalidError("--bytes times --depth is {}; the most is 1 GiB", HumanBytes(c.TransferBytes())));
  auto* board = static_cast<Board*>(mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int control[2] = {-1, -1}, plain[2] = {-1, -1};
  if (board == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) != 0) return Fail(UnavailableError("no memory or socket: {}", std::strerror(errno)));
  if (const Status status = TcpPair(plain); !status.ok()) return Fail(status);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return Fail(UnavailableError("no second process: {}", std::strerror(errno)));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(control[0]);
    close(plain[0]);
    _exit(Receiver(c, board, control[1], plain[1]));
  }
  close(control[1]);
  close(plain[1]);
  Sender sender(c, board, control[0], plain[0]);
  const Status opened = sender.Open();
  const Result<nlohmann::ordered_json> result = opened.ok() ? Measure(c, sender, *board) : Result<nlohmann::ordered_json>(opened);
  sender.End();
  close(control[0]);
  close(plain[0]);
  waitpid(child, nullptr, 0);
  munmap(board, sizeof(Board));
  if (!result.ok()) return Fail(result.status());
  if (c.json) {
    std::printf("%s\n", result->dump().c_str());
  } else {
    for (const auto& [name, value] : result->items()) std::printf("%-18s %s\n", name.c_str(), value.dump().c_str());
  }
  return 0;
}

}  // namespace

void AddBenchTransferCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchTransferCommand>();
  BenchTransferCommand& c = *command;
  CLI::App* app = bench.add_subcommand("transfer", "speed of a transport between two processes, beside memcpy and a plain socket loop");
  app->add_option("--transport", c.transport, "shm, tcp or ucx")->check(CLI::IsMember({"local", "shm", "tcp", "ucx", "mpi"}));
  app->add_option("--bytes", c.bytes, "bytes of each segment")->check(CLI::Range(uint64_t{1}, uint64_t{256_MiB}));
  app->add_option("--depth", c.depth, "segments of each transfer")->check(CLI::Range(1, 4096));
  app->add_option("--rounds", c.rounds, "interleaved rounds; medians are printed")->check(CLI::Range(1, 1000));
  app->add_option("--seconds", c.seconds, "about how long each part of a round takes")->check(CLI::Range(0.01, 60.0));
  app->add_flag("--digests", c.digests, "both ends compute the XXH3-128 of every segment, and the receiver compares");
  app->add_flag("--checksum", c.checksum, "the transport's own checksum of every piece");
  app->add_flag("--json", c.json, "one JSON object");
  app->callback([command, &context] { context.exit_code = RunBenchTransfer(*command); });
}

}  // namespace baton
