#include "coordinator/admission.h"

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
  query.wait_s = wait_s;
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

TEST(Admission, AShareOnlyMattersInABusyClusterWithOthers) {
  Admission admission({.fair_wait_s = 1});
  for (uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(admission.Admit(Ask(i, "heavy", 5), At(0)).status.ok()) << "alone it may use all";
  EXPECT_TRUE(admission.Admit(Ask(20, "light", 5), At(0)).status.ok());
  EXPECT_TRUE(admission.Admit(Ask(21, "heavy", 0.5), At(0)).status.ok()) << "not busy";
  const AdmissionAnswer refused = admission.Admit(Ask(22, "heavy", 5), At(0));
  EXPECT_EQ(refused.status.code(), StatusCode::kExhausted);
  EXPECT_THAT(refused.status.message(), HasSubstr("tenant 'heavy' holds its share"));
  EXPECT_TRUE(admission.Admit(Ask(23, "light", 5), At(0)).status.ok());
  AdmissionQuery urgent = Ask(24, "heavy", 5);
  urgent.priority = 1;
  EXPECT_TRUE(admission.Admit(urgent, At(0)).status.ok());
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

}  // namespace
}  // namespace baton
