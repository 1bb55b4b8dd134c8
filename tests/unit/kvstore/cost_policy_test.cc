// The policy "cost": what it learns, what it then prefers, and that it forgets.
#include "kvstore/cost_policy.h"

#include "base/random.h"

namespace baton {
namespace {

TEST(ReuseModel, BinsDoubleTwiceAnOctave) {
  EXPECT_EQ(ReuseModel::Bin(0), 0);
  EXPECT_EQ(ReuseModel::Bin(-5), 0);
  EXPECT_EQ(ReuseModel::Bin(23), 0);
  EXPECT_EQ(ReuseModel::Bin(24), 1);
  EXPECT_EQ(ReuseModel::Bin(32), 2);
  EXPECT_EQ(ReuseModel::Bin(INT64_MAX), ReuseModel::kBins - 1);
  for (int bin = 1; bin < ReuseModel::kBins; ++bin) {
    const auto edge = static_cast<int64_t>(ReuseModel::Edge(bin));
    EXPECT_EQ(ReuseModel::Bin(edge), bin);
    EXPECT_EQ(ReuseModel::Bin(edge - 1), bin - 1);
  }
}

/// Each tick a wait begins in every class; those of class 0 return after 100 ticks with probability `p`, others never.
ReuseModel Taught(double p, int64_t ticks, uint32_t classes = 2) {
  ReuseModel model(classes);
  Random random(3);
  std::deque<int64_t> returns;
  for (int64_t now = 1; now <= ticks; ++now) {
    for (uint32_t cls = 0; cls < classes; ++cls) model.Began(cls);
    if (random.Below(1000) < static_cast<uint64_t>(1000 * p)) returns.push_back(now + 100);
    while (!returns.empty() && returns.front() == now) {
      model.Returned(0, 100);
      returns.pop_front();
    }
    if (now % 256 == 0) model.Learn(now, 0);
  }
  model.Learn(ticks, 0);
  return model;
}

TEST(ReuseModel, LearnsWhoReturnsAndWhen) {
  for (const double p : {0.2, 0.5, 0.9}) {
    const ReuseModel model = Taught(p, 20000);
    // From age 0: p hits for 100 to 128 ticks of every wait.
    EXPECT_NEAR(model.Value(0, 0), p / 112, 0.25 * p / 112) << p;
    EXPECT_GT(model.Value(0, 100), 3 * model.Value(0, 0)) << "due";
    EXPECT_EQ(model.Value(0, 1000), 0) << "overdue: nobody ever returned so late";
    EXPECT_EQ(model.Value(1, 0), 0);
  }
}

TEST(ReuseModel, IsNotFooledByAShortPast) {
  // After 150 ticks only waits of the first 50 can have returned; a count of all would halve the probability and more.
  const ReuseModel early = Taught(0.9, 400), late = Taught(0.9, 40000);
  EXPECT_NEAR(early.Value(0, 0), late.Value(0, 0), 0.35 * late.Value(0, 0));
}

TEST(ReuseModel, DoubtMakesAClassLikeTheOthers) {
  ReuseModel model(3);
  for (int64_t now = 1; now <= 10000; ++now) {
    model.Began(0);
    if (now > 100) model.Returned(0, 100);
    if (now == 5000) model.Began(1);  // one wait only: nothing is known of its class
    if (now % 250 == 0) model.Learn(now, 50);
  }
  EXPECT_GT(model.Value(1, 0), 0.5 * model.Value(0, 0));
  EXPECT_GT(model.Value(2, 0), 0.5 * model.Value(0, 0));
}

TEST(ReuseModel, FadesSoThatTrafficMayChange) {
  ReuseModel model = Taught(0.9, 20000);
  const double before = model.Value(0, 0);
  for (int64_t now = 20001; now <= 60000; ++now) {  // nobody returns any more
    model.Began(0);
    if (now % 2000 == 0) model.Fade();
    if (now % 250 == 0) model.Learn(now, 0);
  }
  EXPECT_LT(model.Value(0, 0), before / 50);
}

TEST(ReuseModel, AMovedWaitCountsForItsNewClassOnly) {
  ReuseModel model(2);
  for (int64_t now = 1; now <= 5000; ++now) {
    model.Began(0);
    model.Moved(0, 1);
    if (now > 50) model.Returned(1, 50);
    if (now % 250 == 0) model.Learn(now, 0);
  }
  EXPECT_EQ(model.Value(0, 0), 0);
  EXPECT_NEAR(model.Value(1, 0), 1.0 / 56, 0.3 / 56);
}

/// Candidates in the order in which they would go.
std::vector<uint32_t> Order(CachePolicy& policy) {
  std::vector<uint32_t> order;
  while (const auto victim = policy.Victim()) {
    order.push_back(*victim);
    policy.SetCandidate(*victim, false);
  }
  return order;
}

void Add(CachePolicy& policy, uint32_t id, uint32_t depth, uint64_t bytes = 1, uint32_t parent = kNoBlock) {
  policy.Added(id, {.key_hash = 1000 + id, .parent = parent, .depth = depth, .bytes = bytes});
}

TEST(CostPolicy, IsLruBeforeItHasLearned) {
  CostPolicy policy;
  for (uint32_t id = 0; id < 6; ++id) Add(policy, id, id % 3);
  policy.Used(1);
  policy.Used(0);
  for (uint32_t id = 0; id < 6; ++id) policy.SetCandidate(id, true);
  EXPECT_EQ(Order(policy), (std::vector<uint32_t>{2, 3, 4, 5, 1, 0}));
}

/// Ids 0 to 39 come back every 60 ticks, 100 and up come once and are given up at once.
void Teach(CostPolicy& policy) {
  for (uint32_t id = 0; id < 40; ++id) Add(policy, id, 1 + id % 4);
  for (uint32_t turn = 0; turn < 300; ++turn) {
    for (uint32_t id = 0; id < 40; ++id) policy.Used(id);
    for (uint32_t n = 0; n < 20; ++n) {
      const uint32_t once = 100 + n;
      policy.Added(once, {.key_hash = 1'000'000 + turn * 100 + n, .depth = 1 + n % 4, .bytes = 1});
      policy.SetCandidate(once, true);
      policy.Removed(once, true);
    }
  }
  for (uint32_t id = 0; id < 40; ++id) policy.Used(id);
}

TEST(CostPolicy, WhatComesBackOutlivesNewerOneTimers) {
  CostPolicy policy;
  Teach(policy);
  for (uint32_t n = 0; n < 20; ++n) Add(policy, 100 + n, 1 + n % 4);  // used later than any of the others
  for (uint32_t id = 0; id < 40; ++id) policy.SetCandidate(id, true);
  for (uint32_t n = 0; n < 20; ++n) policy.SetCandidate(100 + n, true);
  const std::vector<uint32_t> order = Order(policy);
  ASSERT_EQ(order.size(), 60u);
  for (size_t i = 0; i < 20; ++i) EXPECT_GE(order[i], 100u) << i;
  for (size_t i = 20; i < 60; ++i) EXPECT_EQ(order[i], i - 20) << "among equals the oldest first";
}

TEST(CostPolicy, AGhostComesBackWithItsPast) {
  CostPolicy policy;
  Teach(policy);
  policy.SetCandidate(7, true);
  policy.Removed(7, true);
  Add(policy, 7, 1 + 7 % 4);  // known from before
  Add(policy, 200, 1 + 7 % 4);
  policy.SetCandidate(7, true);
  policy.SetCandidate(200, true);
  EXPECT_EQ(Order(policy), (std::vector<uint32_t>{200, 7}));
  policy.Removed(7, false);  // removed by its owner: no ghost
  Add(policy, 7, 1 + 7 % 4);
  Add(policy, 201, 1 + 7 % 4);
  policy.SetCandidate(7, true);
  policy.SetCandidate(201, true);
  EXPECT_EQ(Order(policy), (std::vector<uint32_t>{7, 201}));
}

TEST(CostPolicy, OfTwoOfOneWorthTheLargerGoes) {
  CostPolicy policy;
  Teach(policy);
  policy.Removed(0, false);
  policy.Removed(30, false);
  Add(policy, 0, 1, 1000);
  Add(policy, 30, 9, 10);  // older within its class, far less to gain by giving it up
  policy.SetCandidate(30, true);
  policy.SetCandidate(0, true);
  EXPECT_EQ(policy.Victim(), 0u);
}

TEST(CostPolicy, ALooseEndChangesClassWhenItIsFollowed) {
  CostPolicy policy;
  Add(policy, 1, 1);
  policy.SetCandidate(1, true);
  Add(policy, 2, 2, 1, 1);  // while its parent is a candidate
  policy.SetCandidate(2, true);
  EXPECT_EQ(Order(policy), (std::vector<uint32_t>{1, 2}));
  policy.SetCandidate(1, true);
  Add(policy, 3, 2, 1, 1);  // followed before
  EXPECT_EQ(policy.Victim(), 1u);
  policy.Removed(1, true);
  Add(policy, 4, 2, 1, 1);  // the parent is not here: nothing to change
  EXPECT_FALSE(policy.Victim().has_value());
}

TEST(CostPolicy, SurvivesAnyOrderOfEvents) {
  CostPolicy policy;
  Random random(9);
  std::map<uint32_t, bool> here;  // → candidate
  for (int step = 0; step < 200000; ++step) {
    const auto id = static_cast<uint32_t>(random.Below(300));
    const auto it = here.find(id);
    if (it == here.end()) {
      policy.Added(id, {.key_hash = id * 7, .parent = static_cast<uint32_t>(random.Below(400)), .depth = static_cast<uint32_t>(random.Below(50)),
                        .bytes = random.Below(3) * 4096});
      here[id] = false;
    } else if (random.Below(3) == 0) {
      policy.Removed(id, random.Below(2) == 0);
      here.erase(it);
    } else if (random.Below(2) == 0) {
      policy.Used(id);
    } else {
      it->second = !it->second;
      policy.SetCandidate(id, it->second);
    }
    if (step % 100 != 0) continue;
    const auto victim = policy.Victim();
    const bool any = std::any_of(here.begin(), here.end(), [](const auto& entry) { return entry.second; });
    ASSERT_EQ(victim.has_value(), any);
    if (victim) {
      ASSERT_TRUE(here.at(*victim));
    }
  }
}

}  // namespace
}  // namespace baton
