#include "tests/dst/sim_network.h"

#include <kj/debug.h>

#include <algorithm>
#include <cstring>

namespace baton::dst {
namespace {

constexpr size_t kWindowBytes = 64 << 10;  // unread by the peer, from which on a writer waits
constexpr double kPartedRetryS = 0.02;     // how soon a parted link is tried again
using Owned = std::shared_ptr<kj::Own<kj::PromiseFulfiller<void>>>;

kj::Exception Disconnected(const char* why) { return kj::Exception(kj::Exception::Type::DISCONNECTED, __FILE__, __LINE__, kj::heapString(why)); }

}  // namespace

/// One direction of a connection.
struct Pipe : std::enable_shared_from_this<Pipe> {
  struct Segment {
    std::string bytes;
    bool end = false, reset = false;
    Instant at;
  };
  class Read;

  Pipe(World& w, const NetworkTraits& t, Host& a, Host& b) : world(w), traits(t), from(a), to(b), from_life(a.life), to_life(b.life) {}

  bool FromLives() const { return from.running && from.life == from_life; }
  bool ToLives() const { return to.running && to.life == to_life; }
  void Send(Segment segment) {
    if (broken) return;
    in_flight += segment.bytes.size();
    segment.at = std::max(last_at, world.now() + FromSeconds(traits.Delay(world)));
    last_at = segment.at;
    segments.push_back(std::move(segment));
    if (segments.size() == 1) Schedule();
  }
  void Schedule() {
    world.After(std::max(0.0, ToSeconds(segments.front().at - world.now())), [self = shared_from_this()] { self->Arrive(); });
  }
  void Arrive() {
    if (segments.empty()) return;
    if (segments.front().at > world.now()) return Schedule();  // the one that was due is gone
    if (world.Parted(from, to) || to.dark) {
      segments.front().at = last_at = std::max(last_at, world.now() + FromSeconds(kPartedRetryS));
      return Schedule();
    }
    const Segment segment = std::move(segments.front());
    segments.pop_front();
    in_flight -= segment.bytes.size();
    if (!segments.empty()) Schedule();
    if (!ToLives() || reader_closed) return Break();
    if (segment.reset) return Break();
    ready += segment.bytes;
    ended = ended || segment.end;
    world.On(to, to_life, [self = shared_from_this()] { self->Wake(); });
  }
  /// Both ends learn it: the reader at once where it runs, the writer when it next writes or is told.
  void Break() {
    if (broken) return;
    broken = true;
    segments.clear();
    in_flight = 0;
    world.On(to, to_life, [self = shared_from_this()] { self->Wake(); });
    world.On(from, from_life, [self = shared_from_this()] { self->WakeWriters(); });
  }
  void Wake();
  void WakeWriters() {
    if (!broken && in_flight + ready.size() > kWindowBytes) return;
    for (auto& writer : std::exchange(writers, {})) {
      if (broken) (*writer)->reject(Disconnected("the connection was reset"));
      else (*writer)->fulfill();
    }
    if (!broken) return;
    for (auto& watcher : std::exchange(watchers, {})) (*watcher)->fulfill();
  }

  World& world;
  const NetworkTraits& traits;
  Host &from, &to;
  const uint64_t from_life, to_life;
  std::deque<Segment> segments;
  size_t in_flight = 0;
  Instant last_at{};
  std::string ready;
  bool ended = false, broken = false, reader_closed = false;
  Read* reader = nullptr;
  std::vector<Owned> writers, watchers;
};

class Pipe::Read {
 public:
  Read(kj::PromiseFulfiller<size_t>& fulfiller, std::shared_ptr<Pipe> pipe, void* buffer, size_t min, size_t max)
      : fulfiller_(fulfiller), pipe_(std::move(pipe)), buffer_(static_cast<char*>(buffer)), min_(min), max_(max) {
    pipe_->reader = this;
    Try();
  }
  ~Read() {
    if (pipe_->reader == this) pipe_->reader = nullptr;
  }
  void Try() {
    Pipe& p = *pipe_;
    const size_t n = std::min(max_ - got_, p.ready.size());
    std::memcpy(buffer_ + got_, p.ready.data(), n);
    p.ready.erase(0, n);
    got_ += n;
    if (got_ >= min_ || p.ended) {
      p.reader = nullptr;
      fulfiller_.fulfill(kj::cp(got_));
    } else if (p.broken) {
      p.reader = nullptr;
      fulfiller_.reject(Disconnected("the connection was reset"));
    }
    if (n > 0) p.world.On(p.from, p.from_life, [pipe = pipe_] { pipe->WakeWriters(); });
  }

 private:
  kj::PromiseFulfiller<size_t>& fulfiller_;
  const std::shared_ptr<Pipe> pipe_;
  char* const buffer_;
  const size_t min_, max_;
  size_t got_ = 0;
};

void Pipe::Wake() {
  if (reader != nullptr && ToLives() && !to.paused) reader->Try();
}

struct Connection {
  Connection(World& w, const NetworkTraits& t, Host& a, Host& b) : there(std::make_shared<Pipe>(w, t, a, b)), back(std::make_shared<Pipe>(w, t, b, a)) {}
  bool Between(const Host& a, const Host& b) const { return (&there->from == &a && &there->to == &b) || (&there->from == &b && &there->to == &a); }
  bool Of(const Host& host) const { return &there->from == &host || &there->to == &host; }
  std::shared_ptr<Pipe> there, back;
};

namespace {

class SimStream final : public kj::AsyncIoStream {
 public:
  SimStream(std::shared_ptr<Connection> connection, std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out)
      : connection_(std::move(connection)), in_(std::move(in)), out_(std::move(out)) {}
  ~SimStream() noexcept(false) {
    in_->reader_closed = true;
    shutdownWrite();
    if (!in_->segments.empty() || !in_->ready.empty()) {  // closed with unread bytes: the kernel answers with a reset
      if (out_->FromLives()) out_->Send({.reset = true});
    }
  }
  kj::Promise<size_t> tryRead(void* buffer, size_t min, size_t max) override { return kj::newAdaptedPromise<size_t, Pipe::Read>(in_, buffer, min, max); }
  kj::Promise<void> write(const void* buffer, size_t size) override { return Write(std::string(static_cast<const char*>(buffer), size)); }
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override {
    std::string bytes;
    for (const auto piece : pieces) bytes.append(reinterpret_cast<const char*>(piece.begin()), piece.size());
    return Write(std::move(bytes));
  }
  kj::Promise<void> whenWriteDisconnected() override {
    if (out_->broken) return kj::READY_NOW;
    return Wait(out_->watchers);
  }
  void getpeername(sockaddr*, kj::uint* length) override { *length = 0; }
  void shutdownWrite() override {
    if (std::exchange(shut_, true) || !out_->FromLives()) return;
    out_->Send({.end = true});
  }

 private:
  static kj::Promise<void> Wait(std::vector<Owned>& list) {
    auto pair = kj::newPromiseAndFulfiller<void>();
    list.push_back(std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller)));
    return kj::mv(pair.promise);
  }
  kj::Promise<void> Write(std::string bytes) {
    if (out_->broken) return Disconnected("the connection was reset");
    if (!out_->FromLives() || bytes.empty()) return kj::READY_NOW;  // a process that was killed says nothing more
    out_->Send({.bytes = std::move(bytes)});
    if (out_->in_flight + out_->ready.size() <= kWindowBytes) return kj::READY_NOW;
    return Wait(out_->writers);
  }

  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<Pipe> in_, out_;
  bool shut_ = false;
};

}  // namespace

/// The port of a host's process.
class Listener final : public kj::ConnectionReceiver {
 public:
  Listener(SimNetwork& network, Host& host) : network_(network), host_(host), life_(host.life) { network_.listeners_[host.name] = this; }
  ~Listener() noexcept(false) {
    const auto found = network_.listeners_.find(host_.name);
    if (found != network_.listeners_.end() && found->second == this) network_.listeners_.erase(found);
  }
  kj::Promise<kj::Own<kj::AsyncIoStream>> accept() override {
    if (!backlog_.empty()) {
      auto stream = kj::mv(backlog_.front());
      backlog_.pop_front();
      return kj::mv(stream);
    }
    auto pair = kj::newPromiseAndFulfiller<kj::Own<kj::AsyncIoStream>>();
    waiting_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }
  uint getPort() override { return static_cast<uint>(host_.number + 1); }

  void Take(kj::Own<kj::AsyncIoStream> stream) {
    backlog_.push_back(kj::mv(stream));
    network_.world_.On(host_, life_, [this] { Hand(); });  // a listener lives as long as its process
  }

 private:
  void Hand() {
    if (backlog_.empty() || waiting_.get() == nullptr || !waiting_->isWaiting()) return;
    auto stream = kj::mv(backlog_.front());
    backlog_.pop_front();
    waiting_->fulfill(kj::mv(stream));
  }

  SimNetwork& network_;
  Host& host_;
  const uint64_t life_;
  std::deque<kj::Own<kj::AsyncIoStream>> backlog_;
  kj::Own<kj::PromiseFulfiller<kj::Own<kj::AsyncIoStream>>> waiting_;
};

class SimAddress final : public kj::NetworkAddress {
 public:
  SimAddress(SimNetwork& network, Host& self, std::string target) : network_(network), self_(self), target_(std::move(target)) {}
  kj::Promise<kj::Own<kj::AsyncIoStream>> connect() override {
    auto pair = kj::newPromiseAndFulfiller<kj::Own<kj::AsyncIoStream>>();
    auto done = std::make_shared<Fulfiller>(kj::mv(pair.fulfiller));
    Knock(network_, self_, self_.life, target_, done);
    return kj::mv(pair.promise);
  }
  kj::Own<kj::ConnectionReceiver> listen() override { return kj::heap<Listener>(network_, self_); }
  kj::Own<kj::NetworkAddress> clone() override { return kj::heap<SimAddress>(network_, self_, target_); }
  kj::String toString() override { return kj::heapString(target_.c_str()); }

 private:
  using Fulfiller = kj::Own<kj::PromiseFulfiller<kj::Own<kj::AsyncIoStream>>>;
  /// The first packet; again while it gets lost.
  static void Knock(SimNetwork& network, Host& self, uint64_t life, const std::string& target, const std::shared_ptr<Fulfiller>& done) {
    network.world_.After(network.traits.Delay(network.world_), [&network, &self, life, target, done] {
      if (!self.running || self.life != life || !(*done)->isWaiting()) return;
      Host* host = nullptr;
      for (const auto& each : network.world_.hosts()) host = each->name == target ? each.get() : host;
      if (host == nullptr || host->dark || network.world_.Parted(self, *host)) {
        network.world_.After(kPartedRetryS, [&network, &self, life, target, done] { Knock(network, self, life, target, done); });
        return;
      }
      const auto listener = network.listeners_.find(target);
      if (!host->running || listener == network.listeners_.end()) {
        return network.world_.AfterOn(self, network.traits.Delay(network.world_), [done] { (*done)->reject(Disconnected("connection refused")); });
      }
      auto connection = std::make_shared<Connection>(network.world_, network.traits, self, *host);
      network.connections_.push_back(connection);
      listener->second->Take(kj::heap<SimStream>(connection, connection->there, connection->back));
      network.world_.AfterOn(self, network.traits.Delay(network.world_), [connection, done] {
        (*done)->fulfill(kj::heap<SimStream>(connection, connection->back, connection->there));
      });
    });
  }

  SimNetwork& network_;
  Host& self_;
  const std::string target_;
};

namespace {

class NetworkOfHost final : public kj::Network {
 public:
  NetworkOfHost(SimNetwork& network, Host& host) : network_(network), host_(host) {}
  kj::Promise<kj::Own<kj::NetworkAddress>> parseAddress(kj::StringPtr address, uint) override {
    return kj::Own<kj::NetworkAddress>(kj::heap<SimAddress>(network_, host_, std::string(address.cStr())));
  }
  kj::Own<kj::NetworkAddress> getSockaddr(const void*, uint) override { KJ_FAIL_REQUIRE("hosts have names here"); }
  kj::Own<kj::Network> restrictPeers(kj::ArrayPtr<const kj::StringPtr>, kj::ArrayPtr<const kj::StringPtr>) override {
    return kj::heap<NetworkOfHost>(network_, host_);
  }

 private:
  SimNetwork& network_;
  Host& host_;
};

}  // namespace

kj::Own<kj::Network> SimNetwork::Of(Host& host) { return kj::heap<NetworkOfHost>(*this, host); }

void SimNetwork::Reset(const Host& a, const Host& b) {
  for (const auto& weak : connections_) {
    const auto connection = weak.lock();
    if (connection == nullptr || !connection->Between(a, b)) continue;
    connection->there->Send({.reset = true});
    connection->back->Send({.reset = true});
  }
}

void SimNetwork::Die(const Host& host) {
  std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : connections_) {
    const auto connection = weak.lock();
    if (connection == nullptr || !connection->Of(host)) continue;
    const auto& out = &connection->there->from == &host ? connection->there : connection->back;
    const bool at_once = world_.Chance(0.5) || host.dark;
    if (at_once) {
      out->segments.clear();
      out->in_flight = 0;
    }
    if (!host.dark) out->Send({.end = !at_once, .reset = at_once});
  }
}

void SimNetwork::Back(const Host& host) {
  for (const auto& weak : connections_) {
    const auto connection = weak.lock();
    if (connection == nullptr || !connection->Of(host)) continue;
    const auto& out = &connection->there->from == &host ? connection->there : connection->back;
    if (out->from_life != host.life) out->Send({.reset = true});
  }
}

size_t SimNetwork::open() const {
  return static_cast<size_t>(std::count_if(connections_.begin(), connections_.end(), [](const auto& weak) { return !weak.expired(); }));
}

}  // namespace baton::dst
