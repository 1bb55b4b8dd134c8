// Golden tables of the policies, and that each agrees with a slow, obvious one.
#include "kvstore/cache_policy.h"

#include <list>
#include <set>

#include "base/random.h"
#include "kvstore/tier_ledger.h"

namespace baton {
namespace {

std::unique_ptr<CachePolicy> Make(std::string_view name) {
  auto policy = MakeCachePolicy(name);
  EXPECT_TRUE(policy.ok());
  return std::move(policy).value();
}

/// A tier of `capacity` equal blocks without chains, driven by a text of letters: each letter is an access, and what it
/// pushes out is appended in lower case.
std::string Trace(std::string_view name, size_t capacity, std::string_view accesses) {
  TierLedger tier(Make(name));
  std::map<char, uint32_t> ids;
  std::string out;
  for (const char c : accesses) {
    out += c;
    const uint32_t id = ids.try_emplace(c, static_cast<uint32_t>(ids.size())).first->second;
    if (tier.Has(id)) {
      tier.Use(id);
      continue;
    }
    if (tier.blocks() == capacity) {
      const auto victim = tier.Victim();
      if (!victim) return out + "!";
      tier.Remove(*victim, true);
      for (const auto& [letter, known] : ids) {
        if (known == *victim) out += static_cast<char>(std::tolower(letter));
      }
    }
    tier.Add(id, {.key_hash = static_cast<uint64_t>(c), .bytes = 1});
  }
  return out;
}

TEST(CachePolicy, GoldenTables) {
  struct Case {
    const char *policy, *accesses;
    size_t capacity;
    const char* expected;
  };
  const Case cases[] = {
      {"lru", "ABCD", 3, "ABCDa"},
      {"lru", "ABCAD", 3, "ABCADb"},
      {"lru", "ABCABDE", 3, "ABCABDcEa"},
      {"lru", "AAAABCD", 3, "AAAABCDa"},                 // many uses count no more than one
      {"s3fifo", "ABCD", 3, "ABCDa"},                    // all in the small queue: first in, first out
      {"s3fifo", "ABCAD", 3, "ABCADb"},                  // A was used again: it moves to the main queue
      {"s3fifo", "AABCDEFG", 3, "AABCDbEcFdGe"},         // a scan passes by what was used
      {"s3fifo", "ABCDAEFG", 3, "ABCDaAbEcFdGe"},        // a ghost comes back straight into the main queue
      {"cost", "ABCD", 3, "ABCDa"},
      {"cost", "ABCAD", 3, "ABCADb"},                    // first blocks of chains: plain recency
  };
  for (const Case& c : cases) EXPECT_EQ(Trace(c.policy, c.capacity, c.accesses), c.expected) << c.policy << " " << c.accesses;
  EXPECT_EQ(MakeCachePolicy("fifo").status().code(), StatusCode::kInvalid);
}

TEST(CachePolicy, OnlyCandidatesAreChosen) {
  for (const char* name : {"lru", "s3fifo", "cost"}) {
    const auto policy = Make(name);
    EXPECT_FALSE(policy->Victim().has_value());
    for (uint32_t id = 0; id < 4; ++id) policy->Added(id, {.key_hash = id, .bytes = 10});
    EXPECT_FALSE(policy->Victim().has_value());
    policy->SetCandidate(2, true);
    policy->Used(2);
    EXPECT_EQ(policy->Victim(), 2u);
    policy->SetCandidate(2, false);
    EXPECT_FALSE(policy->Victim().has_value()) << name;
  }
}

TEST(TierLedger, OffersLeavesThatNobodyHolds) {
  TierLedger tier(Make("lru"));
  for (uint32_t id = 0; id < 3; ++id) tier.Add(id, {.parent = id == 0 ? 7 : id - 1, .bytes = 5});
  EXPECT_EQ(tier.Victim(), 2u);
  tier.Hold(2);
  tier.Hold(2);
  EXPECT_FALSE(tier.Victim().has_value());
  tier.Unhold(2);
  EXPECT_FALSE(tier.Victim().has_value());
  tier.Unhold(2);
  tier.Remove(2, true);
  EXPECT_EQ(tier.Victim(), 1u);
  tier.Add(2, {.parent = 1, .bytes = 5});
  EXPECT_EQ(tier.Victim(), 2u);
  tier.Remove(1, false);  // from the middle: what it leaves are two chains
  EXPECT_EQ(tier.Victim(), 0u);
  EXPECT_EQ(tier.bytes(), 10u);
  EXPECT_EQ(tier.blocks(), 2u);
}

// Random chains, uses, holds: LRU over leaves against a list; the other policies for what every policy must keep to.
TEST(TierLedger, RandomisedAgainstANaiveTier) {
  for (const char* name : {"lru", "s3fifo", "cost"}) {
    TierLedger tier(Make(name));
    struct Naive {
      uint32_t parent;
      int holds = 0;
      uint64_t used;
    };
    std::map<uint32_t, Naive> naive;
    uint64_t tick = 0;
    Random random(17);
    for (int step = 0; step < 30000; ++step) {
      const auto id = static_cast<uint32_t>(random.Below(60));
      const auto it = naive.find(id);
      switch (random.Below(5)) {
        case 0:
        case 1:
          if (it != naive.end()) break;
          naive[id] = {id < 12 ? kNoBlock : id - 12, 0, ++tick};  // twelve chains of five
          tier.Add(id, {.key_hash = id, .parent = naive[id].parent, .depth = id / 12, .bytes = 3});
          break;
        case 2:
          tier.Use(id);
          if (it != naive.end()) it->second.used = ++tick;
          break;
        case 3:
          if (it == naive.end()) break;
          if (it->second.holds > 0 && random.Below(2) == 0) {
            --it->second.holds;
            tier.Unhold(id);
          } else if (it->second.holds < 3 && random.Below(6) == 0) {
            ++it->second.holds;
            tier.Hold(id);
          }
          break;
        default: {
          std::set<uint32_t> leaves;
          for (const auto& [key, block] : naive) {
            bool leaf = block.holds == 0;
            for (const auto& [other, child] : naive) leaf = leaf && child.parent != key;
            if (leaf) leaves.insert(key);
          }
          const auto victim = tier.Victim();
          ASSERT_EQ(victim.has_value(), !leaves.empty()) << name << " step " << step;
          if (!victim) break;
          ASSERT_TRUE(leaves.contains(*victim)) << name;
          if (std::string_view(name) == "lru") {
            for (const uint32_t leaf : leaves) ASSERT_LE(naive[*victim].used, naive[leaf].used);
          }
          tier.Remove(*victim, random.Below(2) == 0);
          naive.erase(*victim);
        }
      }
      ASSERT_EQ(tier.blocks(), naive.size());
      ASSERT_EQ(tier.bytes(), 3 * naive.size());
    }
  }
}

}  // namespace
}  // namespace baton
