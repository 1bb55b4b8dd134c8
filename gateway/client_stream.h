// One client's connection below kj-http. It adds what kj-http lacks: a client that leaves is noticed while nothing is being
// read or written, no write waits for ever, and the connection can be ended after an answer.
#pragma once

#include <kj/async-io.h>
#include <kj/timer.h>

#include <cstddef>
#include <vector>

namespace baton {

/// Thread: the gateway's loop.
class ClientStream final : public kj::AsyncIoStream {
 public:
  /// A write that takes longer than `write_timeout` fails as disconnected.
  ClientStream(kj::Own<kj::AsyncIoStream> inner, kj::Timer& timer, kj::Duration write_timeout);

  /// Call when a request has been read to its end and its answer may take long: from now on the client's end of stream makes
  /// whenWriteDisconnected resolve, so that kj-http drops the answer. What the client sends meanwhile (a pipelined request) is
  /// kept; after kReadAheadBytes of it the watch sleeps until they are read.
  void Watch();
  /// Ends the connection after the current answer: nothing more is read.
  void EndAfterAnswer() { ending_ = true; }
  /// True for a peer on this machine.
  bool FromLoopback();

  kj::Promise<size_t> read(void* buffer, size_t min_bytes, size_t max_bytes) override;
  kj::Promise<size_t> tryRead(void* buffer, size_t min_bytes, size_t max_bytes) override;
  kj::Promise<void> write(const void* buffer, size_t size) override;
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override;
  kj::Promise<void> whenWriteDisconnected() override;
  void shutdownWrite() override { inner_->shutdownWrite(); }
  void abortRead() override { inner_->abortRead(); }
  void getsockopt(int level, int option, void* value, kj::uint* length) override { inner_->getsockopt(level, option, value, length); }
  void getsockname(struct sockaddr* address, kj::uint* length) override { inner_->getsockname(address, length); }
  void getpeername(struct sockaddr* address, kj::uint* length) override { inner_->getpeername(address, length); }

 private:
  static constexpr size_t kReadAheadBytes = 64 << 10;

  kj::Promise<void> WatchLoop();
  kj::Promise<void> Timed(kj::Promise<void> write);

  kj::Own<kj::AsyncIoStream> inner_;
  kj::Timer& timer_;
  kj::Duration write_timeout_;
  kj::Array<kj::byte> landing_;  // of the watch's read in flight
  std::vector<kj::byte> ahead_;  // read by the watch, not yet by kj-http
  size_t ahead_used_ = 0;
  bool ended_ = false, ending_ = false;
  bool watching_ = false;  // watch_ is running
  bool wanted_ = false;    // kj-http waits for what the watch reads next, which then stops
  kj::Own<kj::PromiseFulfiller<void>> gone_;
  kj::ForkedPromise<void> when_gone_;
  kj::ForkedPromise<void> watch_ = kj::Promise<void>(kj::READY_NOW).fork();
};

}  // namespace baton
