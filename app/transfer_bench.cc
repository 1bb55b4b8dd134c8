#include "app/transfer_bench.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <memory>

#include "app/cli.h"
#include "app/mpi_loop.h"
#include "base/clock.h"
#include "base/hash.h"
#include "transport/shared_arena.h"
#include "transport/transport.h"

namespace baton {
namespace {

constexpr uint32_t kWindow = 3;      // transfers under way at once
constexpr double kPatience_s = 60;   // for the other process, in anything

/// CPU time of this process so far.
double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double GbPerS(double bytes, double seconds) { return bytes / seconds / 1e9; }

/// One process of the pair.
class Bench {
 public:
  Bench(const TransferBench& command, bool sender) : c_(command), sender_(sender) {}

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
        if (done.digested) digests_ += Share(done.digest, done.transfer.value, done.index);
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
    return transport_->Expect(TransferId(id), WorkerId(1), landings, limit, c_.digests ? 1 : 0);
  }

  /// As a producer does: each segment leaves as soon as its digest is made.
  Status PushOne(uint64_t id) {
    std::vector<Segment> segments;
    for (uint32_t i = 0; i < c_.depth; ++i) {
      segments.push_back({i, segment(id, i), c_.bytes});
      if (!c_.digests) continue;
      digests_ += Share(Xxh3({segments.back().data, c_.bytes}), id, i);
      RETURN_IF_ERROR(transport_->Push(TransferId(id), WorkerId(2), segments));
      segments.clear();
    }
    return segments.empty() ? OkStatus() : transport_->Push(TransferId(id), WorkerId(2), segments);
  }

  uint64_t Share(const Digest128& digest, uint64_t id, uint32_t index) const { return digest.low * (2 * (id * c_.depth + index) + 1); }

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

  const TransferBench& c_;
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
  double cpu_s = 0;  // of that process, for this order
};
template <typename T>
Bytes Raw(const T& value) { return std::as_bytes(std::span(&value, 1)); }
template <typename T>
MutableBytes Raw(T& value) { return std::as_writable_bytes(std::span(&value, 1)); }

/// The plain loop: MPI's own where the transport is mpi, else one TCP stream.
bool OverMpi(const TransferBench& c, const PairEnd& end) { return c.transport == "mpi" && end.mpi_communicator != 0; }
bool SendPlain(const TransferBench& c, const PairEnd& end, const std::vector<Bytes>& window) {
  if (OverMpi(c, end)) return SendWindow(end.mpi_communicator, window).ok();
  return std::all_of(window.begin(), window.end(), [&](Bytes segment) { return SendAll(end.plain, segment); });
}
bool ReceivePlain(const TransferBench& c, const PairEnd& end, const std::vector<MutableBytes>& window) {
  if (OverMpi(c, end)) return ReceiveWindow(end.mpi_communicator, window).ok();
  return std::all_of(window.begin(), window.end(), [&](MutableBytes segment) { return ReceiveAll(end.plain, segment); });
}

class Sender {
 public:
  Sender(const TransferBench& c, const PairEnd& end) : c_(c), end_(end), bench_(c, true) {}

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
    const double begin_cpu = CpuSeconds();
    const Instant begin = clock_.Now();
    if (!SendAll(end_.control, Raw(order))) return Ended();
    RETURN_IF_ERROR(bench_.Send(order.first, count));
    ASSIGN_OR_RETURN(const double seconds, Finish(begin));
    if (answer_.digests != bench_.digests()) return DataLossError("segments arrived with wrong digests");
    busier_cpu_s_ = std::max(CpuSeconds() - begin_cpu, answer_.cpu_s);
    return seconds;
  }

  Result<double> Plain(uint64_t count) {
    const Order order{count, 0, true};
    const double begin_cpu = CpuSeconds();
    const Instant begin = clock_.Now();
    if (!SendAll(end_.control, Raw(order))) return Ended();
    for (uint64_t id = 0; id < count; ++id) {
      std::vector<Bytes> window;
      for (uint32_t i = 0; i < c_.depth; ++i) window.push_back({bench_.segment(id, i), c_.bytes});
      if (!SendPlain(c_, end_, window)) return Ended();
    }
    ASSIGN_OR_RETURN(const double seconds, Finish(begin));
    busier_cpu_s_ = std::max(CpuSeconds() - begin_cpu, answer_.cpu_s);
    return seconds;
  }

  /// CPU seconds of the busier process in the last Transport or Plain: what it would take at least where each had a core to itself.
  double busier_cpu_s() const { return busier_cpu_s_; }

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

  const TransferBench& c_;
  const PairEnd& end_;
  const SystemClock clock_;
  std::vector<std::byte> target_;
  uint64_t next_ = 1;
  Answer answer_;
  double busier_cpu_s_ = 0;
  Bench bench_;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

Result<nlohmann::ordered_json> Rounds(const TransferBench& c, Sender& sender) {
  ASSIGN_OR_RETURN(const double warm, sender.Transport(4));  // connects, touches all memory
  ASSIGN_OR_RETURN(const double probe, sender.Transport(4));
  const double each = std::max(std::min(warm, probe) / 4, 1e-6);
  const auto count = static_cast<uint64_t>(std::clamp(c.seconds / each, 4.0, 1e6));
  const double bytes = static_cast<double>(count) * static_cast<double>(c.TransferBytes());
  std::vector<double> transport, copy, plain, ratio, plain_ratio, cpu_ratio, plain_cpu_ratio, latency;
  sender.Memcpy(count);
  for (uint32_t round = 0; round < c.rounds; ++round) {
    const double begin_cpu = CpuSeconds();
    copy.push_back(GbPerS(bytes, sender.Memcpy(count)));
    const double copy_cpu_s = CpuSeconds() - begin_cpu;
    ASSIGN_OR_RETURN(const double transport_s, sender.Transport(count));
    const double transport_cpu_s = sender.busier_cpu_s();
    cpu_ratio.push_back(copy_cpu_s / transport_cpu_s);
    ASSIGN_OR_RETURN(const double plain_s, sender.Plain(count));
    plain_cpu_ratio.push_back(sender.busier_cpu_s() / transport_cpu_s);
    transport.push_back(GbPerS(bytes, transport_s));
    plain.push_back(GbPerS(bytes, plain_s));
    ratio.push_back(transport.back() / copy.back());
    plain_ratio.push_back(transport.back() / plain.back());
  }
  for (uint32_t i = 0; i < c.latencies; ++i) {
    ASSIGN_OR_RETURN(const double seconds, sender.Transport(1));
    latency.push_back(seconds * 1e6);
  }
  return nlohmann::ordered_json{{"transport", c.transport}, {"bytes", c.bytes}, {"depth", c.depth}, {"digests", c.digests}, {"checksum", c.checksum},
                                {"gb_per_s", Quantile(transport, 0.5)}, {"memcpy_gb_per_s", Quantile(copy, 0.5)}, {"ratio", Quantile(ratio, 0.5)},
                                {c.transport == "mpi" ? "mpi_loop_gb_per_s" : "socket_gb_per_s", Quantile(plain, 0.5)},
                                {c.transport == "mpi" ? "mpi_loop_ratio" : "socket_ratio", Quantile(plain_ratio, 0.5)},
                                {"ratio_low", Quantile(ratio, 0)}, {"ratio_high", Quantile(ratio, 1)},
                                {"cpu_ratio", Quantile(cpu_ratio, 0.5)},
                                {c.transport == "mpi" ? "mpi_loop_cpu_ratio" : "socket_cpu_ratio", Quantile(plain_cpu_ratio, 0.5)},
                                {"latency_p50_us", Quantile(latency, 0.5)}, {"latency_p99_us", Quantile(latency, 0.99)}, {"rounds", c.rounds}};
}

}  // namespace

int ReceiveTransfers(const TransferBench& c, const PairEnd& end) {
  Bench bench(c, false);
  if (const Status status = bench.Open(end.mpi_communicator); !status.ok()) return Fail(status);
  const std::string address = bench.address();
  std::vector<std::byte> buffer(kWindow * c.TransferBytes());
  if (!SendAll(end.control, Raw(address.size())) || !SendAll(end.control, AsBytes(address))) return 1;
  Order order;
  while (ReceiveAll(end.control, Raw(order)) && order.count > 0) {
    const double begin_cpu = CpuSeconds();
    if (order.plain) {
      for (uint64_t id = 0; id < order.count; ++id) {
        std::vector<MutableBytes> window;
        for (uint32_t i = 0; i < c.depth; ++i) window.push_back({buffer.data() + (id % kWindow * c.depth + i) * c.bytes, c.bytes});
        if (!ReceivePlain(c, end, window)) return 1;
      }
    } else if (const Status status = bench.Receive(order.first, order.count); !status.ok()) {
      return Fail(status);
    }
    if (!SendAll(end.control, Raw(Answer{bench.digests(), CpuSeconds() - begin_cpu}))) return 1;
  }
  return 0;
}

Result<nlohmann::ordered_json> SendTransfers(const TransferBench& c, const PairEnd& end) {
  Sender sender(c, end);
  const Status opened = sender.Open();
  Result<nlohmann::ordered_json> result = opened.ok() ? Rounds(c, sender) : Result<nlohmann::ordered_json>(opened);
  sender.End();
  return result;
}

}  // namespace baton
