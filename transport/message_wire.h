// The wire over libraries that pass messages (MPI, UCX): frames are packed into messages that belong to the wire. Such
// libraries cannot take back a message they read from or write into, so neither segments nor landings are given to them:
// what is late, cancelled or for a dead peer touches nobody's memory.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/message_buffer.h"
#include "transport/wire.h"

namespace baton {

/// Sends and receives whole messages, none of them twice. Thread: the owner's, except Wake. Nothing but Wait blocks.
class MessageMedium {
 public:
  /// One peer's process as the medium knows it.
  using Link = uint32_t;
  virtual ~MessageMedium() = default;
  virtual std::string_view name() const = 0;
  virtual std::string address() const = 0;
  /// The link to an address, the same each time while it works. Errors: kInvalid (not an address of this medium), kUnavailable.
  virtual Result<Link> Reach(const std::string& address) = 0;
  /// `message` is from `buffers`, and goes back there.
  virtual void Send(Link link, MessageBuffer message) = 0;
  /// Messages of that link that the medium still works on.
  virtual size_t Sending(Link link) const = 0;
  /// The next message that has arrived whole; moves everything on. The caller gives it back to `buffers`.
  virtual std::optional<MessageBuffer> Receive() = 0;
  /// Links that broke since the last call.
  virtual std::vector<Link> TakeBroken() = 0;
  virtual void Wait(Duration timeout) = 0;
  virtual void Wake() = 0;

  BufferPool buffers;
};

/// The pieces that these wires ask for: all copies of one stay in the cache.
inline constexpr size_t kMessagePieceBytes = 256_KiB;

std::unique_ptr<Wire> MakeMessageWire(const TransportConfig& config, std::unique_ptr<MessageMedium> medium, WireHost& host);

/// MPI: ranks of one communicator, "mpi:3". Works at MPI_THREAD_SERIALIZED; a rank's death is not told by MPI but by
/// Disconnect and deadlines. Errors: kInvalid (MPI is not initialised, or no communicator).
Result<std::unique_ptr<MessageMedium>> MakeMpiMedium(const TransportConfig& config, const Clock& clock);
/// UCX: whatever fabric it finds, "ucx:" and the worker's address in hex. Errors: kUnavailable (no usable device), kInvalid.
Result<std::unique_ptr<MessageMedium>> MakeUcxMedium(const TransportConfig& config);

}  // namespace baton
