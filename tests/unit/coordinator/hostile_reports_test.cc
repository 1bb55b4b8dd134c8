// What a broken or foreign process may put on the wire: rates, costs, counts and times that are no numbers or absurd. They are kept out
// where they come in, so that no decision, sum, prediction or page of JSON ever holds one.
#include <cmath>
#include <limits>

#include "base/random.h"
#include "coordinator/calibration.h"
#include "coordinator/error_window.h"
#include "tests/unit/coordinator/coordinator_support.h"

namespace baton {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
constexpr double kOdd[] = {kNan, -kNan, kInf, -kInf, 0, -0.0, -1, 1e-310, -1e-310, 1e308, -1e308, 5e-324};

class HostileReports : public CoordinatorTest {
 protected:
  MemberInfo Beat(const MemberInfo& member, const WorkerLoad& load) {
    HeartbeatReport report;
    report.sequence = ++sequence_;
    report.snapshot = true;
    report.load = load;
    EXPECT_TRUE(coordinator_.Heartbeat(member.id, member.incarnation, report).status.ok());
    return member;
  }
  /// A decision in which every number is one, and the pages that show it.
  void ExpectSane() {
    const RouteDecision& decision = coordinator_.Route({}, Query(++request_, 1000));
    ASSERT_TRUE(decision.ok() || decision.status.code() == StatusCode::kExhausted || decision.status.code() == StatusCode::kInvalid || decision.held) << decision.status.ToString();
    for (const RouteCandidate& c : decision.candidates) {
      for (const double term : {c.cost.queue_s, c.cost.store_load_s, c.cost.prefill_s, c.cost.transfer_s, c.cost.interference_s, c.cost.decode_s, c.cost.work_s, c.cost.total_s}) {
        ASSERT_TRUE(std::isfinite(term) && term >= 0) << term;
      }
    }
    ASSERT_TRUE(std::isfinite(decision.predicted_ttft_s) && std::isfinite(decision.retry_after_s) && std::isfinite(decision.answer_s));
    for (const std::string& page : {coordinator_.ClusterJson(), coordinator_.ExplainRouteJson({}, Query(0, 500))}) {
      const auto json = nlohmann::json::parse(page, nullptr, false);
      ASSERT_TRUE(json.is_object()) << page;
      ASSERT_EQ(page.find(":null"), std::string::npos) << "which is how the writer shows what is no number: " << page;
    }
    if (decision.ok()) coordinator_.Finished({RequestId(request_), 0.1, 0.2, 1000});
  }
  uint64_t sequence_ = 1, request_ = 0;
};

TEST_F(HostileReports, AStepModelOfWhichAFactorIsNoNumberIsNotKnown) {
  const MemberInfo worker = Join("a", {"prefill", "decode"});
  const StepModel good{0.01, 1e-3, 1e-7, 1e-3};
  WorkerLoad load;
  load.step_model = good;
  Beat(worker, load);
  EXPECT_TRUE(coordinator_.membership().Find(worker.id)->load.step_model.known());
  for (const auto factor : {&StepModel::base_s, &StepModel::token_s, &StepModel::pair_s, &StepModel::row_s}) {
    for (const double odd : {kNan, kInf, -kInf, -1.0, -1e-310}) {
      load.step_model = good;
      load.step_model.*factor = odd;
      Beat(worker, load);
      EXPECT_FALSE(coordinator_.membership().Find(worker.id)->load.step_model.known()) << odd;
      ExpectSane();
    }
  }
}

TEST_F(HostileReports, AnyReportLeavesEveryDecisionSane) {
  Random random(3);
  std::vector<MemberInfo> workers = {Join("a", {"prefill"}), Join("b", {"decode"}), Join("c", {"prefill", "decode"}), Join("s", {"store"})};
  const auto odd = [&] { return kOdd[random.Below(std::size(kOdd))]; };
  const auto count = [&]() -> uint32_t { return std::array<uint32_t, 5>{0, 1, 7, 1u << 31, UINT32_MAX}[random.Below(5)]; };
  for (int round = 0; round < 400; ++round) {
    WorkerLoad load;
    load.running = count();
    load.waiting = count();
    load.free_blocks = count();
    load.total_blocks = count();
    load.queued_prefill_tokens = random.Below(2) != 0 ? UINT64_MAX - random.Below(3) : random.Below(1000);
    load.steps = random.Next64();
    load.prefill_tokens_per_s = odd();
    load.decode_step_s = odd();
    load.transfer_bytes_per_s = odd();
    load.store_bytes_per_s = odd();
    load.step_model = {odd(), odd(), odd(), odd()};
    // Rates at the ends of what a double holds are numbers: they may make a way absurdly dear, which is no crash.
    for (double* rate : {&load.prefill_tokens_per_s, &load.transfer_bytes_per_s, &load.store_bytes_per_s}) *rate = *rate > 0 && std::isfinite(*rate) ? 1e-3 + random.Uniform() : *rate;
    for (double* cost : {&load.decode_step_s, &load.step_model.base_s, &load.step_model.token_s, &load.step_model.pair_s, &load.step_model.row_s}) *cost = *cost > 1 && std::isfinite(*cost) ? 1e3 : *cost;
    const MemberInfo& worker = workers[random.Below(workers.size())];
    HeartbeatReport report{++sequence_, true, false, load, {}};
    for (int i = 0; i < 3; ++i) report.paths.push_back({WorkerId(count()), odd()});
    ASSERT_TRUE(coordinator_.Heartbeat(worker.id, worker.incarnation, report).status.ok());
    ASSERT_NO_FATAL_FAILURE(ExpectSane()) << round;
    Advance(0.01);
    coordinator_.Tick();
  }
}

TEST_F(HostileReports, WorkOfMoreThan32BitsIsStillWork) {
  const MemberInfo worker = Join("a", {"decode"});
  WorkerLoad load;
  load.running = UINT32_MAX;
  load.waiting = 1;  // their sum is 0 in 32 bits, which would be an idle worker that cannot hang
  load.steps = 5;
  std::vector<WorkerId> dead;
  for (int i = 0; i < 40 && dead.empty(); ++i) {
    Beat(worker, load);
    Advance(1);
    dead = coordinator_.Tick();
  }
  EXPECT_EQ(dead, std::vector<WorkerId>{worker.id}) << "it has work and makes no step";
  EXPECT_TRUE(coordinator_.membership().Find(worker.id)->stuck);
}

TEST_F(HostileReports, OutcomesThatAreNoTimesTeachNothing) {
  WorkerLoad load;
  load.prefill_tokens_per_s = 1000;
  Join("a", {"prefill", "decode"}, {}, load);
  for (int i = 0; i < 200; ++i) {
    coordinator_.Route({}, Query(++request_, 1000));
    coordinator_.Finished({RequestId(request_), kOdd[static_cast<size_t>(i) % std::size(kOdd)], kOdd[static_cast<size_t>(i + 3) % std::size(kOdd)], 1000, UINT32_MAX});
    Advance(0.001);
    coordinator_.Tick();
  }
  const double predicted_s = coordinator_.Route({}, Query(++request_, 1000)).predicted_ttft_s;
  EXPECT_TRUE(predicted_s > 0 && predicted_s < 3) << predicted_s << " of a prompt of one second, another before it";
  const std::string page = metrics_.Text();
  EXPECT_EQ(page.find(" nan"), std::string::npos);
  EXPECT_EQ(page.find(" NaN"), std::string::npos);
  EXPECT_EQ(page.find("_sum +Inf"), std::string::npos);
}

TEST(HostileSamples, ACalibrationOnlyLearnsFromTimes) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    Calibration calibration, untouched;
    for (int i = 0; i < 400; ++i) {
      const double good = 0.01 + random.Uniform();
      const bool hostile = random.Below(3) == 0;
      const double odd = kOdd[random.Below(std::size(kOdd))];
      if (hostile) {
        calibration.Add(random.Below(2) != 0 ? odd : good, odd);
        calibration.Add(odd, good);
      } else {
        calibration.Add(good, 2 * good + 0.05);
        untouched.Add(good, 2 * good + 0.05);
      }
      ASSERT_EQ(calibration.factor(), untouched.factor()) << "seed " << seed << " step " << i;
      ASSERT_EQ(calibration.offset_s(), untouched.offset_s());
    }
    EXPECT_NEAR(calibration.Apply(1), 2.05, 1e-6) << "and converges to what is true";
  }
}

TEST(HostileSamples, TheShortestAndTheLongestTimesStayFinite) {
  for (const double predicted_s : {1e-6, 1.0, 1e6}) {
    for (const double actual_s : {1e-6, 1.0, 1e6}) {
      Calibration calibration;
      for (int i = 0; i < 100; ++i) {
        calibration.Add(predicted_s, actual_s);
        calibration.Add(predicted_s * 0.5 + 1e-6, actual_s);
        ASSERT_TRUE(std::isfinite(calibration.Apply(1)) && calibration.Apply(1) > 0) << predicted_s << " " << actual_s;
        ASSERT_TRUE(calibration.factor() >= 0.2 && calibration.factor() <= 5 && calibration.offset_s() >= 0);
      }
    }
  }
}

TEST(HostileSamples, AnErrorWindowHoldsNumbers) {
  ErrorWindow window;
  for (const double predicted : kOdd) {
    for (const double actual : kOdd) window.Add(predicted, actual);
  }
  for (int i = 0; i < 50; ++i) window.Add(1.5, 1);
  for (const double p : {0.0, 0.5, 0.9, 1.0}) EXPECT_FALSE(std::isnan(window.Quantile(p))) << p;
  EXPECT_EQ(window.Quantile(0.5), 0.5);
}

}  // namespace
}  // namespace baton
