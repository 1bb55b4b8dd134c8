// What lies between the two tables of transfers (Endpoint) and the medium. A wire finds peers, moves frames in order a path,
// fetches what goes next and asks where arriving bytes belong. It knows nothing of transfers. docs/transport.md is the guide.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "transport/frame.h"
#include "transport/sending.h"
#include "transport/transport.h"

namespace baton {

/// What a wire calls; an Endpoint. Thread: the owner's, and only from inside a call to the wire.
class WireHost {
 public:
  virtual ~WireHost() = default;
  /// Before a peer is let in; not ok: refuse it with this reason.
  virtual Status Admit(WorkerId peer) = 0;
  /// The first path to `peer` is ready. `address` is where it listens.
  virtual void OnPeerUp(WorkerId peer, const std::string& address) = 0;
  /// No path is left, or none could be made.
  virtual void OnPeerDown(WorkerId peer, const Status& status) = 0;
  /// A path broke, others remain.
  virtual void OnPathLost(WorkerId peer, uint32_t path) = 0;
  /// A grant, ack or end. Not ok: the peer talks nonsense, drop the path.
  virtual Status OnFrame(WorkerId peer, const FrameHeader& header, Bytes body) = 0;
  /// As in ReceivingTable.
  virtual std::byte* Locate(WorkerId peer, const FrameHeader& header, size_t bytes) = 0;
  virtual void Landed(WorkerId peer, const FrameHeader& header) = 0;
  virtual void Drained(WorkerId peer, const FrameHeader& header, size_t bytes) = 0;
  /// Frames for `peer` in order, to be sent before any piece; empty when there are none.
  virtual std::string TakeControl(WorkerId peer) = 0;
  virtual bool HasOutput(WorkerId peer) const = 0;
  /// A transfer from or to `peer` is under way.
  virtual bool Busy(WorkerId peer) const = 0;
  virtual std::optional<OutPiece> NextPiece(WorkerId peer, uint32_t path) = 0;
  /// So many frames wait for `peer` that it cannot be an honest one: drop it.
  virtual bool Congested(WorkerId peer) const = 0;
};

/// Thread: the owner's, except Wake.
class Wire : public SourceReader {
 public:
  virtual std::string_view name() const = 0;
  virtual std::string address() const = 0;
  /// Starts to reach the peer unless that is under way or done. Errors: kInvalid (the address).
  virtual Status Connect(WorkerId peer, const std::string& address) = 0;
  /// Closes its paths, without OnPeerDown.
  virtual void Disconnect(WorkerId peer) = 0;
  virtual Status Register(const ArenaMemory& arena) = 0;
  /// Moves what can be moved both ways; never blocks.
  virtual void Progress() = 0;
  /// Sends what waits for `peer`, as far as the medium takes it now.
  virtual void Flush(WorkerId peer) = 0;
  virtual void Wait(Duration timeout) = 0;
  virtual void Wake() = 0;
  virtual uint64_t refused_peers() const { return 0; }
};

}  // namespace baton
