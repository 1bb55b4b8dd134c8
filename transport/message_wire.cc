#include "transport/message_wire.h"

#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace baton {
namespace {

constexpr size_t kMessageBytes = kMessagePieceBytes;  // about; one piece or one grant may make it longer
constexpr size_t kSendsAPeer = 4;          // under way at once
constexpr size_t kMessagesAtATime = 32;    // taken in one Progress

enum class MessageKind : uint32_t { kHello = 1, kBye = 2, kFrames = 3 };
struct Prefix {
  MessageKind kind{};
  uint32_t worker = 0;
  uint64_t incarnation = 0;
  uint64_t stream = 0, sequence = 0;  // one stream a greeting, and the place in it: media may overtake themselves
};
constexpr size_t kMaxHeld = 256;  // messages of one stream that have overtaken another

class MessageWire final : public Wire {
 public:
  MessageWire(const TransportConfig& config, std::unique_ptr<MessageMedium> medium, WireHost& host)
      : self_(config.self), incarnation_(config.incarnation), medium_(std::move(medium)), host_(host) {}
  ~MessageWire() override {
    for (auto& [id, peer] : peers_) Post(peer, MessageKind::kBye);
  }

  std::string_view name() const override { return medium_->name(); }
  std::string address() const override { return medium_->address(); }
  Status Register(const ArenaMemory&) override { return OkStatus(); }
  bool Detach(TransferId) override { return false; }  // messages hold copies
  void Wait(Duration timeout) override {
    if (!more_) medium_->Wait(timeout);
  }
  void Wake() override { medium_->Wake(); }
  uint64_t refused_peers() const override { return refused_; }

  Status Connect(WorkerId id, const std::string& address) override {
    ASSIGN_OR_RETURN(const MessageMedium::Link link, medium_->Reach(address));
    if (peers_.contains(id)) return OkStatus();
    Post(Add(id, link), MessageKind::kHello, AsBytes(medium_->address()));
    return OkStatus();
  }

  void Disconnect(WorkerId id) override {
    const auto it = peers_.find(id);
    if (it == peers_.end()) return;
    Post(it->second, MessageKind::kBye);
    peers_.erase(it);
  }

  void Progress() override {
    size_t taken = 0;
    for (; taken < kMessagesAtATime; ++taken) {
      std::optional<MessageBuffer> message = medium_->Receive();
      if (!message) break;
      Arrange(std::move(*message));
    }
    more_ = taken == kMessagesAtATime;
    for (const MessageMedium::Link link : medium_->TakeBroken()) DropLink(link);
    std::vector<WorkerId> ids;
    for (const auto& [id, peer] : peers_) ids.push_back(id);
    for (const WorkerId id : ids) Flush(id);
  }

  void Flush(WorkerId id) override {
    const auto it = peers_.find(id);
    if (it == peers_.end() || !it->second.up) return;
    while (medium_->Sending(it->second.link) < kSendsAPeer && host_.HasOutput(id)) {
      const std::string control = host_.TakeControl(id);
      std::optional<OutPiece> piece = host_.NextPiece(id, 0);
      if (control.empty() && !piece) return;
      MessageBuffer message = Begin(it->second, MessageKind::kFrames, control.size() + (piece ? kMessageBytes + kMessagePieceBytes : 0));
      message.Append(AsBytes(control));
      for (; piece; piece = message.size() < kMessageBytes ? host_.NextPiece(id, 0) : std::nullopt) {
        message.Append(std::as_bytes(std::span(&piece->header, 1)));
        message.Append({piece->data, piece->header.body_bytes});
      }
      medium_->Send(it->second.link, std::move(message));
    }
  }

 private:
  struct Peer {
    MessageMedium::Link link = 0;
    bool up = false;
    uint64_t incarnation = 0;
    uint64_t stream = 0, sent = 0;
  };

  Peer& Add(WorkerId id, MessageMedium::Link link) { return peers_[id] = {.link = link, .stream = ++streams_}; }

  MessageBuffer Begin(Peer& peer, MessageKind kind, size_t body_bytes) {
    const Prefix prefix{kind, self_.value, incarnation_.value, peer.stream, peer.sent++};
    MessageBuffer message = medium_->buffers.Take(sizeof prefix + body_bytes);
    message.Append(std::as_bytes(std::span(&prefix, 1)));
    return message;
  }
  void Post(Peer& peer, MessageKind kind, Bytes body = {}) {
    MessageBuffer message = Begin(peer, kind, body.size());
    message.Append(body);
    medium_->Send(peer.link, std::move(message));
  }

  /// Takes each stream's messages in the order they were sent.
  void Arrange(MessageBuffer message) {
    Prefix prefix;
    Bytes body = message.bytes();
    if (!TakeNumber(&body, &prefix)) return;
    Inbound& in = inbound_[{prefix.worker, prefix.incarnation, prefix.stream}];
    if (prefix.sequence < in.next || in.held.size() >= kMaxHeld) return;
    in.held.emplace(prefix.sequence, std::move(message));
    while (!in.held.empty() && in.held.begin()->first == in.next) {
      MessageBuffer next = std::move(in.held.begin()->second);
      in.held.erase(in.held.begin());
      ++in.next;
      Take(next.bytes());
      medium_->buffers.Give(std::move(next));
    }
  }

  void Take(Bytes message) {
    Prefix prefix;
    if (!TakeNumber(&message, &prefix)) return;
    const WorkerId id(prefix.worker);
    if (prefix.kind == MessageKind::kHello) return Greet(id, prefix.incarnation, std::string(AsText(message)));
    const auto it = peers_.find(id);
    if (it == peers_.end() || !it->second.up || it->second.incarnation != prefix.incarnation) return;
    const Status status = prefix.kind == MessageKind::kBye ? UnavailableError("worker {} has closed its transport", id.value) : TakeFrames(id, message);
    if (status.ok()) return;
    if (prefix.kind != MessageKind::kBye) Post(it->second, MessageKind::kBye);
    peers_.erase(it);
    host_.OnPeerDown(id, status);
  }

  void Greet(WorkerId id, uint64_t incarnation, const std::string& address) {
    const auto it = peers_.find(id);
    const bool known = it != peers_.end() && it->second.up;
    const auto link = medium_->Reach(address);
    if (known && link.ok() && it->second.incarnation == incarnation && it->second.link == *link) return;
    if (!link.ok() || (known && incarnation < it->second.incarnation) || !host_.Admit(id).ok()) {
      ++refused_;
      return;
    }
    const bool greeted = it != peers_.end() && !known && it->second.link == *link;  // our hello is on its way
    if (known) {
      peers_.erase(it);
      host_.OnPeerDown(id, UnavailableError("worker {} was restarted", id.value));
    }
    std::erase_if(inbound_, [&](const auto& entry) { return std::get<0>(entry.first) == id.value && std::get<1>(entry.first) != incarnation; });
    Peer& peer = greeted ? it->second : Add(id, *link);
    peer.up = true;
    peer.incarnation = incarnation;
    if (!greeted) Post(peer, MessageKind::kHello, AsBytes(medium_->address()));
    host_.OnPeerUp(id, address);
  }

  Status TakeFrames(WorkerId id, Bytes frames) {
    while (!frames.empty()) {
      if (frames.size() < sizeof(FrameHeader)) return InvalidError("worker {} sent half a frame", id.value);
      ASSIGN_OR_RETURN(const FrameHeader h, ParseHeader(frames));
      if (frames.size() - sizeof h < h.body_bytes) return InvalidError("worker {} sent half a frame", id.value);
      const Bytes body = frames.subspan(sizeof h, h.body_bytes);
      frames = frames.subspan(sizeof h + h.body_bytes);
      if (h.type != FrameType::kData) {
        RETURN_IF_ERROR(host_.OnFrame(id, h, body));
        continue;
      }
      std::byte* place = host_.Locate(id, h, body.size());
      if (place == nullptr) {
        host_.Drained(id, h, body.size());
      } else {
        if (!body.empty()) std::memcpy(place, body.data(), body.size());
        host_.Landed(id, h);
      }
    }
    return OkStatus();
  }

  void DropLink(MessageMedium::Link link) {
    for (auto it = peers_.begin(); it != peers_.end();) {
      const WorkerId id = it->first;
      const bool its = it->second.link == link;
      it = its ? peers_.erase(it) : std::next(it);
      if (its) host_.OnPeerDown(id, UnavailableError("the connection to worker {} is lost", id.value));
    }
  }

  const WorkerId self_;
  const Incarnation incarnation_;
  const std::unique_ptr<MessageMedium> medium_;
  WireHost& host_;
  std::unordered_map<WorkerId, Peer> peers_;
  struct Inbound {
    uint64_t next = 0;
    std::map<uint64_t, MessageBuffer> held;
  };
  std::map<std::tuple<uint32_t, uint64_t, uint64_t>, Inbound> inbound_;  // by worker, incarnation, stream
  uint64_t streams_ = 0;
  uint64_t refused_ = 0;
  bool more_ = false;  // the last Progress left messages behind
};

}  // namespace

std::unique_ptr<Wire> MakeMessageWire(const TransportConfig& config, std::unique_ptr<MessageMedium> medium, WireHost& host) {
  return std::make_unique<MessageWire>(config, std::move(medium), host);
}

}  // namespace baton
