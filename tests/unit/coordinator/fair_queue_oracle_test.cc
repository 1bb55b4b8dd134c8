// Deficit round robin against its textbook form (Shreedhar and Varghese, SIGCOMM '95) with every round walked one by one: the very same
// order for random requests, weights, withdrawals and settlements; and the bounds that the paper proves of it.
#include <deque>
#include <list>

#include "base/random.h"
#include "coordinator/fair_queue.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

/// One priority, all tenants here from the beginning to the end, nothing skipped.
class Textbook {
 public:
  Textbook(double quantum, std::map<std::string, double> weights) : quantum_(quantum), weights_(std::move(weights)) {}
  void Push(uint64_t id, const std::string& tenant, uint64_t tokens) { queues_[tenant].push_back({id, tokens}); }
  void Begin(std::vector<std::string> ring) { ring_.assign(ring.begin(), ring.end()); }
  void Remove(uint64_t id) {
    for (auto& [tenant, queue] : queues_) std::erase_if(queue, [&](const auto& r) { return r.first == id; });
  }
  /// The next to be served; it goes. 0: none.
  uint64_t Pop() {
    while (!ring_.empty()) {
      const std::string& tenant = ring_.front();
      auto& queue = queues_[tenant];
      if (queue.empty()) {
        ring_.pop_front();
        visited_ = false;
        continue;
      }
      if (!visited_) deficit_[tenant] += quantum_ * WeightOf(tenant);
      visited_ = true;
      if (static_cast<double>(queue.front().second) <= deficit_[tenant]) {
        const auto [id, tokens] = queue.front();
        queue.pop_front();
        deficit_[tenant] -= static_cast<double>(tokens);
        return id;
      }
      ring_.splice(ring_.end(), ring_, ring_.begin());
      visited_ = false;
    }
    return 0;
  }
  double deficit(const std::string& tenant) { return deficit_[tenant]; }

 private:
  double WeightOf(const std::string& tenant) const {
    const auto found = weights_.find(tenant);
    return found == weights_.end() ? 1 : found->second;
  }
  double quantum_;
  std::map<std::string, double> weights_;
  std::map<std::string, std::deque<std::pair<uint64_t, uint64_t>>> queues_;
  std::map<std::string, double> deficit_;
  std::list<std::string> ring_;
  bool visited_ = false;
};

class FairQueueOracle : public ::testing::TestWithParam<uint64_t> {};

TEST_P(FairQueueOracle, TheSameOrderAsTheTextbooks) {
  Random random(GetParam());
  for (int round = 0; round < 60; ++round) {
    const uint64_t quantum = uint64_t{1} << (random.Below(8));  // powers of two: sums of them are exact
    std::map<std::string, double> weights;
    const size_t tenants = 1 + random.Below(6);
    for (size_t t = 0; t < tenants; ++t) weights[std::string(1, static_cast<char>('a' + t))] = std::array{0.25, 0.5, 1.0, 2.0, 4.0}[random.Below(5)];
    FairQueue queue({.quantum_tokens = quantum, .weights = weights});
    Textbook textbook(static_cast<double>(quantum), weights);
    std::vector<std::string> ring;
    std::vector<uint64_t> waiting;
    for (uint64_t id = 1; id <= 80; ++id) {
      const std::string tenant(1, static_cast<char>('a' + random.Below(tenants)));
      const uint64_t tokens = random.Below(4) == 0 ? random.Below(20000) : random.Below(300);  // up to thousands of rounds for one
      ASSERT_TRUE(queue.Push({RequestId(id), tenant, 0, tokens, {}}));
      textbook.Push(id, tenant, tokens);
      if (std::find(ring.begin(), ring.end(), tenant) == ring.end()) ring.insert(ring.begin(), tenant);  // who comes anew goes next
      waiting.push_back(id);
    }
    textbook.Begin(ring);
    for (int served = 0; queue.size() > 0; ++served) {
      if (random.Below(8) == 0) {
        const size_t pick = random.Below(waiting.size());
        const bool was_there = queue.Waits(RequestId(waiting[pick]));
        ASSERT_EQ(queue.Remove(RequestId(waiting[pick])), was_there);
        textbook.Remove(waiting[pick]);
        continue;
      }
      if (random.Below(3) == 0) queue.Front();  // asking decides nothing
      const uint64_t want = textbook.Pop();
      const WaitingRequest* front = queue.Front();
      ASSERT_NE(front, nullptr);
      ASSERT_EQ(front->request.value, want) << "round " << round << " after " << served;
      queue.Pop();
    }
    ASSERT_EQ(textbook.Pop(), 0u);
  }
}

/// Whatever others send: while a request waits, each other tenant gets no more than its quantum a round, and a request of at most
/// the largest size beside. So a tenant's first request of S tokens waits for ceil(S / quantum) rounds of that and no longer.
TEST_P(FairQueueOracle, NobodyWaitsLongerThanTheBound) {
  Random random(GetParam() + 100);
  for (int round = 0; round < 40; ++round) {
    constexpr uint64_t kQuantum = 512, kLargest = 3000;
    FairQueue queue({.quantum_tokens = kQuantum});
    const size_t others = 1 + random.Below(6);
    uint64_t next = 1;
    const auto refill = [&](size_t t) { queue.Push({RequestId(++next), "other" + std::to_string(t), 0, 1 + random.Below(kLargest), {}}); };
    for (size_t t = 0; t < others; ++t) {
      for (int i = 0; i < 30; ++i) refill(t);
    }
    for (uint64_t warm = random.Below(50); warm > 0; --warm) {  // somewhere in the middle of things
      const std::string tenant = queue.Front()->tenant;
      queue.Pop();
      refill(static_cast<size_t>(tenant.back() - '0'));
    }
    const uint64_t size = 1 + random.Below(8 * kLargest);
    queue.Push({RequestId(1), "mine", 0, size, {}});
    const double rounds = std::ceil(static_cast<double>(size) / kQuantum);
    const double bound = static_cast<double>(others) * (rounds * kQuantum + kLargest) + kLargest;
    double before = 0;
    while (queue.Front()->request.value != 1) {
      before += static_cast<double>(queue.Front()->tokens);
      const std::string tenant = queue.Front()->tenant;
      queue.Pop();
      refill(static_cast<size_t>(tenant.back() - '0'));  // the others never run dry
      ASSERT_LE(before, bound) << "size " << size << " others " << others;
    }
  }
}

TEST_P(FairQueueOracle, WeightsAreSharesOfWhatIsServed) {
  Random random(GetParam() + 200);
  for (int round = 0; round < 10; ++round) {
    std::map<std::string, double> weights = {{"a", 0.5 + random.Uniform()}, {"b", 1 + 3 * random.Uniform()}, {"c", 5}, {"d", 1}};
    FairQueue queue({.quantum_tokens = 256, .weights = weights});
    uint64_t next = 0;
    const auto refill = [&](const std::string& tenant) { queue.Push({RequestId(++next), tenant, 0, 1 + random.Below(900), {}}); };
    double sum = 0;
    for (const auto& [tenant, weight] : weights) {
      for (int i = 0; i < 20; ++i) refill(tenant);
      sum += weight;
    }
    std::map<std::string, double> served;
    double total = 0;
    while (total < 600'000) {
      const WaitingRequest front = *queue.Front();
      queue.Pop();
      served[front.tenant] += static_cast<double>(front.tokens);
      total += static_cast<double>(front.tokens);
      refill(front.tenant);
    }
    for (const auto& [tenant, weight] : weights) EXPECT_NEAR(served[tenant] / total, weight / sum, 0.01) << tenant << " " << weight;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, FairQueueOracle, ::testing::Values(1, 2, 3, 4));

/// A prompt of a whole context is more than settling may move: what its tenant saved up for it in its turns must not be lost
/// whenever an earlier request of that tenant ends.
TEST(FairQueueSettling, AHugeRequestIsReachedAlthoughSmallOnesOfItsTenantAreSettled) {
  FairQueue queue({.quantum_tokens = 100, .most_debt_quanta = 4});
  uint64_t next = 1;
  queue.Push({RequestId(1), "huge", 0, 5000, {}});
  const auto refill = [&] { queue.Push({RequestId(++next), "small", 0, 100, {}}); };
  for (int i = 0; i < 3; ++i) refill();
  int served = 0;
  for (; queue.Front()->request.value != 1; ++served) {
    ASSERT_LE(served, 60) << "50 turns of 100 tokens each are due before it";
    queue.Pop();
    refill();
    queue.Settle("huge", 10, 10);  // one that ran before has ended, as expected
  }
  EXPECT_GE(served, 45) << "and not sooner";
}

TEST(FairQueueSettling, GivesBackOrTakesNoMoreThanItsLimit) {
  const auto turns_until_served = [](uint64_t charged, uint64_t took) {
    FairQueue queue({.quantum_tokens = 100, .most_debt_quanta = 4});
    uint64_t next = 1;
    queue.Push({RequestId(1), "mine", 0, 1000, {}});
    const auto refill = [&] { queue.Push({RequestId(++next), "other", 0, 100, {}}); };
    for (int i = 0; i < 3; ++i) refill();
    queue.Settle("mine", charged, took);
    int turns = 0;
    for (; queue.Front()->request.value != 1; ++turns) {
      queue.Pop();
      refill();
    }
    return turns;
  };
  const int usual = turns_until_served(50, 50);
  EXPECT_EQ(turns_until_served(1'000'000, 0), usual - 4) << "four quanta sooner at most";
  EXPECT_EQ(turns_until_served(0, 1'000'000), usual + 4) << "four later at most";
  EXPECT_EQ(turns_until_served(UINT64_MAX, 0), usual - 4);
  EXPECT_EQ(turns_until_served(0, UINT64_MAX), usual + 4);
}

}  // namespace
}  // namespace baton
