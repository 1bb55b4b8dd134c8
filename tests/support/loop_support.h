// A kj loop for tests: waits that end by themselves, conditions that other threads bring about, and ranks that listen.
#pragma once

#include <kj/async-io.h>

#include <functional>
#include <memory>
#include <utility>

#include "protocol/node.h"
#include "protocol/peers.h"
#include "tests/support/test_pch.h"

namespace baton {

/// A rank's port and what it offers; destroying it closes its connections.
struct TestNode {
  explicit TestNode(kj::AsyncIoContext& io, std::string key = "key") : server(std::make_unique<NodeServer>(services, std::move(key))) {
    EXPECT_TRUE(server->Listen(io.provider->getNetwork(), io.provider->getTimer(), io.waitScope, "127.0.0.1").ok());
  }
  PeerAddress address() const { return {"127.0.0.1", server->port()}; }

  NodeServices services;
  std::unique_ptr<NodeServer> server;
};

class LoopTest : public ::testing::Test {
 public:
  ~LoopTest() noexcept override = default;  // kj's destructors may throw, gtest's may not

 protected:
  static constexpr kj::Duration kLimit = 20 * kj::SECONDS;  // of one wait: far above what a busy machine needs

  /// What the promise gives; its exception, or one of its own after kLimit, fails the test.
  template <typename T>
  T Wait(kj::Promise<T> promise) {
    return timer_.timeoutAfter(kLimit, kj::mv(promise)).wait(io_.waitScope);
  }
  /// Runs the loop until the condition holds; false after kLimit.
  bool Until(const std::function<bool()>& condition) {
    const auto deadline = timer_.now() + kLimit;
    while (!condition()) {
      if (timer_.now() >= deadline) return false;
      timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
    }
    return true;
  }
  PeerTable MakePeers(std::string key = "key", double timeout_s = 10) {
    return PeerTable(io_.provider->getNetwork(), timer_, std::move(key), FromSeconds(timeout_s));
  }

  kj::AsyncIoContext io_ = kj::setupAsyncIo();
  kj::Timer& timer_ = io_.provider->getTimer();
};

}  // namespace baton
