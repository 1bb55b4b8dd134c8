// Moving KV bytes between workers. The receiver names the places and their order, the sender fills them: the widest
// contract that shared memory, TCP, UCX, MPI and NCCL can all honour. docs/transfer.md draws the states of both ends,
// docs/transport.md walks through writing another transport.
//
// Life of a transfer: Expect (receiver) and Push (sender, any number of times, any order of segments) meet by TransferId.
// A Push before its Expect is held at the sender, bounded in number and time, and then fails with kUnavailable; it is never
// lost silently. The receiver's transfer ends with kTransferLanded when every landing was filled, exactly once, or with one
// kFailed: kDeadline, kCancelled (either end), kUnavailable (peer gone), kInvalid (the peer broke the agreement). After that
// terminal completion no byte is written to its landings. The sender gets kSent for each segment that has landed over
// there, or one kFailed for the transfer, after which its segments are not read any more. A transfer whose landings have
// all been filled ends at the sender with the kSent of its last segment. Every end frees everything at both ends.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

/// Place in the receiver's registered memory; landing i of a transfer receives segment i. Zero bytes are allowed.
struct Landing { std::byte* data = nullptr; size_t bytes = 0; };
/// Source bytes of landing `index`; its size equals the landing's. Valid and unchanged until its kSent or the transfer's
/// kFailed has been polled.
struct Segment { uint32_t index = 0; const std::byte* data = nullptr; size_t bytes = 0; };

enum class CompletionKind : uint8_t { kSegmentLanded, kTransferLanded, kSent, kFailed };
struct Completion {
  CompletionKind kind{};
  TransferId transfer;
  uint32_t index = 0;      // kSegmentLanded, kSent: the segment
  bool receiving = false;  // kFailed: which end of the transfer this was (both, if a worker sends to itself)
  bool digested = false;   // kSegmentLanded: the last of its run (Expect) to land;
  Digest128 digest;        // that run's digest
  Status status;           // kFailed: why
};

/// Memory that landings lie in. `fd` is a memfd whose offset 0 is mapped at bytes.data() (SharedArena::memory), or -1.
struct ArenaMemory { MutableBytes bytes; int fd = -1; };

struct TransportStats {
  uint64_t sent_bytes = 0, landed_bytes = 0;    // payload of pieces handed to the wire, of pieces put into landings
  uint64_t drained_bytes = 0;                   // arrived for a transfer that had ended, and went nowhere
  uint64_t refused_peers = 0;                   // connections without the right hello or key
  size_t receiving = 0, sending = 0, peers = 0; // now: transfers at each end, peers that are connected
};

/// Thread: one thread (the progress thread's owner) calls everything, except Wake. No method but Wait blocks.
class Transport {
 public:
  /// Ends all transfers without completions; peers see them fail. No file, socket or mapping is left behind.
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;  // TransportConfig::kind
  /// Where peers reach this end ("tcp:127.0.0.1:4711", "shm:baton-…", "auto:shm:baton-…|tcp:…", "mpi:3"); handed to Connect
  /// on the other side.
  virtual std::string address() const = 0;
  /// Starts to reach `peer` and gives it back; idempotent. One side's Connect serves both directions. Another address than
  /// before means the peer was restarted: its old transfers fail with kUnavailable. Errors: kInvalid (not this transport's
  /// kind of address, peer 0), kExhausted (too many peers). An unreachable peer shows in the completions of its transfers.
  virtual Result<WorkerId> Connect(WorkerId peer, const std::string& address) = 0;
  /// The peer is known to be dead: each of its transfers fails with kUnavailable at once and its connections are closed.
  /// Unknown peers are ignored. Connect brings it back.
  virtual void Disconnect(WorkerId peer) = 0;
  /// Memory for landings; it outlives the transport. Segments need no registration, but shm sends those that lie in an arena
  /// with an fd without a copy. Errors: kInvalid (empty, overlapping), kUnavailable (the device refuses it).
  virtual Status Register(const ArenaMemory& arena) = 0;
  /// `from` need not be connected yet. Errors: kInvalid (no landings, outside registered memory, overlapping, peer 0),
  /// kAborted (this id was used before), kUnavailable (the peer was disconnected), kExhausted (too many transfers or
  /// landings). On error no completion follows.
  /// `digest_run`: landings [k * run, (k + 1) * run) make one run, whose bytes, one landing after the other, are hashed while
  /// they arrive and still lie in the cache (XXH3-128); 0: none.
  virtual Status Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, uint32_t digest_run = 0) = 0;
  /// `to` need not be connected yet. Errors: kInvalid (a segment twice, an index or size that the receiver did not announce,
  /// another peer), kUnavailable (the peer was disconnected), kExhausted (too many transfers), or the status with which the
  /// transfer had ended. On error nothing of this call was taken and no completion follows from it. A wrong index or size
  /// of a Push that waits for its Expect shows when they meet: both ends get kFailed with kInvalid.
  virtual Status Push(TransferId id, WorkerId to, std::span<const Segment> segments) = 0;
  /// Ends the transfer at this end with kFailed(kCancelled), unless it has ended; the peer is told. Idempotent. A transfer
  /// that is not known here yet is refused when its receiver asks for it or Push names it. Landings and segments are free
  /// once that completion has been polled.
  virtual void Cancel(TransferId id) = 0;
  /// Makes progress, fills `out`, never blocks; gives the number filled.
  virtual size_t Poll(std::span<Completion> out) = 0;
  /// Sleeps until Poll may have something, Wake was called, or `timeout`.
  virtual void Wait(Duration timeout) = 0;
  /// Ends the current Wait, or the next one if none is running. Thread: any, while the transport lives.
  virtual void Wake() = 0;
  virtual TransportStats stats() const = 0;
};

/// Where the `local` transports of one process find each other. Thread: any.
class LocalHub;
std::shared_ptr<LocalHub> MakeLocalHub();

struct TransportConfig {
  std::string kind = "auto";         // auto (for each peer shm if it shares a network namespace, else tcp), local, shm, tcp, mpi, ucx
  WorkerId self;                     // not 0
  Incarnation incarnation;           // grows with each start of this worker; peers refuse older ones
  std::string bind_host = "127.0.0.1";  // auto, tcp, ucx: the numeric address to listen on; the port is the system's choice
  std::string advertise_host;        // auto, tcp: the address peers use, where that is not bind_host
  std::string cluster_key;           // auto, shm, tcp: peers must prove to know it; empty: none is asked for
  uint32_t paths = 2;                // auto, tcp: connections a peer; one lost, the transfers go on over the others
  bool checksum = false;             // every piece carries an XXH3 of its bytes; a wrong one fails the transfer (kDataLoss)
  uint32_t max_peers = 256;
  uint32_t max_transfers = 4096;     // at each end
  uint32_t max_landings = 1u << 16;  // of one transfer
  Duration hold = std::chrono::seconds(10);            // how long a Push waits for its Expect or its connection
  Duration handshake_timeout = std::chrono::seconds(1);  // a connection without a valid hello is closed after it
  std::shared_ptr<LocalHub> hub;     // local
  int mpi_communicator = 0;          // mpi: MPI_Comm_c2f of a communicator that nothing else uses
  const Clock* clock = nullptr;      // null: the system's
};

/// Thread: the owner's. Errors: kInvalid (unknown kind, missing self, hub or communicator; a kind this build or machine
/// lacks: says which it has), kUnavailable (the address cannot be bound: says why).
Result<std::unique_ptr<Transport>> MakeTransport(const TransportConfig& config);

/// The kinds compiled in: auto, then in the order in which a pair of workers on one host should prefer them.
std::span<const std::string_view> TransportKinds();

}  // namespace baton
