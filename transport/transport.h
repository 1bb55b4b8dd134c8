// Moving KV bytes between workers. The receiver names the places and their order, the sender fills them: the widest
// contract that shared memory, TCP, UCX, MPI and NCCL can all honour.
//
// Life of a transfer: Expect (receiver) and Push (sender, any number of times, any order of segments) meet by TransferId;
// Push before Expect is held back by the transport or refused with kUnavailable in its completion, never lost silently.
// The receiver's transfer completes when every landing is filled, exactly once, or with an error: kDeadline (its deadline
// passed), kCancelled, kUnavailable (peer gone). After a terminal completion no byte is written to its landings.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

/// Place in the receiver's registered memory; landing i of a transfer receives segment i.
struct Landing { std::byte* data = nullptr; size_t bytes = 0; };
/// Source bytes of landing `index`; its size equals the landing's. Valid until its kSent completion.
struct Segment { uint32_t index = 0; const std::byte* data = nullptr; size_t bytes = 0; };

enum class CompletionKind : uint8_t { kSegmentLanded, kTransferLanded, kSent, kFailed };
struct Completion {
  CompletionKind kind{};
  TransferId transfer;
  uint32_t index = 0;  // kSegmentLanded, kSent: the segment
  Status status;       // kFailed: why
};

/// Thread: one thread (the progress thread's owner) calls everything unless a method says otherwise.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const = 0;  // "local", "shm", "tcp", "mpi", "ucx"
  /// Where peers reach this end ("tcp:127.0.0.1:4711", "shm:/baton-…", "mpi:3"); handed to Connect on the other side.
  virtual std::string address() const = 0;
  virtual Result<WorkerId> Connect(WorkerId peer, const std::string& address) = 0;  // idempotent; gives `peer` back
  virtual Status Register(MutableBytes arena) = 0;
  virtual Status Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline) = 0;
  virtual Status Push(TransferId id, WorkerId to, std::span<const Segment> segments) = 0;
  /// Idempotent; the landings are free once its terminal completion has been polled.
  virtual void Cancel(TransferId id) = 0;
  /// Makes progress, fills `out`, never blocks; gives the number filled.
  virtual size_t Poll(std::span<Completion> out) = 0;
  /// Sleeps until Poll may have something, or `timeout`.
  virtual void Wait(Duration timeout) = 0;
};

}  // namespace baton
