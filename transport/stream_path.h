// One connection of a stream wire: bytes in, cut into frames, payloads straight into their landings; frames and pieces out,
// gathered into few system calls. Owned by a StreamWire, which says when the socket is ready.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transport/handshake.h"
#include "transport/peer_memory.h"
#include "transport/wire.h"

struct msghdr;

namespace baton {

/// Thread: the wire's.
class StreamPath {
 public:
  enum class State { kGreeting, kReady };

  /// Takes over `fd`, a non-blocking stream socket. `memory` is null where every byte goes inline.
  StreamPath(int fd, Handshake handshake, WireHost& host, LocalMemory* memory, Instant handshake_deadline);
  ~StreamPath();
  StreamPath(const StreamPath&) = delete;
  StreamPath& operator=(const StreamPath&) = delete;

  /// Reads and acts, up to a budget. kUnavailable: the connection is over, or the peer must be refused (the reason).
  Status Read();
  /// Sends what waits. Errors as Read.
  Status Write();
  /// Tells the peer why it is not wanted, as far as that is possible now.
  void Refuse(const Status& reason);
  /// The wire let the peer in as path `id`.
  void Open(uint32_t id);
  /// What of this transfer's segments is still to be written is copied.
  void Detach(TransferId id);
  /// Announces an arena of this process; nothing without memory.
  void ShowArena(uint32_t number);

  int fd() const { return fd_; }
  State state() const { return state_; }
  uint32_t id() const { return id_; }
  WorkerId peer() const { return handshake_.peer().worker; }
  const Introduction& introduction() const { return handshake_.peer(); }
  Instant handshake_deadline() const { return handshake_deadline_; }
  bool greeted() const { return handshake_.done(); }  // the handshake is over; waits for Open

  // Set by the wire from the events of the socket, cleared here when it would block.
  bool readable = false, writable = false;
  WorkerId dialled;  // 0: accepted

  /// Something can be done without waiting for the socket.
  bool CanWork() const;

  /// While transfers are under way: looks whether anything has moved, and asks the other side for a sign of life if not.
  void Pulse(Instant now);
  /// Nothing is under way: no sign of life is missed.
  void Rest() {
    alive_.reset();
    silent_ = {};
  }
  /// The other side has asked for a sign of life since the last call: it waits for something.
  bool TakeAsked() { return std::exchange(asked_, false); }
  /// How long since anything moved either way, at the last Pulse.
  Duration silent() const { return silent_; }

 private:
  struct Chunk {
    std::string owned;                // these bytes, or
    const std::byte* data = nullptr;  // those, which belong to `transfer`
    size_t bytes = 0;
    TransferId transfer;
    int fd = -1;                      // travels with the first byte; not owned
  };

  Status Receive();
  Status ReceiveInto(std::byte* place, size_t bytes);
  Status Parse();
  Status TakeFrame(const FrameHeader& header, Bytes body);
  Status TakeReference(const FrameHeader& header, Bytes body);
  void TakePayload(size_t bytes, const std::byte* from);
  std::byte* Place();
  void EndPiece();
  Status TakeDescriptors(const ::msghdr& message);
  void Fill();
  void AddPiece(const OutPiece& piece);
  void AddOwned(std::string_view bytes);
  Status SendSome(bool* blocked);
  size_t buffered() const { return in_end_ - in_begin_; }

  const int fd_;
  Handshake handshake_;
  WireHost& host_;
  LocalMemory* const memory_;
  const Instant handshake_deadline_;
  State state_ = State::kGreeting;
  uint32_t id_ = 0;

  std::vector<std::byte> in_;
  size_t in_begin_ = 0, in_end_ = 0;
  std::optional<FrameHeader> piece_;  // the data frame that is arriving
  size_t piece_done_ = 0;
  size_t budget_ = 0;                 // bytes that this Read may still take
  bool out_of_budget_ = false;        // the last Read left frames in the buffer
  bool piece_drained_ = false;
  std::unique_ptr<PeerMemory> peer_memory_;

  std::deque<Chunk> out_;
  size_t out_bytes_ = 0, out_offset_ = 0;  // offset in the first chunk

  std::optional<Instant> alive_;  // when something had moved at the latest; none: nobody asked
  Duration silent_{};
  bool heard_ = false;            // since the last Pulse
  bool pinged_ = false;           // since it was heard
  bool asked_ = false;
  int unsent_ = 0;                // bytes the other host had not taken at the last Pulse
};

}  // namespace baton
