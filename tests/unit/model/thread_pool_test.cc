#include "model/thread_pool.h"

namespace baton {
namespace {

TEST(ThreadPoolTest, EveryUnitIsDoneOnceWhateverTheCounts) {
  for (const unsigned threads : {1u, 2u, 3u, 8u}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const size_t count : {0u, 1u, 2u, 7u, 8u, 1000u}) {
      std::vector<std::atomic<int>> by_range(count), by_unit(count);
      std::atomic<bool> known{true};
      pool.Run(count, [&](size_t begin, size_t end, unsigned thread) {
        if (thread >= threads || begin >= end) known = false;
        for (size_t i = begin; i < end; ++i) ++by_range[i];
      });
      pool.RunEach(count, [&](size_t unit, unsigned thread) {
        if (thread >= threads) known = false;
        ++by_unit[unit];
      });
      EXPECT_TRUE(known);
      for (size_t i = 0; i < count; ++i) EXPECT_TRUE(by_range[i] == 1 && by_unit[i] == 1) << threads << " " << count << " " << i;
    }
  }
}

TEST(ThreadPoolTest, SmallWorkStaysWithTheCallerInOnePiece) {
  ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  for (const size_t count : {0u, 1u, 29u, 30u, 31u, 300u}) {
    std::mutex mutex;
    std::vector<int> done(count);
    int pieces = 0;
    bool alone = true;
    pool.RunLarge(count, 10, [&](size_t begin, size_t end, unsigned thread) {
      const std::lock_guard lock(mutex);
      ++pieces;
      alone = alone && std::this_thread::get_id() == caller && thread == 0;
      for (size_t i = begin; i < end; ++i) ++done[i];
    });
    EXPECT_THAT(done, testing::Each(1));
    if (count < 30) EXPECT_TRUE(alone && pieces == (count > 0 ? 1 : 0)) << count;
    else EXPECT_EQ(pieces, 3) << count;
  }
}

TEST(ThreadPoolTest, WhatOneRunWroteTheNextReads) {
  ThreadPool pool(3);
  std::vector<uint64_t> values(300, 1);
  for (int round = 0; round < 2000; ++round) {  // each element depends on one another thread wrote
    std::vector<uint64_t> next(values.size());
    pool.Run(values.size(), [&](size_t begin, size_t end, unsigned) {
      for (size_t i = begin; i < end; ++i) next[i] = values[(i + 101) % values.size()] + 1;
    });
    values = std::move(next);
  }
  EXPECT_THAT(values, testing::Each(2001));
}

}  // namespace
}  // namespace baton
