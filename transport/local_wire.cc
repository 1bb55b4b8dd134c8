#include "transport/local_wire.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baton {
namespace {

constexpr int kPiecesInFlight = 64;  // to one peer, so that a small transfer's turn comes soon

/// The right to read a transfer's segments; taken back by Detach.
struct Lease {
  std::mutex mutex;
  bool valid = true;
};

struct Inbox;
struct Message {
  enum Kind : uint8_t { kHello, kBye, kFrames, kPiece } kind = kFrames;
  std::shared_ptr<Inbox> from;
  std::string frames;                           // kFrames
  OutPiece piece;                               // kPiece
  std::shared_ptr<Lease> lease;                 // kPiece
  std::shared_ptr<std::atomic<int>> in_flight;  // kPiece: given back when it has been taken
};

/// Thread: any.
struct Inbox {
  const WorkerId owner;
  const Incarnation incarnation;
  const std::string address;

  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Message> messages;
  bool woken = false, closed = false;

  Inbox(WorkerId worker, Incarnation number, std::string at) : owner(worker), incarnation(number), address(std::move(at)) {}
  bool Post(Message message) {
    std::lock_guard lock(mutex);
    if (closed) return false;
    messages.push_back(std::move(message));
    ready.notify_one();
    return true;
  }
  void Wake() {
    std::lock_guard lock(mutex);
    woken = true;
    ready.notify_one();
  }
  std::deque<Message> Drain() {
    std::lock_guard lock(mutex);
    return std::exchange(messages, {});
  }
};

}  // namespace

class LocalHub {
 public:
  std::shared_ptr<Inbox> Open(WorkerId worker, Incarnation incarnation) {
    std::lock_guard lock(mutex_);
    auto inbox = std::make_shared<Inbox>(worker, incarnation, fmt::format("local:{}", ++opened_));
    inboxes_[inbox->address] = inbox;
    return inbox;
  }
  std::shared_ptr<Inbox> Find(const std::string& address) {
    std::lock_guard lock(mutex_);
    const auto it = inboxes_.find(address);
    return it == inboxes_.end() ? nullptr : it->second;
  }
  void Close(const Inbox& inbox) {
    std::lock_guard lock(mutex_);
    inboxes_.erase(inbox.address);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<Inbox>> inboxes_;
  uint64_t opened_ = 0;
};

std::shared_ptr<LocalHub> MakeLocalHub() { return std::make_shared<LocalHub>(); }

namespace {

class LocalWire final : public Wire {
 public:
  LocalWire(const TransportConfig& config, WireHost& host) : host_(host), hub_(config.hub), inbox_(hub_->Open(config.self, config.incarnation)) {}

  ~LocalWire() override {
    hub_->Close(*inbox_);
    std::deque<Message> unread;
    {
      std::lock_guard lock(inbox_->mutex);
      inbox_->closed = true;
      unread.swap(inbox_->messages);
    }
    for (auto& [id, lease] : leases_) Revoke(*lease);
    for (auto& [id, peer] : peers_) peer.inbox->Post({.kind = Message::kBye, .from = inbox_});
  }

  std::string_view name() const override { return "local"; }
  std::string address() const override { return inbox_->address; }
  Status Register(const ArenaMemory&) override { return OkStatus(); }
  void Wake() override { inbox_->Wake(); }

  Status Connect(WorkerId id, const std::string& address) override {
    if (address.rfind("local:", 0) != 0) return InvalidError("\"{}\" is not an address of the local transport", address);
    if (peers_.contains(id)) return OkStatus();
    dials_.emplace_back(id, address);  // what comes of it is said in Progress: the caller is in the middle of something
    return OkStatus();
  }

  void Disconnect(WorkerId id) override {
    std::erase_if(dials_, [id](const auto& dial) { return dial.first == id; });
    const auto it = peers_.find(id);
    if (it == peers_.end()) return;
    it->second.inbox->Post({.kind = Message::kBye, .from = inbox_});
    peers_.erase(it);
  }

  bool Detach(TransferId id) override {
    const auto it = leases_.find(id);
    if (it == leases_.end()) return false;
    Revoke(*it->second);
    leases_.erase(it);
    return true;
  }

  void Progress() override {
    for (const auto& [id, address] : std::exchange(dials_, {})) Dial(id, address);
    for (Message& m : inbox_->Drain()) Take(m);
    std::vector<WorkerId> ids;
    for (const auto& [id, peer] : peers_) ids.push_back(id);
    for (const WorkerId id : ids) Flush(id);
  }

  void Flush(WorkerId id) override {
    const auto it = peers_.find(id);
    if (it == peers_.end()) return;
    Peer& peer = it->second;
    if (std::string frames = host_.TakeControl(id); !frames.empty()) peer.inbox->Post({.kind = Message::kFrames, .from = inbox_, .frames = std::move(frames)});
    while (peer.in_flight->load() < kPiecesInFlight) {
      auto piece = host_.NextPiece(id, 0);
      if (!piece) break;
      auto& lease = leases_[TransferId(piece->header.transfer)];
      if (lease == nullptr) lease = std::make_shared<Lease>();
      ++*peer.in_flight;
      peer.inbox->Post({.kind = Message::kPiece, .from = inbox_, .piece = *piece, .lease = lease, .in_flight = peer.in_flight});
    }
  }

  void Wait(Duration timeout) override {
    if (!dials_.empty()) return;
    std::unique_lock lock(inbox_->mutex);
    inbox_->ready.wait_for(lock, timeout, [this] { return !inbox_->messages.empty() || inbox_->woken; });
    inbox_->woken = false;
  }

 private:
  struct Peer {
    std::shared_ptr<Inbox> inbox;
    std::shared_ptr<std::atomic<int>> in_flight = std::make_shared<std::atomic<int>>(0);
  };

  static void Revoke(Lease& lease) {
    std::lock_guard lock(lease.mutex);
    lease.valid = false;
  }

  void Dial(WorkerId id, const std::string& address) {
    if (peers_.contains(id)) return;
    const std::shared_ptr<Inbox> inbox = hub_->Find(address);
    if (inbox == nullptr || inbox->owner != id || !inbox->Post({.kind = Message::kHello, .from = inbox_})) {
      return host_.OnPeerDown(id, UnavailableError("worker {} is not at {} any more", id.value, address));
    }
    peers_[id].inbox = inbox;
    host_.OnPeerUp(id, address);
  }

  void Take(Message& m) {
    const WorkerId id = m.from->owner;
    auto it = peers_.find(id);
    const bool current = it != peers_.end() && it->second.inbox == m.from;
    if (m.kind == Message::kHello) {
      if (!current) Greet(m.from);
    } else if (!current) {  // what a predecessor or a disconnected peer said
      if (m.in_flight != nullptr) --*m.in_flight;
    } else if (m.kind == Message::kBye) {
      peers_.erase(it);
      host_.OnPeerDown(id, UnavailableError("worker {} has closed its transport", id.value));
    } else if (m.kind == Message::kFrames) {
      TakeFrames(id, m.frames);
    } else {
      TakePiece(id, m);
    }
  }

  void Greet(const std::shared_ptr<Inbox>& from) {
    const WorkerId id = from->owner;
    const auto it = peers_.find(id);
    const bool stale = it != peers_.end() && from->incarnation < it->second.inbox->incarnation;
    if (stale || !host_.Admit(id).ok()) {
      from->Post({.kind = Message::kBye, .from = inbox_});
      return;
    }
    if (it != peers_.end()) {
      peers_.erase(it);
      host_.OnPeerDown(id, UnavailableError("worker {} was restarted", id.value));
    }
    peers_[id].inbox = from;
    host_.OnPeerUp(id, from->address);
  }

  void TakeFrames(WorkerId id, const std::string& frames) {
    for (Bytes rest = AsBytes(frames); !rest.empty();) {
      const auto header = ParseHeader(rest);
      CHECK(header.ok());  // both ends are this process
      CHECK(host_.OnFrame(id, *header, rest.subspan(sizeof(FrameHeader), header->body_bytes)).ok());
      rest = rest.subspan(sizeof(FrameHeader) + header->body_bytes);
    }
  }

  void TakePiece(WorkerId id, Message& m) {
    const FrameHeader& h = m.piece.header;
    std::byte* place = host_.Locate(id, h, h.body_bytes);
    bool landed = false;
    if (place != nullptr) {
      std::lock_guard lock(m.lease->mutex);
      landed = m.lease->valid;
      if (landed && h.body_bytes > 0) std::memcpy(place, m.piece.data, h.body_bytes);
    }
    --*m.in_flight;
    if (landed) {
      host_.Landed(id, h);
    } else if (place == nullptr) {
      host_.Drained(id, h, h.body_bytes);
    } else {
      m.from->Wake();  // it gave this transfer up; what follows may go on
    }
  }

  WireHost& host_;
  const std::shared_ptr<LocalHub> hub_;
  const std::shared_ptr<Inbox> inbox_;
  std::unordered_map<WorkerId, Peer> peers_;
  std::vector<std::pair<WorkerId, std::string>> dials_;
  std::unordered_map<TransferId, std::shared_ptr<Lease>> leases_;
};

}  // namespace

Result<std::unique_ptr<Wire>> MakeLocalWire(const TransportConfig& config, WireHost& host) {
  if (config.hub == nullptr) return InvalidError("the local transport needs the process's hub (TransportConfig::hub)");
  return Result<std::unique_ptr<Wire>>(std::make_unique<LocalWire>(config, host));
}

}  // namespace baton
