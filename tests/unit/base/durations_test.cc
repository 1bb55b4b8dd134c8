// Seconds that come from people, files and peers become durations that can be added to any instant; and what a mailbox, ids and
// sizes do at their edges.
#include <cmath>
#include <limits>
#include <set>
#include <thread>

#include "base/bytes.h"
#include "base/cache_record.h"
#include "base/clock.h"
#include "base/mailbox.h"
#include "base/random.h"
#include "base/status.h"
#include "base/step_model.h"

namespace baton {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kCenturyS = 100 * 365.25 * 86400;

TEST(FromSeconds, ExactWhereADoubleIs) {
  const struct {
    double seconds;
    int64_t nanos;
  } cases[] = {{0, 0}, {-0.0, 0}, {1, 1'000'000'000}, {0.5, 500'000'000}, {-2.25, -2'250'000'000}, {1e-9, 1}, {1e-10, 0}, {86400, 86'400'000'000'000}, {3e9, 3'000'000'000'000'000'000}};
  for (const auto& c : cases) EXPECT_EQ(FromSeconds(c.seconds).count(), c.nanos) << c.seconds;
}

/// A client may ask for a deadline in 1e300 seconds, or for none of this world: it is far away, and not in the past.
TEST(FromSeconds, WhatDoesNotFitIsACenturyAway) {
  const Duration century = FromSeconds(kCenturyS);
  for (const double s : {kCenturyS * 1.001, 1e10, 9.3e18, 1e300, kInfinity}) {
    EXPECT_EQ(FromSeconds(s), century) << s;
    EXPECT_EQ(FromSeconds(-s), -century) << -s;
  }
  EXPECT_EQ(FromSeconds(kNan), Duration::zero()) << "no number is no time";
  EXPECT_EQ(FromSeconds(-kNan), Duration::zero());
}

TEST(FromSeconds, SumsWithNowNeverWrap) {
  const SystemClock clock;
  const FakeClock fake;
  for (const double s : {1e300, kInfinity, 4e9}) {
    EXPECT_GT(clock.Now() + FromSeconds(s), clock.Now()) << s;
    EXPECT_LT(clock.Now() - FromSeconds(s), clock.Now()) << s;
    EXPECT_GT(fake.Now() + FromSeconds(s), fake.Now()) << s;
  }
}

TEST(FromSeconds, ThereAndBackIsMonotonous) {
  Random random(4);
  for (int i = 0; i < 2000; ++i) {
    const double a = (random.Uniform() - 0.5) * std::pow(10, static_cast<double>(random.Below(18))), b = a + random.Uniform();
    EXPECT_LE(FromSeconds(a), FromSeconds(b)) << a << ' ' << b;
    if (std::abs(a) < 1e6) {
      EXPECT_NEAR(ToSeconds(FromSeconds(a)), a, 1e-9 + std::abs(a) * 1e-12);
    }
  }
}

TEST(CacheRecords, ExpireAtTheirTimeAndPinnedOnesNever) {
  CacheRecord record;
  record.expires_unix_s = 100;
  EXPECT_FALSE(record.Expired(99.999));
  EXPECT_TRUE(record.Expired(100)) << "at it, not after it";
  EXPECT_TRUE(record.Expired(1e18));
  record.expires_unix_s = 0;
  EXPECT_TRUE(record.pinned());
  EXPECT_FALSE(record.Expired(1e18));
}

/// Ids become names of files: none but those that this program makes may pass.
TEST(CacheRecords, OnlyIdsOfThisProgramsMaking) {
  const std::string hex = "0123456789abcdef0123456789abcdef";
  EXPECT_TRUE(IsCacheId("cache_" + hex));
  for (const std::string& id : {std::string(), std::string("cache_"), hex, "cache_" + hex + "0", "cache_" + hex.substr(1), "cache-" + hex, "CACHE_" + hex,
                                "cache_" + hex.substr(0, 31) + "A", "cache_" + hex.substr(0, 31) + "g", "cache_" + hex.substr(0, 31) + "/", "cache_" + hex.substr(0, 29) + "/..",
                                "cache_" + hex.substr(0, 31) + std::string(1, '\0'), "../" + hex, " cache_" + hex, "cache_" + hex + "\n"}) {
    EXPECT_FALSE(IsCacheId(id)) << id;
  }
}

TEST(Tenants, ASaltChoosesAChainAndNeverAnOwner) {
  EXPECT_EQ(SaltedTenant("alice", ""), "alice");
  const std::string salted = SaltedTenant("alice", "summer");
  EXPECT_EQ(salted.size(), std::string("alice/").size() + 16);
  EXPECT_EQ(BaseTenant(salted), "alice");
  EXPECT_NE(salted, SaltedTenant("alice", "winter"));
  EXPECT_EQ(BaseTenant(SaltedTenant("alice", "../bob")), "alice") << "the client's text is hashed before it is used";
  EXPECT_EQ(BaseTenant(SaltedTenant("", "x")), "") << "of no named tenant";
  EXPECT_EQ(BaseTenant("alice"), "alice");
}

TEST(Sizes, RoundingAtTheEdges) {
  const struct {
    uint64_t value, multiple, rounded, parts;
  } cases[] = {{0, 1, 0, 0}, {1, 1, 1, 1}, {0, 4096, 0, 0}, {1, 4096, 4096, 1}, {4095, 4096, 4096, 1}, {4096, 4096, 4096, 1}, {4097, 4096, 8192, 2}, {10, 3, 12, 4}};
  for (const auto& c : cases) {
    EXPECT_EQ(RoundUp(c.value, c.multiple), c.rounded) << c.value;
    EXPECT_EQ(CeilDiv(c.value, c.multiple), c.parts) << c.value;
  }
  EXPECT_EQ(CeilDiv(UINT64_MAX, 1), UINT64_MAX);
  EXPECT_EQ(CeilDiv(UINT64_MAX, 1_MiB), uint64_t{1} << 44) << "the sum with the divisor would wrap to nothing";
  EXPECT_EQ(CeilDiv(UINT64_MAX, UINT64_MAX), 1u);
}

TEST(Sizes, CheckedArithmeticAtTheEdgesOfEachType) {
  int64_t i = 0;
  EXPECT_TRUE(CheckedAdd<int64_t>(INT64_MAX - 1, 1, &i));
  EXPECT_EQ(i, INT64_MAX);
  EXPECT_FALSE(CheckedAdd<int64_t>(INT64_MAX, 1, &i));
  EXPECT_FALSE(CheckedAdd<int64_t>(INT64_MIN, -1, &i));
  EXPECT_FALSE(CheckedMul<int64_t>(INT64_MIN, -1, &i)) << "the only product of a sign that does not fit";
  uint32_t u = 0;
  EXPECT_TRUE(CheckedMul<uint32_t>(65535, 65537, &u));
  EXPECT_EQ(u, UINT32_MAX);
  EXPECT_FALSE(CheckedMul<uint32_t>(65536, 65536, &u));
  EXPECT_TRUE(CheckedMul<uint32_t>(0, UINT32_MAX, &u));
}

TEST(Sizes, HexDigitsOfEitherCaseAndNothingElse) {
  int good = 0;
  for (int c = -128; c < 128; ++c) {
    const int value = HexDigit(static_cast<char>(c));
    if (value < 0) continue;
    ++good;
    EXPECT_EQ(std::tolower(HexEncode(std::as_bytes(std::span(&value, 1)))[1]), std::tolower(c));
  }
  EXPECT_EQ(good, 22);
}

/// What costs a step: chunks count whole, and each new token pays for all before it.
TEST(StepModels, PrefillIsTheSumOfItsChunks) {
  const StepModel model{.base_s = 1, .token_s = 0.1, .pair_s = 0.001, .row_s = 0.5};
  EXPECT_TRUE(model.known());
  EXPECT_FALSE(StepModel().known());
  EXPECT_DOUBLE_EQ(model.PrefillSeconds(100, 0, 100, 0), 1 + 10 + 0.001 * 100 * 50);
  EXPECT_DOUBLE_EQ(model.PrefillSeconds(101, 0, 100, 2), 2 * (1 + 1) + 10.1 + 0.001 * 101 * 50.5) << "a second chunk for one token";
  EXPECT_GT(model.PrefillSeconds(100, 1000, 100, 0), model.PrefillSeconds(100, 0, 100, 0)) << "behind a long prefix";
  EXPECT_DOUBLE_EQ(model.Seconds(10, 100, 3), 1 + 1 + 0.1 + 1.5);
  EXPECT_EQ(StepModel().PrefillSeconds(100, 50, 10, 4), 0) << "nothing is known yet";
}

/// The wake function runs in the pushing thread and outside the lock: it may itself look into the mailbox.
TEST(MailboxEdges, TheWakeMayUseTheMailbox) {
  size_t seen = 0;
  Mailbox<int>* self = nullptr;
  Mailbox<int> box(4, [&] { seen = self->size(); });
  self = &box;
  ASSERT_TRUE(box.Push(1));
  EXPECT_EQ(seen, 1u);
  EXPECT_EQ(box.Drain(), std::vector<int>{1});
  EXPECT_TRUE(box.Drain().empty());
}

TEST(MailboxEdges, ClosedRefusesAndStillGivesWhatItHas) {
  int wakes = 0;
  Mailbox<std::string> box(2, [&] { ++wakes; });
  ASSERT_TRUE(box.Push("kept"));
  box.Close();
  std::string late = "late";
  EXPECT_FALSE(box.Push(std::move(late)));
  EXPECT_EQ(late, "late") << "still the caller's";
  EXPECT_EQ(wakes, 1);
  EXPECT_TRUE(box.closed());
  box.WaitFor(std::chrono::hours(1));  // returns at once: closed
  EXPECT_EQ(box.Drain(), std::vector<std::string>{"kept"});
  box.WaitFor(std::chrono::hours(1));
  box.Close();
}

/// Macros must evaluate their expression once and leave the caller's names alone.
TEST(StatusMacros, EvaluateOnceAndNest) {
  int calls = 0;
  const auto once = [&calls](bool good) -> Status {
    ++calls;
    return good ? OkStatus() : ExhaustedError("call {}", calls);
  };
  const auto value = [&calls](bool good) -> Result<std::unique_ptr<int>> {
    ++calls;
    if (!good) return NotFoundError("call {}", calls);
    return std::make_unique<int>(calls);
  };
  const auto run = [&](bool first, bool second, bool third) -> Result<int> {
    if (first) RETURN_IF_ERROR(once(true));
    else RETURN_IF_ERROR(once(false));
    ASSIGN_OR_RETURN(const std::unique_ptr<int> a, value(second));
    ASSIGN_OR_RETURN(std::unique_ptr<int> b, value(third));
    return *a * 10 + *b;
  };
  EXPECT_EQ(run(true, true, true).value(), 23);
  calls = 0;
  EXPECT_EQ(run(false, true, true).status(), ExhaustedError("call 1"));
  EXPECT_EQ(calls, 1);
  calls = 0;
  EXPECT_EQ(run(true, false, true).status(), NotFoundError("call 2"));
  EXPECT_EQ(calls, 2) << "what follows is not evaluated";
  calls = 0;
  EXPECT_EQ(run(true, true, false).status(), NotFoundError("call 3"));
}

TEST(StatusMessages, BracesOfArgumentsAreText) {
  EXPECT_EQ(InvalidError("\"{}\" is odd", "{} {0} {{").message(), "\"{} {0} {{\" is odd");
  EXPECT_EQ(InvalidError("x").WithContext("{}").WithContext("a: b").ToString(), "invalid: a: b: {}: x");
  EXPECT_EQ(Status(static_cast<StatusCode>(42), "odd").ToString(), "unknown: odd");
  EXPECT_EQ(Status(static_cast<StatusCode>(-1), "odd").ToString(), "unknown: odd");
}

/// A shuffle is part of what a seed means: routes, victims and simulations repeat by it.
TEST(RandomVectors, ShufflesOfSmallDecks) {
  const auto shuffled = [](uint64_t seed, int n) {
    std::vector<int> deck(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) deck[static_cast<size_t>(i)] = i;
    Random random(seed);
    random.Shuffle(deck);
    return deck;
  };
  EXPECT_EQ(shuffled(1, 0), std::vector<int>());
  EXPECT_EQ(shuffled(1, 1), std::vector<int>{0});
  // By hand from the draws: the last of i cards changes places with card Below(i), for i = n … 2.
  for (const uint64_t seed : {1, 2, 3, 1000}) {
    Random draws(seed);
    std::vector<int> expected = {0, 1, 2, 3, 4, 5};
    for (uint64_t i = 6; i > 1; --i) std::swap(expected[i - 1], expected[draws.Below(i)]);
    EXPECT_EQ(shuffled(seed, 6), expected) << seed;
  }
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 200; ++seed) orders.insert(shuffled(seed, 3));
  EXPECT_EQ(orders.size(), 6u) << "every order of three occurs";
}

}  // namespace
}  // namespace baton
