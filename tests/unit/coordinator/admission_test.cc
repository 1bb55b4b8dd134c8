#include "coordinator/admission.h"

#include <cmath>
#include <queue>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

Instant At(double seconds) { return Instant(FromSeconds(1000 + seconds)); }

AdmissionQuery Ask(uint64_t request, const std::string& tenant = "", double wait_s = 0, uint64_t tokens = 100) {
  AdmissionQuery query;
  query.request = RequestId(request);
  query.tenant = tenant;
  query.tokens = tokens;
  query.wait_s = query.room_s = wait_s;
  query.service_s = 0.5;
  query.answer_s = 2;
  return query;
}

TEST(Admission, AdmitsAndCounts) {
  Admission admission({});
  EXPECT_TRUE(admission.Admit(Ask(1), At(0)).status.ok());
  EXPECT_TRUE(admission.Admit(Ask(1), At(0)).status.ok()) << "the same request again";
  EXPECT_TRUE(admission.Admit(Ask(2), At(0)).status.ok());
  EXPECT_EQ(admission.in_flight(), 2u);
  EXPECT_EQ(admission.tokens_in_flight(), 200u);
  admission.Finished(RequestId(1));
  admission.Finished(RequestId(1));
  admission.Finished(RequestId(99));
  EXPECT_EQ(admission.in_flight(), 1u);
  EXPECT_EQ(admission.tokens_in_flight(), 100u);
}

TEST(Admission, TheLimitOfAllNamesItAndWhenAPlaceIsFree) {
  Admission admission({.max_in_flight = 2});
  EXPECT_TRUE(admission.Admit(Ask(1), At(0)).status.ok());  // ends at 2.5
  EXPECT_TRUE(admission.Admit(Ask(2, "", 1), At(0)).status.ok());
  const AdmissionAnswer refused = admission.Admit(Ask(3), At(1));
  EXPECT_EQ(refused.status.code(), StatusCode::kExhausted);
  EXPECT_THAT(refused.status.message(), HasSubstr("2 requests are in flight"));
  EXPECT_NEAR(refused.retry_after_s, 1.5, 1e-6);
  EXPECT_EQ(admission.refused(), 1u);
  admission.Finished(RequestId(1));
  EXPECT_TRUE(admission.Admit(Ask(3), At(2.5)).status.ok());
}

TEST(Admission, TheLimitOfATenantIsItsOwn) {
  Admission admission({.tenant_in_flight = 1});
  EXPECT_TRUE(admission.Admit(Ask(1, "a"), At(0)).status.ok());
  const AdmissionAnswer refused = admission.Admit(Ask(2, "a"), At(0));
  EXPECT_THAT(refused.status.message(), HasSubstr("tenant 'a' has 1 requests in flight"));
  EXPECT_TRUE(admission.Admit(Ask(3, "b"), At(0)).status.ok());
}

TEST(Admission, ALongWaitIsRefusedUntilItHasShrunk) {
  Admission admission({.max_wait_s = 10});
  EXPECT_TRUE(admission.Admit(Ask(1, "", 10), At(0)).status.ok());
  const AdmissionAnswer refused = admission.Admit(Ask(2, "", 14), At(0));
  EXPECT_EQ(refused.status.code(), StatusCode::kExhausted);
  EXPECT_NEAR(refused.retry_after_s, 4, 1e-6);
}

TEST(Admission, RefusedOnesAreToldDifferentTimes) {
  Admission admission({.max_wait_s = 10, .max_retry_s = 100});
  std::vector<double> told;
  for (uint64_t i = 0; i < 5; ++i) told.push_back(admission.Admit(Ask(i, "", 12), At(0)).retry_after_s);
  for (size_t i = 0; i < told.size(); ++i) EXPECT_NEAR(told[i], 2 + 0.5 * static_cast<double>(i), 1e-6);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_LE(admission.Admit(Ask(i, "", 12), At(0)).retry_after_s, 100.0001);
}

AdmissionConfig Holding() {
  AdmissionConfig config;
  config.max_wait_s = 10;
  config.hold_above_s = 0.1;
  config.fair.quantum_tokens = 100;
  return config;
}

TEST(Admission, HoldsWhatTheWorkersHaveNoRoomFor) {
  Admission admission(Holding());
  EXPECT_FALSE(admission.Admit(Ask(1, "", 0.1), At(0)).held) << "room";
  const AdmissionAnswer held = admission.Admit(Ask(2, "", 0.2), At(0));
  EXPECT_TRUE(held.held && held.status.ok());
  EXPECT_EQ(admission.held(), 1u);
  EXPECT_EQ(admission.in_flight(), 1u) << "a held one is not in flight";
  EXPECT_EQ(admission.Next(), RequestId(2));
  EXPECT_TRUE(admission.Admit(Ask(3, "", 0), At(0.5)).held) << "there is room, but it is another's turn";
  EXPECT_TRUE(admission.Admit(Ask(2, "", 0.2), At(0.5)).held) << "its turn, but no room";
  const AdmissionAnswer let_go = admission.Admit(Ask(2, "", 0.05), At(1));
  EXPECT_FALSE(let_go.held);
  EXPECT_NEAR(let_go.held_s, 1, 1e-9);
  EXPECT_EQ(admission.Next(), RequestId(3));
}

TEST(Admission, ACrowdedDecodeWorkerIsNoRoom) {
  Admission admission(Holding());
  AdmissionQuery query = Ask(1);
  query.crowded = true;
  EXPECT_TRUE(admission.Admit(query, At(0)).held);
  query.crowded = false;
  EXPECT_FALSE(admission.Admit(query, At(0.1)).held);
}

TEST(Admission, WhoIsWithdrawnHoldsNobodyUp) {
  Admission admission(Holding());
  EXPECT_TRUE(admission.Admit(Ask(1, "", 1), At(0)).held);
  EXPECT_TRUE(admission.Admit(Ask(2, "", 1), At(0)).held);
  admission.Withdraw(RequestId(1));
  admission.Withdraw(RequestId(1));
  EXPECT_EQ(admission.Next(), RequestId(2));
  admission.Finished(RequestId(2));
  EXPECT_EQ(admission.Next(), RequestId());
  EXPECT_FALSE(admission.Admit(Ask(3), At(1)).held);
}

TEST(Admission, AMovedStreamDoesNotWait) {
  Admission admission(Holding());
  EXPECT_TRUE(admission.Admit(Ask(1, "", 1), At(0)).held);
  admission.Adopt(Ask(1, "", 1), At(0));
  EXPECT_EQ(admission.held(), 0u);
  EXPECT_EQ(admission.in_flight(), 1u);
}

TEST(Admission, HeldRequestsAreBoundedInNumberAndTime) {
  AdmissionConfig config = Holding();
  config.max_held = 2;
  Admission admission(config);
  EXPECT_TRUE(admission.Admit(Ask(1, "", 1), At(0)).held);
  EXPECT_TRUE(admission.Admit(Ask(2, "", 1), At(0)).held);
  const AdmissionAnswer third = admission.Admit(Ask(3, "", 1), At(0));
  EXPECT_EQ(third.status.code(), StatusCode::kExhausted);
  EXPECT_THAT(third.status.message(), HasSubstr("2 requests wait"));
  EXPECT_GT(third.retry_after_s, 0);
  const AdmissionAnswer too_long = admission.Admit(Ask(1, "", 1), At(21));
  EXPECT_EQ(too_long.status.code(), StatusCode::kExhausted);
  EXPECT_EQ(admission.held(), 1u);
  admission.Expire(At(700), 600);
  EXPECT_EQ(admission.held(), 0u) << "whose gateway died";
}

TEST(Admission, WhoComesWhenItWasToldIsLetInAmongNewcomers) {
  AdmissionConfig config = Holding();
  config.max_wait_s = 1;
  Admission admission(config);
  AdmissionQuery first = Ask(1, "", 3);
  first.fingerprint = 77;
  const AdmissionAnswer told = admission.Admit(first, At(0));
  ASSERT_EQ(told.status.code(), StatusCode::kExhausted);
  const double told_s = told.retry_after_s;
  first.request = RequestId(2);
  EXPECT_EQ(admission.Admit(first, At(0.5 * told_s)).status.code(), StatusCode::kExhausted) << "too early";
  EXPECT_EQ(admission.Admit(Ask(3, "", 3), At(told_s)).status.code(), StatusCode::kExhausted) << "a newcomer was told nothing";
  first.request = RequestId(4);
  EXPECT_TRUE(admission.Admit(first, At(told_s)).held) << "its place was promised";
  first.request = RequestId(5);
  EXPECT_EQ(admission.Admit(first, At(told_s)).status.code(), StatusCode::kExhausted) << "once";
  AdmissionQuery late = Ask(6, "", 3);
  late.fingerprint = 78;
  const double late_s = admission.Admit(late, At(100)).retry_after_s;
  late.request = RequestId(7);
  EXPECT_EQ(admission.Admit(late, At(100 + 2 * late_s + 5)).status.code(), StatusCode::kExhausted) << "a promise ends";
}

TEST(Admission, APriorityGoesFirst) {
  Admission admission(Holding());
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_TRUE(admission.Admit(Ask(id, "", 1), At(0)).held);
  AdmissionQuery urgent = Ask(9, "", 1);
  urgent.priority = 1;
  EXPECT_TRUE(admission.Admit(urgent, At(0)).held);
  EXPECT_EQ(admission.Next(), RequestId(9));
}

TEST(Admission, RequestsWhoseEndIsNeverToldAreForgotten) {
  Admission admission({});
  EXPECT_TRUE(admission.Admit(Ask(1), At(0)).status.ok());
  EXPECT_TRUE(admission.Admit(Ask(2), At(50)).status.ok());
  admission.Expire(At(61), 60);
  EXPECT_EQ(admission.in_flight(), 1u);
}

TEST(Admission, AMovedStreamCountsWhateverTheLimit) {
  Admission admission({.max_in_flight = 1});
  EXPECT_TRUE(admission.Admit(Ask(1), At(0)).status.ok());
  admission.Adopt(Ask(2), At(0));
  EXPECT_EQ(admission.in_flight(), 2u);
}

/// One server, first come first served. Clients that are refused come back when told: the header is right when they are let in
/// then, and would not have been let in much earlier.
TEST(Admission, RetryAfterIsRightInASimulatedQueue) {
  Random random(3);
  Admission admission({.max_wait_s = 5, .max_retry_s = 1000});
  struct Try {
    double at, first_refused, told;
    uint64_t id;
    bool operator<(const Try& other) const { return at > other.at; }
  };
  std::priority_queue<Try> tries;
  for (uint64_t id = 0; id < 400; ++id) tries.push({random.Uniform() * 20, -1, 0, id});  // 400 × 0.5 s of work in 20 s
  double busy_until = 0;
  int right = 0, told = 0;
  while (!tries.empty()) {
    Try now = tries.top();
    tries.pop();
    const AdmissionAnswer answer = admission.Admit(Ask(now.id, "", std::max(0.0, busy_until - now.at)), At(now.at));
    if (answer.status.ok()) {
      if (now.first_refused >= 0) {
        ++told;
        const double waited = now.at - now.first_refused;
        if (waited <= now.told * 1.3 && waited >= now.told * 0.7) ++right;
      }
      busy_until = std::max(busy_until, now.at) + 0.5;
      admission.Finished(RequestId(now.id));
      continue;
    }
    if (now.first_refused < 0) now.first_refused = now.at, now.told = answer.retry_after_s;
    now.at += answer.retry_after_s + 1e-6;
    tries.push(now);
  }
  EXPECT_GT(told, 300);
  EXPECT_GE(right, told * 95 / 100) << right << " of " << told;
  EXPECT_NEAR(busy_until, 200, 10) << "and the server was never idle for long";
}

// ---- a simulated cluster: workers that compute prompts in the order they were let go, and clients that come ----

struct SimClient {
  std::string tenant;
  double rate = 1;          // requests a second, at random times
  uint64_t tokens = 400;    // of each, on average
  bool comes_back = false;  // when it was told to; else it is gone
  double until_s = 1e9;     // then it sends nothing new
};
struct SimResult {
  std::vector<double> ttft_s;
  double tokens = 0;  // served within the limit
  int refused = 0, told = 0, told_right = 0;
};

double NextGap(Random& random, double rate) { return -std::log(1 - random.Uniform()) / rate; }

/// One worker of `tokens_per_s`; every 10 ms whoever may go goes, as the coordinator does it.
class SimCluster {
 public:
  SimCluster(AdmissionConfig config, double tokens_per_s) : admission_(std::move(config)), tokens_per_s_(tokens_per_s) {}

  std::map<std::string, SimResult> Run(const std::vector<SimClient>& clients, double seconds, double slo_s, uint64_t seed) {
    Random random(seed);
    std::vector<double> next(clients.size());
    for (size_t c = 0; c < clients.size(); ++c) next[c] = NextGap(random, clients[c].rate);
    for (now_ = 0; now_ < seconds; now_ += 0.01) {
      for (size_t c = 0; c < clients.size(); ++c) {
        for (; next[c] <= std::min(now_, clients[c].until_s); next[c] += NextGap(random, clients[c].rate)) {
          const uint64_t tokens = clients[c].tokens / 2 + random.Below(clients[c].tokens + 1);
          const uint64_t id = ++last_id_;
          Come({clients[c], tokens, id, now_, -1, 0}, id);
        }
      }
      while (!back_.empty() && back_.begin()->first <= now_) {
        const Coming coming = back_.begin()->second;
        back_.erase(back_.begin());
        Come(coming, ++last_id_);
      }
      LetGo(slo_s);
    }
    return results_;
  }

  double busy_until_s() const { return busy_until_; }

 private:
  struct Coming {
    SimClient client;
    uint64_t tokens, fingerprint;
    double first_s, told_at_s, told_s;
  };

  AdmissionQuery QueryOf(uint64_t id, const Coming& coming) const {
    AdmissionQuery query;
    query.request = RequestId(id);
    query.tenant = coming.client.tenant;
    query.tokens = coming.tokens;
    query.fingerprint = coming.fingerprint;
    query.wait_s = query.room_s = std::max(0.0, busy_until_ - now_);
    query.service_s = static_cast<double>(coming.tokens) / tokens_per_s_;
    return query;
  }
  void Come(Coming coming, uint64_t id) {
    const AdmissionAnswer answer = admission_.Admit(QueryOf(id, coming), At(now_));
    SimResult& result = results_[coming.client.tenant];
    if (answer.status.ok() && coming.told_at_s >= 0) {  // right: let in when it was told to come, and not only later
      const double waited = now_ - coming.told_at_s;
      ++result.told;
      if (std::abs(waited - coming.told_s) <= 0.3 * coming.told_s + 0.02) ++result.told_right;
    }
    if (answer.held) {
      held_[id] = coming;
    } else if (answer.status.ok()) {
      Serve(id, coming);
    } else {
      ++result.refused;
      EXPECT_EQ(answer.status.code(), StatusCode::kExhausted);
      EXPECT_GT(answer.retry_after_s, 0);
      if (!coming.client.comes_back) return;
      if (coming.told_at_s < 0) coming.told_at_s = now_, coming.told_s = answer.retry_after_s;
      back_.emplace(now_ + answer.retry_after_s, coming);
    }
  }
  void LetGo(double slo_s) {
    slo_s_ = slo_s;
    while (admission_.Next() != RequestId()) {
      const uint64_t id = admission_.Next().value;
      const AdmissionAnswer answer = admission_.Admit(QueryOf(id, held_.at(id)), At(now_));
      if (answer.held) return;
      const Coming coming = held_.at(id);
      held_.erase(id);
      if (answer.status.ok()) Serve(id, coming);
    }
  }
  void Serve(uint64_t id, const Coming& coming) {
    SimResult& result = results_[coming.client.tenant];
    busy_until_ = std::max(busy_until_, now_) + static_cast<double>(coming.tokens) / tokens_per_s_;
    const double ttft_s = busy_until_ - coming.first_s;
    result.ttft_s.push_back(ttft_s);
    if (ttft_s <= slo_s_ || coming.told_at_s >= 0) result.tokens += static_cast<double>(coming.tokens);
    admission_.Finished(RequestId(id), coming.tokens);
  }

  Admission admission_;
  const double tokens_per_s_;
  double now_ = 0, busy_until_ = 0, slo_s_ = 0;
  uint64_t last_id_ = 0;
  std::map<uint64_t, Coming> held_;
  std::multimap<double, Coming> back_;
  std::map<std::string, SimResult> results_;
};

double Percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<size_t>(p * static_cast<double>(values.size() - 1)));
}

AdmissionConfig SimConfig() {
  AdmissionConfig config;
  config.max_wait_s = 2;
  config.hold_above_s = 0.1;
  config.max_retry_s = 1000;
  return config;
}

/// 4,000 tokens a second; the light tenant asks for a tenth of them, the heavy one for ten times what the light one does and more.
TEST(AdmissionSimulation, AHeavyTenantHardlySlowsALightOne) {
  const SimClient light{"light", 1, 400}, heavy{"heavy", 30, 400};
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const auto alone = SimCluster(SimConfig(), 4000).Run({light}, 300, 2.5, seed)["light"];
    const auto both = SimCluster(SimConfig(), 4000).Run({light, heavy}, 300, 2.5, seed);
    const SimResult& beside = both.at("light");
    EXPECT_EQ(beside.refused, 0) << seed;
    // What is being computed when it comes ends first: one request of the other's, and what hold_above_s lets wait.
    const double residual_s = 600 / 4000.0 + 0.1;
    EXPECT_LE(Percentile(beside.ttft_s, 0.99), 1.5 * Percentile(alone.ttft_s, 0.99) + residual_s) << seed;
    EXPECT_GT(both.at("heavy").refused, 1000) << "three times what is there was asked for";
  }
}

TEST(AdmissionSimulation, TenantsThatWantMoreThanTheirShareGetEqualShares) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const std::vector<SimClient> clients = {{"a", 40, 200}, {"b", 10, 800}, {"c", 8, 1600}, {"d", 100, 100}};
    const auto results = SimCluster(SimConfig(), 8000).Run(clients, 300, 1e9, seed);
    double sum = 0, squares = 0;
    for (const auto& [tenant, result] : results) sum += result.tokens, squares += result.tokens * result.tokens;
    EXPECT_GE(sum * sum / (4 * squares), 0.95) << "Jain's index, seed " << seed;
    EXPECT_GE(sum, 0.95 * 8000 * 300) << "and nothing is left idle";
  }
}

/// At three times what can be served, as much is served within the limit as at the best load, and the rest is refused.
TEST(AdmissionSimulation, GoodputHoldsAtThreeTimesTheCapacity) {
  constexpr double kCapacity = 4000, kSeconds = 300, kSlo = 2.5;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    double peak = 0;
    for (const double load : {0.7, 0.8, 0.9, 0.95, 1.0}) {
      peak = std::max(peak, SimCluster(SimConfig(), kCapacity).Run({{"t", load * 10, 400}}, kSeconds, kSlo, seed)["t"].tokens);
    }
    const auto at_three = SimCluster(SimConfig(), kCapacity).Run({{"t", 30, 400}}, kSeconds, kSlo, seed)["t"];
    EXPECT_GE(at_three.tokens, 0.95 * peak) << seed;
    EXPECT_GE(peak, 0.85 * kCapacity * kSeconds);
  }
}

/// Clients that are refused come back when they were told: then they are let in, or wait no longer than anybody.
TEST(AdmissionSimulation, RetryAfterIsRight) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    // Twenty seconds at three times the capacity, and time enough to serve all of it.
    SimCluster cluster(SimConfig(), 4000);
    auto results = cluster.Run({{"t", 30, 400, true, 20}}, 120, 2.5, seed);
    const SimResult& result = results["t"];
    ASSERT_GT(result.told, 300) << seed;
    EXPECT_LT(cluster.busy_until_s(), 1.1 * static_cast<double>(result.ttft_s.size()) * 400 / 4000) << "the server was never idle for long";
    EXPECT_GE(result.told_right, result.told * 9 / 10) << result.told_right << " of " << result.told << ", seed " << seed;
  }
}

}  // namespace
}  // namespace baton
