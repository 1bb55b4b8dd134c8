#include "transport/stream_wire.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "transport/stream_path.h"

namespace baton {
namespace {

constexpr size_t kMaxStrangers = 64;     // connections that have not proved who they are
constexpr size_t kAcceptsAtATime = 16;
constexpr size_t kMaxPathsOfAPeer = 128;  // dialled by either side
constexpr Duration kRedial = std::chrono::milliseconds(500);  // between attempts to replace a broken path
constexpr Duration kQuiet = std::chrono::seconds(1);           // between two warnings about strangers
constexpr Duration kPulse = std::chrono::milliseconds(50);    // between looks at paths that should move
constexpr Duration kBusyAfterPing = std::chrono::seconds(1), kRemind = std::chrono::seconds(1);
constexpr Duration kSilence = std::chrono::milliseconds(600), kLively = std::chrono::milliseconds(200);
constexpr std::string_view kAuto = "auto";

/// The part of an address for one family, as "tcp:HOST:PORT"; empty if it has none.
std::string PartOf(std::string_view address, std::string_view family) {
  if (address.starts_with("auto:")) address.remove_prefix(5);
  while (!address.empty()) {
    const std::string_view part = address.substr(0, address.find('|'));
    if (part.starts_with(family) && part.substr(family.size()).starts_with(":")) return std::string(part);
    address.remove_prefix(std::min(address.size(), part.size() + 1));
  }
  return "";
}

class StreamWire final : public Wire {
 public:
  StreamWire(const TransportConfig& config, std::vector<std::unique_ptr<SocketFamily>> families, WireHost& host, const Clock& clock)
      : self_{config.self, config.incarnation, ""}, key_(config.cluster_key), handshake_timeout_(config.handshake_timeout), host_(host), clock_(clock) {
    for (auto& family : families) ports_.push_back({std::move(family)});
  }
  ~StreamWire() override;
  Status Open();

  std::string_view name() const override { return ports_.size() == 1 ? ports_.front().family->name() : kAuto; }
  std::string address() const override { return self_.address; }
  Status Connect(WorkerId peer, const std::string& address) override;
  void Disconnect(WorkerId peer) override;
  Status Register(const ArenaMemory& arena) override;
  bool Detach(TransferId id) override;
  void Progress() override;
  void Flush(WorkerId peer) override;
  void Wait(Duration timeout) override;
  void Wake() override;
  uint64_t refused_peers() const override { return refused_; }

 private:
  struct Port {
    std::unique_ptr<SocketFamily> family;
    int listener = -1;
    bool strangers_wait = false;
  };
  struct Peer {
    std::vector<StreamPath*> paths;  // ready ones
    Incarnation incarnation;
    std::string address;             // where it says it listens
    const Port* port = nullptr;      // through which it was dialled, if it was, and
    std::string dialled;             // its address there
    Instant last_dial{};
    Instant busy_until{}, remind_at{};
    size_t next_path = 0;            // takes the next turn to be filled first
  };

  void Watch(int fd, void* tag, uint32_t events);
  void CollectEvents(Duration timeout);
  void Accept(Port& port);
  Status Dial(WorkerId peer, const Port& port, const std::string& address);
  void AddPath(int fd, const Port& port, WorkerId dialled);
  void Work(StreamPath& path);
  void TakePulses(Instant now);
  void TakePulses(Peer& peer, Instant now);
  Status Greet(StreamPath& path);
  void Close(StreamPath& path, const Status& status);
  void ForgetLost(WorkerId id);
  void Sweep();
  size_t Count(WorkerId dialled, bool greeting_only) const;

  Introduction self_;
  const std::string key_;
  const Duration handshake_timeout_;
  std::vector<Port> ports_;  // the one to prefer first
  WireHost& host_;
  const Clock& clock_;
  int epoll_ = -1, wake_ = -1;
  bool woken_ = false, pulses_due_ = false;
  Instant next_pulse_{};
  uint64_t refused_ = 0;
  Instant last_refusal_told_{};
  std::unique_ptr<LocalMemory> memory_;
  std::vector<std::unique_ptr<StreamPath>> paths_;
  std::set<StreamPath*> closed_;        // to be swept
  std::unordered_map<WorkerId, Peer> peers_;
  std::vector<std::pair<WorkerId, Status>> failed_dials_;  // told in Progress
};

Status StreamWire::Open() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (epoll_ < 0 || wake_ < 0) return UnavailableError("no descriptor for epoll: {}; raise the limit of open files", std::strerror(errno));
  Watch(wake_, &wake_, EPOLLIN);
  for (Port& port : ports_) {
    ASSIGN_OR_RETURN(const SocketFamily::Listener listener, port.family->Listen());
    port.listener = listener.fd;
    self_.address += (self_.address.empty() ? "" : "|") + listener.address;
    Watch(port.listener, &port, EPOLLIN);
    if (port.family->by_reference()) {
      ASSIGN_OR_RETURN(memory_, LocalMemory::Create());
    }
  }
  if (ports_.size() > 1) self_.address = fmt::format("{}:{}", kAuto, self_.address);
  return OkStatus();
}

StreamWire::~StreamWire() {
  for (const int fd : {wake_, epoll_}) {
    if (fd >= 0) close(fd);
  }
  for (const Port& port : ports_) {
    if (port.listener >= 0) close(port.listener);
  }
}

void StreamWire::Watch(int fd, void* tag, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = tag;
  CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0);
}

Status StreamWire::Connect(WorkerId id, const std::string& address) {
  const auto it = peers_.find(id);
  const bool reached = (it != peers_.end() && !it->second.paths.empty()) || Count(id, true) > 0;
  Status status = InvalidError("\"{}\" is not an address of the {} transport", address, name());
  for (const Port& port : ports_) {
    const std::string part = PartOf(address, port.family->name());
    if (part.empty()) continue;
    if (reached) return OkStatus();
    status = Dial(id, port, part);
    if (!status.ok()) continue;
    for (uint32_t i = 1; i < port.family->paths() && Dial(id, port, part).ok(); ++i) {  // what is missing, Flush dials again
    }
    return OkStatus();
  }
  if (status.code() == StatusCode::kInvalid) return status;
  failed_dials_.emplace_back(id, std::move(status));
  return OkStatus();
}

Status StreamWire::Dial(WorkerId id, const Port& port, const std::string& address) {
  ASSIGN_OR_RETURN(const int fd, port.family->Dial(address));
  Peer& peer = peers_[id];
  peer.port = &port;
  peer.dialled = address;
  peer.last_dial = clock_.Now();
  AddPath(fd, port, id);
  return OkStatus();
}

void StreamWire::AddPath(int fd, const Port& port, WorkerId dialled) {
  LocalMemory* memory = port.family->by_reference() ? memory_.get() : nullptr;
  paths_.push_back(std::make_unique<StreamPath>(fd, Handshake(self_, key_, dialled), host_, memory, clock_.Now() + handshake_timeout_));
  paths_.back()->dialled = dialled;
  Watch(fd, paths_.back().get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

size_t StreamWire::Count(WorkerId dialled, bool greeting_only) const {
  return static_cast<size_t>(std::count_if(paths_.begin(), paths_.end(), [&](const auto& p) {
    return p->dialled == dialled && !closed_.contains(p.get()) && (!greeting_only || p->state() == StreamPath::State::kGreeting);
  }));
}

void StreamWire::Disconnect(WorkerId peer) {
  for (const auto& path : paths_) {
    const bool its = path->dialled == peer || (path->state() == StreamPath::State::kReady && path->peer() == peer);
    if (its) closed_.insert(path.get());
  }
  std::erase_if(failed_dials_, [peer](const auto& dial) { return dial.first == peer; });
  peers_.erase(peer);
  Sweep();
}

Status StreamWire::Register(const ArenaMemory& arena) {
  if (memory_ == nullptr) return OkStatus();
  const size_t before = memory_->arenas();
  RETURN_IF_ERROR(memory_->Add(arena));
  if (memory_->arenas() == before) return OkStatus();
  for (const auto& path : paths_) {
    if (path->state() == StreamPath::State::kReady) path->ShowArena(static_cast<uint32_t>(before));
  }
  return OkStatus();
}

bool StreamWire::Detach(TransferId id) {
  for (const auto& path : paths_) path->Detach(id);
  return memory_ != nullptr && memory_->Detach(id);
}

void StreamWire::CollectEvents(Duration timeout) {
  epoll_event events[64];
  const timespec wait{.tv_sec = static_cast<time_t>(timeout.count() / 1'000'000'000), .tv_nsec = static_cast<long>(timeout.count() % 1'000'000'000)};
  const int n = epoll_pwait2(epoll_, events, 64, &wait, nullptr);
  for (int i = 0; i < n; ++i) {
    void* tag = events[i].data.ptr;
    const auto port = std::find_if(ports_.begin(), ports_.end(), [tag](const Port& p) { return &p == tag; });
    if (port != ports_.end()) {
      port->strangers_wait = true;
    } else if (tag == &wake_) {
      uint64_t count = 0;
      woken_ = read(wake_, &count, sizeof count) == sizeof count || woken_;
    } else {
      auto& path = *static_cast<StreamPath*>(tag);
      const bool broken = (events[i].events & (EPOLLERR | EPOLLHUP)) != 0;
      if (broken || (events[i].events & (EPOLLIN | EPOLLRDHUP)) != 0) path.readable = true;
      if (broken || (events[i].events & EPOLLOUT) != 0) path.writable = true;
    }
  }
}

void StreamWire::Progress() {
  CollectEvents(Duration::zero());
  for (const auto& [peer, status] : std::exchange(failed_dials_, {})) {
    if (!peers_.contains(peer) || peers_[peer].paths.empty()) host_.OnPeerDown(peer, status);
  }
  for (Port& port : ports_) {
    if (std::exchange(port.strangers_wait, false)) Accept(port);
  }
  const Instant now = clock_.Now();
  for (size_t i = 0; i < paths_.size(); ++i) {
    StreamPath& path = *paths_[i];
    if (closed_.contains(&path)) continue;
    if (path.CanWork()) Work(path);
    if (path.state() == StreamPath::State::kGreeting && !closed_.contains(&path) && now >= path.handshake_deadline()) {
      Close(path, UnavailableError("no hello within {:.1f} s", ToSeconds(handshake_timeout_)));
    }
  }
  if (now >= next_pulse_) TakePulses(now);
  Sweep();
}

/// A connection may swallow everything without breaking (a black hole on the way, a middlebox that has forgotten it). It is
/// given up where another connection to the same peer lives: what was on it goes over that one. Where all are silent the peer is
/// stopped or gone, which heartbeats and deadlines decide.
void StreamWire::TakePulses(Instant now) {
  next_pulse_ = now + kPulse;
  pulses_due_ = false;
  std::vector<WorkerId> ids;
  for (const auto& [id, peer] : peers_) ids.push_back(id);
  for (const WorkerId id : ids) {
    if (const auto it = peers_.find(id); it != peers_.end() && it->second.paths.size() > 1) TakePulses(it->second, now);
  }
}

void StreamWire::TakePulses(Peer& peer, Instant now) {
  // The other end may wait for an answer where this one has nothing left to do: its answers must not go into a hole, either.
  for (StreamPath* path : peer.paths) {
    if (path->TakeAsked()) peer.busy_until = now + kBusyAfterPing;
  }
  const WorkerId id = peer.paths.front()->peer();
  const bool waits = host_.Busy(id), busy = waits || now < peer.busy_until;
  pulses_due_ = pulses_due_ || busy;
  StreamPath* silent = nullptr;
  bool lively = false;
  for (StreamPath* path : peer.paths) {
    busy ? path->Pulse(now) : path->Rest();
    if (busy && path->silent() >= kSilence && (silent == nullptr || path->silent() > silent->silent())) silent = path;
    lively = lively || path->silent() < kLively;
  }
  // What was asked or answered may have gone into a hole that nobody knew of yet: as if a path had broken that nothing was on.
  if (waits && now >= peer.remind_at) {
    if (peer.remind_at != Instant()) host_.OnPathLost(id, kMaxPathsOfAPeer);
    peer.remind_at = now + kRemind;
  }
  if (!waits) peer.remind_at = Instant();
  if (silent != nullptr && lively) Close(*silent, UnavailableError("nothing came through for {:.1f} s", ToSeconds(silent->silent())));
}

void StreamWire::Accept(Port& port) {
  for (size_t i = 0; i < kAcceptsAtATime; ++i) {
    const int fd = accept4(port.listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const Status status = Count(WorkerId(), true) >= kMaxStrangers ? ExhaustedError("too many strangers") : port.family->Accepted(fd);
    if (status.ok()) {
      AddPath(fd, port, WorkerId());
    } else {
      close(fd);
      ++refused_;
    }
  }
  port.strangers_wait = true;
}

void StreamWire::Work(StreamPath& path) {
  Status status = path.Read();
  if (status.ok() && path.state() == StreamPath::State::kGreeting && path.greeted()) {
    status = Greet(path);
    if (status.ok()) status = path.Read();
  }
  if (status.ok() && path.writable && !closed_.contains(&path)) status = path.Write();
  if (!status.ok() && !closed_.contains(&path)) Close(path, status);
}

Status StreamWire::Greet(StreamPath& path) {
  const Introduction& who = path.introduction();
  RETURN_IF_ERROR(host_.Admit(who.worker));
  const auto it = peers_.find(who.worker);
  if (it != peers_.end() && !it->second.paths.empty()) {
    const Peer& known = it->second;
    if (who.incarnation < known.incarnation) return AbortedError("worker {} has been restarted since; this is its predecessor", who.worker.value);
    if (known.paths.size() >= kMaxPathsOfAPeer) return ExhaustedError("worker {} has {} connections", who.worker.value, known.paths.size());
    if (who.incarnation > known.incarnation || who.address != known.address) {
      for (StreamPath* old : std::vector<StreamPath*>(known.paths)) closed_.insert(old);
      it->second.paths.clear();
      host_.OnPeerDown(who.worker, UnavailableError("worker {} was restarted", who.worker.value));
    }
  }
  Peer& peer = peers_[who.worker];
  peer.incarnation = who.incarnation;
  peer.address = who.address;
  uint32_t id = 0;
  while (std::any_of(peer.paths.begin(), peer.paths.end(), [id](const StreamPath* p) { return p->id() == id; })) ++id;
  path.Open(id);
  peer.paths.push_back(&path);
  if (peer.paths.size() == 1) host_.OnPeerUp(who.worker, who.address);
  return OkStatus();
}

void StreamWire::Close(StreamPath& path, const Status& status) {
  closed_.insert(&path);
  if (path.state() == StreamPath::State::kGreeting) {
    path.Refuse(status);
    if (path.dialled.value == 0) {
      ++refused_;
      const Instant now = clock_.Now();
      if (now - last_refusal_told_ > kQuiet) LOG_WARN("transport: refused a connection ({} so far): {}", refused_, status.message());
      if (now - last_refusal_told_ > kQuiet) last_refusal_told_ = now;
      return;
    }
    const auto it = peers_.find(path.dialled);
    const bool reached = it != peers_.end() && !it->second.paths.empty();
    if (reached || Count(path.dialled, true) > 0) return;
    host_.OnPeerDown(path.dialled, status.WithContext(fmt::format("worker {}", path.dialled.value)));
    ForgetLost(path.dialled);
    return;
  }
  if (status.code() != StatusCode::kUnavailable) path.Refuse(status);
  const WorkerId id = path.peer();
  Peer& peer = peers_.at(id);
  std::erase(peer.paths, &path);
  if (peer.paths.empty()) {
    host_.OnPeerDown(id, status);
    ForgetLost(id);
  } else {
    LOG_INFO("transport: one of {} connections to worker {} broke; going on over the others: {}", peer.paths.size() + 1, id.value, status.message());
    host_.OnPathLost(id, path.id());
  }
}

/// Workers come and go: what is not connected and not being dialled takes no room.
void StreamWire::ForgetLost(WorkerId id) {
  const auto it = peers_.find(id);
  if (it != peers_.end() && it->second.paths.empty() && Count(id, false) == 0) peers_.erase(it);
}

void StreamWire::Sweep() {
  if (closed_.empty()) return;
  // Closing a socket does not end its watch while a forked child holds a copy of it: events would name a path that is gone.
  for (StreamPath* path : closed_) epoll_ctl(epoll_, EPOLL_CTL_DEL, path->fd(), nullptr);
  std::erase_if(paths_, [this](const auto& path) { return closed_.contains(path.get()); });
  closed_.clear();
}

void StreamWire::Flush(WorkerId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  Peer& peer = it->second;
  const std::vector<StreamPath*> paths = peer.paths;
  const size_t first = peer.next_path++;
  for (size_t i = 0; i < paths.size(); ++i) {
    StreamPath& path = *paths[(first + i) % paths.size()];
    if (!path.writable || closed_.contains(&path)) continue;
    if (const Status status = path.Write(); !status.ok()) Close(path, status);
  }
  const bool dialled = peers_.contains(id) && peer.port != nullptr && !peer.paths.empty();
  if (dialled && Count(id, false) < peer.port->family->paths() && clock_.Now() - peer.last_dial > kRedial) {  // a path broke some time ago
    if (Status status = Dial(id, *peer.port, peer.dialled); !status.ok()) failed_dials_.emplace_back(id, std::move(status));
  }
  Sweep();
}

void StreamWire::Wait(Duration timeout) {
  bool work = std::exchange(woken_, false) || !failed_dials_.empty();
  for (const Port& port : ports_) work = work || port.strangers_wait;
  for (const auto& path : paths_) {
    work = work || path->CanWork();
    if (path->state() == StreamPath::State::kGreeting) timeout = std::min(timeout, path->handshake_deadline() - clock_.Now());
  }
  if (pulses_due_) timeout = std::min(timeout, next_pulse_ - clock_.Now());
  if (work || timeout <= Duration::zero()) return;
  CollectEvents(timeout);
  woken_ = false;
}

void StreamWire::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);  // a full counter wakes as well
}

}  // namespace

Result<std::unique_ptr<Wire>> MakeStreamWire(const TransportConfig& config, std::vector<std::unique_ptr<SocketFamily>> families, WireHost& host, const Clock& clock) {
  auto wire = std::make_unique<StreamWire>(config, std::move(families), host, clock);
  RETURN_IF_ERROR(wire->Open());
  return Result<std::unique_ptr<Wire>>(std::move(wire));
}

}  // namespace baton
