#include "gateway/client_stream.h"

#include <arpa/inet.h>
#include <kj/debug.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace baton {
namespace {

kj::Exception Disconnected(const char* why) { return kj::Exception(kj::Exception::Type::DISCONNECTED, __FILE__, __LINE__, kj::str(why)); }

}  // namespace

ClientStream::ClientStream(kj::Own<kj::AsyncIoStream> inner, kj::Timer& timer, kj::Duration write_timeout)
    : inner_(kj::mv(inner)), timer_(timer), write_timeout_(write_timeout), when_gone_(nullptr) {
  auto pair = kj::newPromiseAndFulfiller<void>();
  gone_ = kj::mv(pair.fulfiller);
  when_gone_ = pair.promise.fork();
}

bool ClientStream::FromLoopback() {
  sockaddr_storage address{};
  kj::uint length = sizeof address;
  getpeername(reinterpret_cast<sockaddr*>(&address), &length);
  if (address.ss_family == AF_INET) {
    return ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
  }
  if (address.ss_family != AF_INET6) return false;
  const auto& ip = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&ip) || (IN6_IS_ADDR_V4MAPPED(&ip) && ip.s6_addr[12] == 127);
}

void ClientStream::Watch() {
  wanted_ = false;
  if (watching_ || ended_ || ending_) return;
  watching_ = true;
  if (landing_.size() == 0) landing_ = kj::heapArray<kj::byte>(4096);
  watch_ = WatchLoop().fork();
}

kj::Promise<void> ClientStream::WatchLoop() {
  return inner_->tryRead(landing_.begin(), 1, landing_.size())
      .catch_([](kj::Exception&&) { return size_t{0}; })  // a reset connection
      .then([this](size_t amount) -> kj::Promise<void> {
        ahead_.insert(ahead_.end(), landing_.begin(), landing_.begin() + amount);
        if (amount == 0) {
          ended_ = true;
          gone_->fulfill();
        } else if (!wanted_ && ahead_.size() - ahead_used_ < kReadAheadBytes) {
          return WatchLoop();
        }
        watching_ = false;
        return kj::READY_NOW;
      })
      .eagerlyEvaluate(nullptr);
}

kj::Promise<size_t> ClientStream::read(void* buffer, size_t min_bytes, size_t max_bytes) {
  return tryRead(buffer, min_bytes, max_bytes).then([min_bytes](size_t amount) -> kj::Promise<size_t> {
    if (amount < min_bytes) return Disconnected("the client closed the connection");
    return amount;
  });
}

kj::Promise<size_t> ClientStream::tryRead(void* buffer, size_t min_bytes, size_t max_bytes) {
  const size_t copied = std::min(max_bytes, ahead_.size() - ahead_used_);
  if (copied > 0) {
    std::memcpy(buffer, &ahead_[ahead_used_], copied);
    ahead_used_ += copied;
    if (ahead_used_ == ahead_.size()) {
      ahead_.clear();
      ahead_used_ = 0;
    }
  }
  if (copied >= min_bytes || ended_ || ending_) return copied;
  auto* rest = static_cast<kj::byte*>(buffer) + copied;
  kj::Promise<size_t> more = nullptr;
  if (watching_) {  // its read cannot be cancelled without losing bytes: wait for it
    wanted_ = true;
    more = watch_.addBranch().then([this, rest, least = min_bytes - copied, most = max_bytes - copied] { return tryRead(rest, least, most); });
  } else {
    more = inner_->tryRead(rest, min_bytes - copied, max_bytes - copied);
  }
  return more.then([copied](size_t amount) { return copied + amount; });  // then() keeps a reference to a lambda that is not a temporary
}

kj::Promise<void> ClientStream::Timed(kj::Promise<void> write) {
  return write.exclusiveJoin(timer_.afterDelay(write_timeout_).then([]() -> kj::Promise<void> {
    return Disconnected("the client takes no data");
  }));
}

kj::Promise<void> ClientStream::write(const void* buffer, size_t size) { return Timed(inner_->write(buffer, size)); }

kj::Promise<void> ClientStream::write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) { return Timed(inner_->write(pieces)); }

kj::Promise<void> ClientStream::whenWriteDisconnected() { return inner_->whenWriteDisconnected().exclusiveJoin(when_gone_.addBranch()); }

}  // namespace baton
