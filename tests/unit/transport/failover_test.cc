// Two tcp connections between two workers, one of which breaks or goes silent in the middle of transfers both ways: what is left
// goes over the other. BATON_FAILOVER_TRIALS sets how often (default 50).
#include <cstdlib>

#include "base/random.h"
#include "proxy_support.h"
#include "side_support.h"

namespace baton {
namespace {

enum class Break { kReset, kSwallow };

int Trials() {
  const char* wanted = std::getenv("BATON_FAILOVER_TRIALS");
  return wanted == nullptr ? 50 : std::atoi(wanted);
}

class Failover : public ::testing::Test {
 protected:
  struct Outcome {
    bool broken = false, over = false;
    Duration longest_stall{};  // between two segments' landings after the break
  };

  /// One trial: transfers of random sizes both ways, a line that breaks after random bytes.
  Outcome Try(uint64_t seed, Break how) {
    Random random(seed);
    End near(MakeDirectSide(Config(1)), 1), far(MakeDirectSide(Config(2)), 2);
    Proxy proxy(PortOf(far.address()));
    EXPECT_EQ(near.Connect(2, proxy.address()), "ok");
    size_t there = 0, back = 0;
    Ask(near, far, 1, random, &there);
    Ask(far, near, 2, random, &back);
    const size_t moment = random.Below(std::max<size_t>(1, (there + back) / 6)), line = random.Below(2);
    Outcome outcome;
    Instant moved = clock_.Now();
    size_t landed = 0;
    outcome.over = Until([&] {
      for (int i = 0; i < 8; ++i) proxy.Work();
      near.Poll(0), far.Poll(0);
      if (!outcome.broken && proxy.lines() == 2 && proxy.forwarded(line) > moment) {
        how == Break::kReset ? proxy.Reset(line) : proxy.Swallow(line);
        outcome.broken = true;
        moved = clock_.Now();
      }
      const size_t now_landed = near.events.size() + far.events.size();
      if (outcome.broken && now_landed > landed) outcome.longest_stall = std::max(outcome.longest_stall, clock_.Now() - moved);
      if (now_landed > landed) moved = clock_.Now();
      landed = now_landed;
      return Over(near, 1) && Over(far, 2) && Sent(near, 2) && Sent(far, 1);
    });
    for (const End* end : {&near, &far}) {
      for (const Event& e : end->events) {
        EXPECT_TRUE(e.right) << "seed " << seed << ": wrong bytes";
        EXPECT_NE(e.kind, "failed") << "seed " << seed << ": " << e.message;
      }
    }
    EXPECT_TRUE(near.Intact() && far.Intact()) << "seed " << seed;
    return outcome;
  }

 private:
  static TransportConfig Config(uint32_t worker) {
    TransportConfig config;
    config.kind = "tcp";
    config.self = WorkerId(worker);
    config.incarnation = Incarnation(1);
    return config;
  }
  /// `to` expects and `from` pushes a transfer of a few segments.
  void Ask(End& to, End& from, uint64_t id, Random& random, size_t* bytes) {
    std::vector<size_t> sizes(1 + random.Below(4));
    for (size_t& size : sizes) *bytes += size = random.Below(4) == 0 ? random.Below(2000) : random.Below(1500000);
    End::Segments segments;
    for (uint32_t i = 0; i < sizes.size(); ++i) segments.emplace_back(i, sizes[i]);
    segments_[id] = sizes.size();
    EXPECT_EQ(to.Expect(id, from.id().value, sizes), "ok");
    EXPECT_EQ(from.Push(id, to.id().value, segments), "ok");
  }
  static bool Over(const End& end, uint64_t id) { return end.Find("landed", id) != nullptr || end.Find("failed", id) != nullptr; }
  bool Sent(const End& end, uint64_t id) { return end.Count("sent", id) == segments_[id] || end.Find("failed", id) != nullptr; }
  template <typename Done>
  bool Until(Done done) {
    const Instant limit = clock_.Now() + std::chrono::seconds(20);
    while (!done()) {
      if (clock_.Now() > limit) return false;
    }
    return true;
  }

  SystemClock clock_;
  std::map<uint64_t, size_t> segments_;
};

TEST_F(Failover, AResetLineCostsNothingButTime) {
  int broken = 0;
  std::vector<double> stalls_ms;
  const int trials = Trials();
  for (int trial = 0; trial < trials && !HasFailure(); ++trial) {
    const Outcome outcome = Try(1000 + trial, Break::kReset);
    ASSERT_TRUE(outcome.over) << "trial " << trial << " hangs";
    broken += outcome.broken;
    if (outcome.broken) stalls_ms.push_back(ToSeconds(outcome.longest_stall) * 1e3);
  }
  ASSERT_GT(broken, trials / 5) << "many trials break a line before all is over";
  std::sort(stalls_ms.begin(), stalls_ms.end());
  std::printf("%d trials, %d broken, stall p50 %.1f ms, p99 %.1f ms\n", trials, broken, stalls_ms[stalls_ms.size() / 2], stalls_ms[(stalls_ms.size() - 1) * 99 / 100]);
}

TEST_F(Failover, ALineThatSwallowsEverythingIsGivenUp) {
  int broken = 0;
  const int trials = std::max(1, Trials() / 10);
  for (int trial = 0; trial < trials && !HasFailure(); ++trial) {
    const Outcome outcome = Try(5000 + trial, Break::kSwallow);
    ASSERT_TRUE(outcome.over) << "trial " << trial << " hangs";
    broken += outcome.broken;
  }
  EXPECT_GT(broken, 0);
}

TEST_F(Failover, BothLinesSilentIsAStoppedPeerAndNotABrokenLine) {
  // Nothing moves on either line: no line is given up for the other, and what goes on later goes on where it was.
  TransportConfig a, b;
  for (TransportConfig* config : {&a, &b}) config->kind = "tcp", config->incarnation = Incarnation(1);
  a.self = WorkerId(1), b.self = WorkerId(2);
  End near(MakeDirectSide(a), 1), far(MakeDirectSide(b), 2);
  ASSERT_EQ(near.Connect(2, far.address()), "ok");
  ASSERT_EQ(near.Expect(1, 2, {1000}), "ok");
  SystemClock clock;
  Instant limit = clock.Now() + std::chrono::seconds(20);
  while (near.Stats()["peers"] == 0 && clock.Now() < limit) near.Poll(0.001), far.Poll(0.001);
  // `far` is not polled: it is as good as stopped.
  limit = clock.Now() + std::chrono::milliseconds(1500);
  while (clock.Now() < limit) near.Poll(0.01);
  EXPECT_EQ(near.Stats()["peers"], 1);
  EXPECT_EQ(near.Find("failed", 1), nullptr);
  ASSERT_EQ(far.Push(1, 1, {{0, 1000}}), "ok");
  limit = clock.Now() + std::chrono::seconds(20);
  while (near.Find("landed", 1) == nullptr && clock.Now() < limit) near.Poll(0.001), far.Poll(0.001);
  EXPECT_NE(near.Find("landed", 1), nullptr);
}

}  // namespace
}  // namespace baton
