#include "side_support.h"

#include <dirent.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <map>
#include <set>

namespace baton {

using nlohmann::json;

void FillPattern(uint64_t transfer, uint32_t index, MutableBytes out) {
  uint64_t x = transfer * 0x9e3779b97f4a7c15ull + index * 0xbf58476d1ce4e5b9ull + 1;
  for (size_t at = 0; at < out.size(); at += sizeof x) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    std::memcpy(out.data() + at, &x, std::min(sizeof x, out.size() - at));
  }
}

namespace {

constexpr std::byte kCanary{0xEE}, kReleased{0xAA};
constexpr size_t kGuard = 64;
constexpr size_t kArenaBytes = 384_MiB;

std::string CodeOf(const Status& status) { return std::string(StatusCodeName(status.code())); }

/// A transport, its arena, and what the test's end has done with both.
class DirectSide final : public Side {
 public:
  explicit DirectSide(const TransportConfig& config) {
    auto arena = MakeSharedArena(kArenaBytes);
    CHECK(arena.ok());
    arena_ = std::move(*arena);
    auto transport = MakeTransport(config);
    if (!transport.ok()) std::fprintf(stderr, "%s\n", transport.status().ToString().c_str());
    CHECK(transport.ok());
    transport_ = std::move(*transport);
    CHECK(transport_->Register(arena_.memory()).ok());
  }

  json Do(const json& c) override {
    const std::string op = c.at("op");
    if (op == "address") return {{"address", transport_->address()}};
    if (op == "connect") return Code(transport_->Connect(WorkerId(c.at("peer")), c.at("address")).status());
    if (op == "disconnect") return transport_->Disconnect(WorkerId(c.at("peer"))), Code(OkStatus());
    if (op == "expect") return Code(Expect(c));
    if (op == "push") return Code(Push(c));
    if (op == "cancel") return transport_->Cancel(TransferId(c.at("id"))), Code(OkStatus());
    if (op == "poll") return Poll(c.at("wait_s"));
    if (op == "intact") return {{"intact", Intact()}};
    if (op == "descriptors") return {{"count", CountDescriptors()}};
    CHECK(op == "stats");
    const TransportStats s = transport_->stats();
    return {{"receiving", s.receiving}, {"sending", s.sending}, {"peers", s.peers}, {"landed_bytes", s.landed_bytes},
            {"sent_bytes", s.sent_bytes}, {"drained_bytes", s.drained_bytes}, {"refused_peers", s.refused_peers}};
  }

 private:
  struct Incoming {
    std::vector<Landing> landings;
    std::optional<std::vector<std::vector<std::byte>>> frozen;  // as they were when the transfer ended
  };
  struct Source {
    MutableBytes bytes;
    std::vector<std::byte> heap;
    bool released = false;
  };

  static json Code(const Status& status) { return {{"code", CodeOf(status)}, {"message", status.message()}}; }

  std::byte* Allocate(size_t bytes) {
    if (next_ + bytes + 2 * kGuard > kArenaBytes) next_ = 0;  // tests that need more than the arena do not look back
    std::byte* data = arena_.memory().bytes.data() + next_ + kGuard;
    next_ += RoundUp(bytes + 2 * kGuard, 64);
    return data;
  }

  Status Expect(const json& c) {
    Incoming in;
    for (const size_t bytes : c.at("sizes")) {
      if (bytes > kArenaBytes) {  // cannot be, and must be refused
        in.landings.push_back({arena_.memory().bytes.data(), bytes});
        continue;
      }
      std::byte* data = Allocate(bytes);
      std::memset(data - kGuard, static_cast<int>(kCanary), bytes + 2 * kGuard);
      in.landings.push_back({data, bytes});
    }
    const TransferId id(c.at("id"));
    const Status status = transport_->Expect(id, WorkerId(c.at("from")), in.landings, SystemClock().Now() + FromSeconds(c.at("timeout_s")));
    if (status.ok()) incoming_[id] = std::move(in);
    return status;
  }

  Status Push(const json& c) {
    const TransferId id(c.at("id"));
    std::vector<Segment> segments;
    std::map<uint32_t, Source> made;
    for (const auto& [index, bytes] : c.at("segments").get<std::vector<std::pair<uint32_t, size_t>>>()) {
      Source& source = made[index];
      if (c.at("heap")) source.heap.resize(bytes);
      source.bytes = {c.at("heap") ? source.heap.data() : Allocate(bytes), bytes};
      FillPattern(id.value, index, source.bytes);
      segments.push_back({index, source.bytes.data(), bytes});
    }
    const Status status = transport_->Push(id, WorkerId(c.at("to")), segments);
    if (status.ok()) outgoing_[id].merge(made);
    return status;
  }

  static void Release(Source& source) {
    source.released = true;
    std::fill(source.bytes.begin(), source.bytes.end(), kReleased);
    source.heap = {};  // a later read is one of freed memory
  }

  bool Right(TransferId id, uint32_t index) const {
    const Landing& landing = incoming_.at(id).landings.at(index);
    std::vector<std::byte> wanted(landing.bytes);
    FillPattern(id.value, index, wanted);
    return std::equal(wanted.begin(), wanted.end(), landing.data);
  }

  json Poll(double wait_s) {
    Completion batch[64];
    size_t n = transport_->Poll(batch);
    if (n == 0 && wait_s > 0) {
      transport_->Wait(FromSeconds(wait_s));
      n = transport_->Poll(batch);
    }
    json events = json::array();
    for (size_t i = 0; i < n; ++i) events.push_back(Note(batch[i]));
    return {{"events", events}};
  }

  json Note(const Completion& c) {
    static constexpr const char* kKinds[] = {"segment", "landed", "sent", "failed"};
    const bool right = c.kind != CompletionKind::kSegmentLanded || Right(c.transfer, c.index);
    const bool receiver_end = c.kind == CompletionKind::kTransferLanded || (c.kind == CompletionKind::kFailed && c.receiving);
    if (receiver_end) {
      Incoming& in = incoming_.at(c.transfer);
      in.frozen.emplace();
      for (const Landing& l : in.landings) in.frozen->emplace_back(l.data, l.data + l.bytes);
    } else if (c.kind == CompletionKind::kSent) {
      Release(outgoing_.at(c.transfer).at(c.index));
    } else if (c.kind == CompletionKind::kFailed) {
      for (auto& [index, source] : outgoing_[c.transfer]) {
        if (!source.released) Release(source);
      }
    }
    return {{"kind", kKinds[static_cast<int>(c.kind)]}, {"transfer", c.transfer.value}, {"index", c.index}, {"receiving", c.receiving},
            {"code", CodeOf(c.status)}, {"message", c.status.message()}, {"right", right}};
  }

  bool Intact() const {
    for (const auto& [id, in] : incoming_) {
      for (size_t i = 0; i < in.landings.size(); ++i) {
        const Landing& l = in.landings[i];
        for (size_t at = 0; at < kGuard; ++at) {
          if (*(l.data - kGuard + at) != kCanary || l.data[l.bytes + at] != kCanary) return false;
        }
        if (in.frozen && !std::equal(l.data, l.data + l.bytes, (*in.frozen)[i].begin())) return false;
      }
    }
    return true;
  }

  static size_t CountDescriptors() {
    size_t count = 0;
    DIR* folder = opendir("/proc/self/fd");
    while (readdir(folder) != nullptr) ++count;
    closedir(folder);
    return count;
  }

  SharedArena arena_;
  size_t next_ = 0;
  std::map<TransferId, Incoming> incoming_;
  std::map<TransferId, std::map<uint32_t, Source>> outgoing_;
  std::unique_ptr<Transport> transport_;  // last: it looks at all of the above
};

class ForkedSide final : public Side {
 public:
  explicit ForkedSide(const TransportConfig& config) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    pid_ = fork();
    CHECK(pid_ >= 0);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(ends[0]);
      Serve(config, ends[1]);
      _exit(0);
    }
    close(ends[1]);
    fd_ = ends[0];
  }
  ~ForkedSide() override {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(fd_);
  }

  json Do(const json& command) override {
    const std::string text = command.dump();
    CHECK(send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
    std::string answer(1 << 18, '\0');
    const ssize_t n = recv(fd_, answer.data(), answer.size(), 0);
    CHECK(n > 0);
    return json::parse(answer.substr(0, static_cast<size_t>(n)));
  }
  pid_t pid() const override { return pid_; }

 private:
  /// The child: commands in between the transport's work.
  static void Serve(const TransportConfig& config, int fd) {
    DirectSide side(config);
    json events = json::array();
    std::string text(1 << 18, '\0');
    while (true) {
      const json polled = side.Do({{"op", "poll"}, {"wait_s", 0.0005}});
      for (const json& event : polled.at("events")) events.push_back(event);
      pollfd wait{fd, POLLIN, 0};
      if (poll(&wait, 1, 0) == 0) continue;
      const ssize_t n = recv(fd, text.data(), text.size(), 0);
      if (n <= 0) return;
      const json command = json::parse(text.substr(0, static_cast<size_t>(n)));
      json answer;
      if (command.at("op") == "poll") {
        json some = json::array();
        for (; !events.empty() && some.size() < 500; events.erase(events.begin())) some.push_back(events.front());
        answer = {{"events", some}};
      } else {
        answer = side.Do(command);
      }
      const std::string out = answer.dump();
      if (send(fd, out.data(), out.size(), MSG_NOSIGNAL) < 0) return;
    }
  }

  pid_t pid_ = -1;
  int fd_ = -1;
};

}  // namespace

void End::Poll(double wait_s) {
  const json answer = side_->Do({{"op", "poll"}, {"wait_s", wait_s}});
  for (const json& e : answer.at("events")) {
    events.push_back({e.at("kind"), e.at("transfer"), e.at("index"), e.at("receiving"), e.at("code"), e.at("message"), e.at("right")});
  }
}

size_t End::Count(const std::string& kind, uint64_t transfer) const {
  size_t n = 0;
  for (const Event& e : events) n += e.kind == kind && e.transfer == transfer;
  return n;
}

const Event* End::Find(const std::string& kind, uint64_t transfer) const {
  for (const Event& e : events) {
    if (e.kind == kind && e.transfer == transfer) return &e;
  }
  return nullptr;
}

std::unique_ptr<Side> MakeDirectSide(const TransportConfig& config) { return std::make_unique<DirectSide>(config); }
std::unique_ptr<Side> MakeForkedSide(const TransportConfig& config) { return std::make_unique<ForkedSide>(config); }

}  // namespace baton
