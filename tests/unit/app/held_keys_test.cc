// A rank with a pool and a store is one holder: it holds a block as long as either does.
#include "app/held_keys.h"

#include <set>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

BlockKey Key(uint64_t number) { return {Sha256(std::as_bytes(std::span(&number, 1)))}; }

std::vector<HeldChange> Take(HeldKeys& held, HeldKeys::Source source, std::vector<HeldChange> changes) {
  std::vector<HeldChange> out;
  held.Take(source, changes, out);
  return out;
}

TEST(HeldKeys, ABlockThatBothHoldIsToldOnceAndLeavesWithTheLast) {
  HeldKeys held;
  EXPECT_EQ(Take(held, HeldKeys::kPool, {{true, Key(1)}}).size(), 1u);
  EXPECT_TRUE(Take(held, HeldKeys::kStore, {{true, Key(1)}}).empty());
  EXPECT_TRUE(Take(held, HeldKeys::kPool, {{false, Key(1)}}).empty()) << "the store still holds it";
  const auto last = Take(held, HeldKeys::kStore, {{false, Key(1)}});
  ASSERT_EQ(last.size(), 1u);
  EXPECT_FALSE(last[0].added);
  EXPECT_EQ(held.size(), 0u);
}

TEST(HeldKeys, WhatIsSaidTwiceCountsOnce) {
  HeldKeys held;
  EXPECT_EQ(Take(held, HeldKeys::kPool, {{true, Key(1)}, {true, Key(1)}}).size(), 1u);
  EXPECT_EQ(Take(held, HeldKeys::kPool, {{false, Key(1)}, {false, Key(1)}}).size(), 1u);
  EXPECT_TRUE(Take(held, HeldKeys::kPool, {{false, Key(2)}}).empty()) << "never held";
  EXPECT_EQ(Take(held, HeldKeys::kPool, {{true, Key(3)}, {false, Key(3)}, {true, Key(3)}}).size(), 3u) << "in order";
}

TEST(HeldKeys, AfterClearEverythingIsNew) {
  HeldKeys held;
  Take(held, HeldKeys::kPool, {{true, Key(1)}});
  held.Clear();
  EXPECT_EQ(Take(held, HeldKeys::kPool, {{true, Key(1)}}).size(), 1u);
}

/// Who applies what is told to a plain set has the union of both sources, and its sum is what the worker says of itself.
TEST(HeldKeys, WhatIsToldAddsUpToTheUnion) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    HeldKeys held;
    std::set<BlockKey> pool, store, told;
    HeldSum sum;
    for (int step = 0; step < 2000; ++step) {
      const bool of_pool = random.Below(2) == 0;
      const HeldChange change{random.Below(2) == 0, Key(random.Below(40))};
      std::set<BlockKey>& source = of_pool ? pool : store;
      if (change.added) source.insert(change.key);
      else source.erase(change.key);
      for (const HeldChange& out : Take(held, of_pool ? HeldKeys::kPool : HeldKeys::kStore, {change})) {
        EXPECT_EQ(out.added ? told.insert(out.key).second : told.erase(out.key) == 1, true) << "told something known";
        sum.Count(out);
      }
    }
    std::set<BlockKey> both = pool;
    both.insert(store.begin(), store.end());
    EXPECT_EQ(told, both);
    HeldSum want;
    for (const BlockKey& key : both) want.Count({true, key});
    EXPECT_EQ(sum, want);
  }
}

}  // namespace
}  // namespace baton
