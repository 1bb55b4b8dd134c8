// A coordinator on a fake clock and workers that talk to it.
#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "coordinator/coordinator.h"
#include "tests/support/test_pch.h"

namespace baton {

inline BlockKey TestKey(uint64_t number) { return {Sha256(std::as_bytes(std::span(&number, 1)))}; }
inline std::vector<BlockKey> TestChain(uint64_t name, size_t blocks) {
  std::vector<BlockKey> chain;
  for (size_t i = 0; i < blocks; ++i) chain.push_back(TestKey(name * 100'000 + i));
  return chain;
}

inline std::vector<HeldChange> Added(std::span<const BlockKey> keys) {
  std::vector<HeldChange> changes;
  for (const BlockKey& key : keys) changes.push_back({true, key});
  return changes;
}

inline MemberInfo TestInfo(const std::string& name, std::vector<std::string> roles) {
  MemberInfo info;
  info.name = name;
  info.roles = std::move(roles);
  if (info.Has("prefill") || info.Has("decode")) {
    info.model.model_name = "m";
    info.model.kv_layout = "layout";
    info.model.block_tokens = 64;
    info.model.block_bytes = 1 << 16;
  }
  return info;
}

class CoordinatorTest : public ::testing::Test {
 protected:
  explicit CoordinatorTest(CoordinatorConfig config = {}) : coordinator_(config, clock_, metrics_) {}

  /// Registers, announces and sends the first snapshot.
  MemberInfo Join(const std::string& name, std::vector<std::string> roles, std::vector<BlockKey> keys = {}, WorkerLoad load = {}) {
    auto member = coordinator_.Register(TestInfo(name, std::move(roles)));
    EXPECT_TRUE(member.ok()) << member.status().ToString();
    EXPECT_TRUE(coordinator_.Announce(member->id, member->incarnation, "tcp", name).ok());
    HeartbeatReport report{1, true, false, load, Added(keys)};
    EXPECT_TRUE(coordinator_.Heartbeat(member->id, member->incarnation, report).status.ok());
    return *member;
  }
  RouteQuery Query(uint64_t request, uint32_t prompt_tokens, uint32_t max_tokens = 100) {
    RouteQuery query;
    query.request = RequestId(request);
    query.prompt_tokens = prompt_tokens;
    query.max_tokens = max_tokens;
    return query;
  }
  void Advance(double seconds) { clock_.Advance(FromSeconds(seconds)); }

  FakeClock clock_;
  Metrics metrics_;
  Coordinator coordinator_;
};

}  // namespace baton
