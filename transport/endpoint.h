// A Transport over any wire: the two tables of transfers, who is connected, and the completions.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "transport/receiving.h"
#include "transport/sending.h"
#include "transport/transport.h"
#include "transport/wire.h"

namespace baton {

class Endpoint final : public Transport, private WireHost, private Outbox, private SourceReader {
 public:
  /// `clock` outlives it. Call Start with a wire made for host().
  Endpoint(const TransportConfig& config, size_t piece_bytes, const Clock& clock);
  ~Endpoint() override;
  WireHost& host() { return *this; }
  void Start(std::unique_ptr<Wire> wire) { wire_ = std::move(wire); }

  std::string_view name() const override { return wire_->name(); }
  std::string address() const override { return wire_->address(); }
  Result<WorkerId> Connect(WorkerId peer, const std::string& address) override;
  void Disconnect(WorkerId peer) override;
  Status Register(const ArenaMemory& arena) override;
  Status Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, uint32_t digest_run) override;
  Status Push(TransferId id, WorkerId to, std::span<const Segment> segments) override;
  void Cancel(TransferId id) override;
  size_t Poll(std::span<Completion> out) override;
  void Wait(Duration timeout) override;
  void Wake() override { wire_->Wake(); }
  TransportStats stats() const override;

 private:
  struct Peer {
    std::string given;            // the address that Connect was last called with
    std::string said;             // where it says that it listens: another way to the same, perhaps
    const std::string& address() const { return given.empty() ? said : given; }  // empty: it has not been reached yet
    std::string control;          // frames to send
    bool up = false;
    bool dead = false;            // Disconnect; until Connect, or until it comes back by itself
    bool dirty = false;           // something may wait to be sent
  };

  // WireHost
  Status Admit(WorkerId peer) override;
  void OnPeerUp(WorkerId peer, const std::string& address) override;
  void OnPeerDown(WorkerId peer, const Status& status) override;
  void OnPathLost(WorkerId peer, uint32_t path) override;
  Status OnFrame(WorkerId peer, const FrameHeader& header, Bytes body) override;
  std::byte* Locate(WorkerId peer, const FrameHeader& header, size_t bytes) override;
  void Landed(WorkerId peer, const FrameHeader& header) override;
  void Drained(WorkerId peer, const FrameHeader& header, size_t bytes) override;
  std::string TakeControl(WorkerId peer) override;
  bool HasOutput(WorkerId peer) const override;
  bool Busy(WorkerId peer) const override { return receiving_.Busy(peer) || sending_.Busy(peer); }
  std::optional<OutPiece> NextPiece(WorkerId peer, uint32_t path) override;
  bool Congested(WorkerId peer) const override;
  // Outbox
  void Send(WorkerId peer, std::string frame) override;
  // SourceReader
  bool Detach(TransferId id) override { return wire_->Detach(id); }

  /// Room for one more peer, if need be in place of those that are gone.
  bool MakeRoom();
  /// Its entry, made if there is room. Errors: kExhausted; kUnavailable where it was disconnected.
  Status Reach(WorkerId peer);
  void MarkDirty(WorkerId id, Peer& peer);
  void FailPeer(WorkerId peer, const Status& status);
  void FlushDirty();

  const TransportConfig config_;
  const Clock& clock_;
  RegisteredMemory memory_;
  CompletionQueue completions_;
  ReceivingTable receiving_;
  SendingTable sending_;
  std::unordered_map<WorkerId, Peer> peers_;
  std::vector<WorkerId> dirty_;
  uint64_t drained_bytes_ = 0;
  std::unique_ptr<Wire> wire_;  // last: it is destroyed first, and knows this object
};

}  // namespace baton
