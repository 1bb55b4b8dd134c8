// The thread that owns a process's transport. Other threads ask it to expect, push and cancel; it makes progress and tells
// them how each transfer ended. Every transfer has one owner (who called Expect or CloseSend) and one end.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mailbox.h"
#include "transport/transport.h"

namespace baton {

/// Thread: any may call every method; callbacks run on the pump's thread (the destructor's on its caller's) and must not block.
class TransferPump {
 public:
  using Done = std::function<void(const Status&)>;
  struct PeerEnd {
    WorkerId id;
    std::string address;  // Transport::address() of that end
  };

  TransferPump(std::unique_ptr<Transport> transport, const Clock& clock);
  /// Without a thread of its own: whoever made the transport calls Turn when it woke (a simulation). All calls on one thread.
  struct NoThread {};
  TransferPump(std::unique_ptr<Transport> transport, const Clock& clock, NoThread);
  ~TransferPump();
  TransferPump(const TransferPump&) = delete;
  TransferPump& operator=(const TransferPump&) = delete;

  /// Ends the transport and every open transfer, with kCancelled; what is asked for afterwards is answered so at once, on the caller's
  /// thread. Whoever still holds transfers may be destroyed after it, but before this object. Idempotent.
  void Stop();

  const std::string& kind() const { return kind_; }
  const std::string& address() const { return address_; }

  /// Receives a transfer: `done` once, with ok when all landings are filled. Until then the landings belong to the pump,
  /// and `digests`: one for each of so many equal runs of landings, hashed while they arrive (Transport::Expect).
  void Expect(TransferId id, PeerEnd from, std::vector<Landing> landings, Instant deadline, Done done, std::span<Digest128> digests = {});
  /// Sends segments; may be called many times for one transfer. The bytes belong to the pump until CloseSend's `done`.
  void Push(TransferId id, PeerEnd to, std::vector<Segment> segments);
  /// No more pushes follow: `done` once, when all bytes are sent (ok) or the transfer failed.
  void CloseSend(TransferId id, Done done);
  /// Ends the transfer on this side; its `done` gets kCancelled unless it has ended.
  void Cancel(TransferId id);
  /// The peer is dead: its transfers fail now.
  void Disconnect(WorkerId peer);

  /// Does what was asked for and tells what has ended; gives how many completions there were.
  size_t Turn();

  /// Smoothed speed at which pushes leave; 0 until one has.
  double sent_bytes_per_s() const { return sent_bytes_per_s_.load(std::memory_order_relaxed); }
  /// The same for each peer that pushes went to and that was not disconnected since.
  std::vector<std::pair<WorkerId, double>> PathSpeeds() const;

 private:
  struct Receive {
    Done done;
    uint32_t digest_run = 0;
    std::span<Digest128> digests;
  };
  struct Send {
    WorkerId peer;
    size_t open_segments = 0, open_bytes = 0;
    Instant begin;  // of the pushes that are open
    Status status;
    bool closed = false;
    Done done;
  };
  /// What another thread asks for; told `stopped` where the transport ended before it could be done.
  using Command = std::function<void(bool stopped)>;
  void Do(Command command);
  void Wake();
  void Loop();
  void OnCompletion(const Completion& completion);
  void KeepDigest(const Completion& completion);
  void EndReceive(TransferId id, const Status& status);
  void CountSent(Send& send);
  void EndSendIfOver(TransferId id);
  bool Reach(const PeerEnd& peer, Status* status);

  std::mutex wake_mutex_;
  std::unique_ptr<Transport> transport_;  // the pump's thread's; who wakes it from another holds wake_mutex_
  const Clock& clock_;
  const std::string kind_, address_;
  Mailbox<Command> commands_;
  std::atomic<double> sent_bytes_per_s_{0};
  mutable std::mutex mutex_;
  std::map<WorkerId, double> path_bytes_per_s_;  // guarded by mutex_
  // Of the pump's thread:
  std::unordered_map<TransferId, Receive> receives_;
  std::unordered_map<TransferId, Send> sends_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace baton
