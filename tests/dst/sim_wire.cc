#include "tests/dst/sim_wire.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::dst {
namespace {

constexpr int kPiecesInFlight = 16;
constexpr double kHandshakeS = 1;  // a peer that does not answer for so long is not reached
constexpr double kPathBackS = 0.3;

}  // namespace

SimFabric::Link& SimFabric::LinkOf(const SimWire& a, const SimWire& b) { return links_[std::minmax(a.serial_, b.serial_)]; }

SimWire* SimFabric::Find(const std::string& address) {
  const auto found = wires_.find(address);
  return found == wires_.end() ? nullptr : found->second;
}

void SimFabric::BreakPath(const Host& a, const Host& b) {
  for (const auto& [x, left] : wires_) {
    for (const auto& [y, right] : wires_) {
      if (&left->at_ != &a || &right->at_ != &b) continue;
      Link& link = LinkOf(*left, *right);
      const auto path = static_cast<uint32_t>(world_.Below(kPaths));
      ++link.generation[path];
      link.up[path] = false;
      const bool last = !link.up[0] && !link.up[1];
      if (last) ++link.epoch;
      for (const auto& [one, other] : {std::pair(left, right), std::pair(right, left)}) {
        SimWire::Message told = other->Make(last ? SimWire::Kind::kBye : SimWire::Kind::kPathLost, last ? link.epoch - 1 : link.epoch);
        told.path = path;
        one->inbox_.push_back(std::move(told));
        one->wake_();
      }
      if (last) link.up = {true, true};
      else world_.After(kPathBackS, [&link, path] { link.up[path] = true; });
    }
  }
}

void SimFabric::Die(const Host& host) {
  for (auto it = wires_.begin(); it != wires_.end();) {
    SimWire* wire = it->second;
    if (&wire->at_ != &host) {
      ++it;
      continue;
    }
    if (!host.dark) {
      for (const auto& [id, peer] : wire->peers_) wire->Send(peer.address, wire->Make(SimWire::Kind::kBye, peer.epoch));
    }
    it = wires_.erase(it);
  }
}

SimWire::SimWire(SimFabric& fabric, Host& at, WorkerId self, Incarnation incarnation, WireHost& host, std::function<void()> wake)
    : fabric_(fabric),
      world_(fabric.world_),
      at_(at),
      serial_(++fabric.serial_),
      self_(self),
      incarnation_(incarnation),
      address_(fmt::format("sim:{}:{}", at.name, serial_)),
      host_(host),
      wake_(std::move(wake)) {
  fabric_.wires_[address_] = this;
}

SimWire::~SimWire() {
  if (fabric_.wires_.erase(address_) == 0) return;  // killed before
  for (const auto& [id, peer] : peers_) Send(peer.address, Make(Kind::kBye, peer.epoch));
}

SimWire::Message SimWire::Make(Kind kind, uint64_t epoch) const {
  return {.kind = kind, .from = address_, .worker = self_, .incarnation = incarnation_, .epoch = epoch};
}

void SimWire::Send(const std::string& to, Message message) {
  SimWire* target = fabric_.Find(to);
  if (target == nullptr) return;
  SimFabric::Link& link = fabric_.LinkOf(*this, *target);
  message.generation = link.generation[message.path];
  Instant& last = link.last_at[{serial_, message.path}];
  last = std::max(last, world_.now() + FromSeconds(fabric_.network_.Delay(world_)));
  const auto shared = std::make_shared<Message>(std::move(message));
  SimFabric& fabric = fabric_;
  world_.After(ToSeconds(last - world_.now()), [&fabric, to, shared, from = &at_] {
    // The sender may be gone by now; its bytes are on their way all the same.
    const auto arrive = [&fabric, to, shared, from](const auto& again) -> void {
      SimWire* wire = fabric.Find(to);
      if (wire == nullptr) return;
      if (fabric.world_.Parted(*from, wire->at_) || wire->at_.dark) return fabric.world_.After(0.02, [again] { again(again); });
      wire->inbox_.push_back(std::move(*shared));
      wire->wake_();
    };
    arrive(arrive);
  });
}

Status SimWire::Connect(WorkerId id, const std::string& address) {
  if (address.rfind("sim:", 0) != 0) return InvalidError("\"{}\" is not an address of the simulated wire", address);
  const auto known = peers_.find(id);
  if (known != peers_.end()) return OkStatus();
  dials_.emplace_back(id, address);
  wake_();
  return OkStatus();
}

void SimWire::Disconnect(WorkerId id) {
  std::erase_if(dials_, [id](const auto& dial) { return dial.first == id; });
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  Send(it->second.address, Make(Kind::kBye, it->second.epoch));
  if (SimWire* other = fabric_.Find(it->second.address)) ++fabric_.LinkOf(*this, *other).epoch;
  peers_.erase(it);
}

void SimWire::Progress() {
  for (const auto& [id, address] : std::exchange(dials_, {})) Dial(id, address);
  for (Message& message : std::exchange(inbox_, {})) Take(message);
  std::vector<WorkerId> ids;
  for (const auto& [id, peer] : peers_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const WorkerId id : ids) Flush(id);
}

void SimWire::Dial(WorkerId id, const std::string& address) {
  if (peers_.contains(id)) return;
  SimWire* other = fabric_.Find(address);
  if (other == nullptr) return host_.OnPeerDown(id, UnavailableError("worker {} is not at {} any more", id.value, address));
  const uint64_t epoch = fabric_.LinkOf(*this, *other).epoch;
  peers_[id] = {.address = address, .incarnation = other->incarnation_, .epoch = epoch};
  Send(address, Make(Kind::kHello, epoch));
  Message timeout = other->Make(Kind::kUnreachable, epoch);
  timeout.worker = id;
  SimFabric& fabric = fabric_;
  world_.After(kHandshakeS, [&fabric, self = address_, timeout] {
    SimWire* wire = fabric.Find(self);
    if (wire == nullptr) return;
    wire->inbox_.push_back(timeout);
    wire->wake_();
  });
}

void SimWire::Flush(WorkerId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end() || !it->second.up) return;
  Peer& peer = it->second;
  SimWire* other = fabric_.Find(peer.address);
  if (other == nullptr) return;  // it is gone; its end is on the way
  SimFabric::Link& link = fabric_.LinkOf(*this, *other);
  if (link.epoch != peer.epoch) return;  // the connection is lost; the news is on the way
  if (std::string frames = host_.TakeControl(id); !frames.empty()) {
    Message message = Make(Kind::kFrames, peer.epoch);
    message.path = link.up[0] ? 0 : 1;
    message.bytes = std::move(frames);
    Send(peer.address, std::move(message));
  }
  for (uint32_t path = 0; path < SimFabric::kPaths; ++path) {
    while (link.up[path] && peer.in_flight < kPiecesInFlight) {
      const auto piece = host_.NextPiece(id, path);
      if (!piece) break;
      Message message = Make(Kind::kPiece, peer.epoch);
      message.path = path;
      message.header = piece->header;
      message.bytes.assign(reinterpret_cast<const char*>(piece->data), piece->header.body_bytes);
      if (!message.bytes.empty() && world_.Chance(fabric_.traits.flip)) {
        message.bytes[world_.Below(message.bytes.size())] ^= 0x10;
        ++fabric_.flipped_;
      }
      if (world_.Chance(fabric_.traits.duplicate)) Send(peer.address, message);
      Send(peer.address, std::move(message));
      ++peer.in_flight;
      SimFabric& fabric = fabric_;
      world_.After(0.002, [&fabric, self = address_, id, epoch = peer.epoch] {
        SimWire* wire = fabric.Find(self);
        if (wire == nullptr) return;
        const auto found = wire->peers_.find(id);
        if (found == wire->peers_.end() || found->second.epoch != epoch) return;
        --found->second.in_flight;
        if (wire->host_.HasOutput(id)) wire->wake_();
      });
    }
  }
}

void SimWire::Take(Message& m) {
  auto it = peers_.find(m.worker);
  const bool current = it != peers_.end() && it->second.address == m.from && it->second.epoch == m.epoch;
  switch (m.kind) {
    case Kind::kHello: return Greet(m);
    case Kind::kWelcome:
      if (!current || it->second.up) return;
      it->second.up = true;
      return host_.OnPeerUp(m.worker, m.from);
    case Kind::kUnreachable:
      if (!current || it->second.up) return;
      if (SimWire* other = fabric_.Find(m.from)) ++fabric_.LinkOf(*this, *other).epoch;  // its answer would come too late
      [[fallthrough]];
    case Kind::kBye:
      if (!current) return;
      peers_.erase(it);
      return host_.OnPeerDown(m.worker, UnavailableError("the connection to worker {} is lost", m.worker.value));
    case Kind::kPathLost:
      if (current && it->second.up) host_.OnPathLost(m.worker, m.path);
      return;
    case Kind::kFrames:
    case Kind::kPiece:
      if (current && it->second.up) TakeBytes(m.worker, m);
      return;
  }
}

void SimWire::Greet(const Message& hello) {
  SimWire* from = fabric_.Find(hello.from);
  if (from == nullptr || fabric_.LinkOf(*this, *from).epoch != hello.epoch) return;
  auto it = peers_.find(hello.worker);
  if (it != peers_.end() && it->second.address == hello.from && it->second.epoch == hello.epoch) {  // both dialled
    Send(hello.from, Make(Kind::kWelcome, hello.epoch));
    if (!std::exchange(it->second.up, true)) host_.OnPeerUp(hello.worker, hello.from);
    return;
  }
  const bool stale = it != peers_.end() && hello.incarnation < it->second.incarnation;
  if (stale || !host_.Admit(hello.worker).ok()) return Send(hello.from, Make(Kind::kBye, hello.epoch));
  if (it != peers_.end()) {
    peers_.erase(it);
    host_.OnPeerDown(hello.worker, UnavailableError("worker {} was restarted", hello.worker.value));
  }
  peers_[hello.worker] = {.address = hello.from, .incarnation = hello.incarnation, .epoch = hello.epoch, .up = true};
  Send(hello.from, Make(Kind::kWelcome, hello.epoch));
  host_.OnPeerUp(hello.worker, hello.from);
}

void SimWire::TakeBytes(WorkerId id, Message& m) {
  SimWire* from = fabric_.Find(m.from);
  if (from != nullptr && fabric_.LinkOf(*this, *from).generation[m.path] != m.generation) return;  // the path broke under it
  if (m.kind == Kind::kPiece) {
    std::byte* place = host_.Locate(id, m.header, m.header.body_bytes);
    if (place == nullptr) return host_.Drained(id, m.header, m.header.body_bytes);
    if (!m.bytes.empty()) std::memcpy(place, m.bytes.data(), m.bytes.size());
    return host_.Landed(id, m.header);
  }
  for (Bytes rest = AsBytes(m.bytes); !rest.empty();) {
    const auto header = ParseHeader(rest);
    CHECK(header.ok());
    CHECK(host_.OnFrame(id, *header, rest.subspan(sizeof(FrameHeader), header->body_bytes)).ok());
    rest = rest.subspan(sizeof(FrameHeader) + header->body_bytes);
  }
}

}  // namespace baton::dst
