#include "kvstore/extent_space.h"

#include "base/random.h"

namespace baton {
namespace {

TEST(ExtentSpace, TakesTheShortestGapThenGrows) {
  ExtentSpace space(100, 100);
  EXPECT_EQ(space.Allocate(10), 0u);
  EXPECT_EQ(space.Allocate(5), 10u);
  EXPECT_EQ(space.Allocate(3), 15u);
  EXPECT_EQ(space.Allocate(2), 18u);
  space.Free(0, 10);
  space.Free(15, 3);
  EXPECT_EQ(space.Allocate(2), 15u);  // of 3, not of 10
  EXPECT_EQ(space.Allocate(11), 20u);
  EXPECT_EQ(space.free_pages(), 100u - 31u + 11u);
  space.Free(10, 5);
  EXPECT_EQ(space.Allocate(15), 0u);  // neighbours joined
  EXPECT_FALSE(space.Allocate(0).has_value());
  EXPECT_FALSE(space.Allocate(70).has_value());
}

TEST(ExtentSpace, NothingCrossesAFilesEnd) {
  ExtentSpace space(25, 10);  // files of 10, 10 and 5 pages
  EXPECT_EQ(space.Allocate(7), 0u);
  EXPECT_EQ(space.Allocate(7), 10u);
  EXPECT_EQ(space.Allocate(3), 7u);
  EXPECT_FALSE(space.Allocate(6).has_value());
  EXPECT_EQ(space.Allocate(5), 20u);
  EXPECT_FALSE(space.Allocate(11).has_value());
  space.Free(7, 3);
  space.Free(10, 7);
  EXPECT_FALSE(space.Allocate(10).has_value() && space.Allocate(4).has_value());  // 7..9 and 10..19 did not join
  EXPECT_FALSE(space.Reserve(18, 4));
  EXPECT_FALSE(space.Reserve(25, 1));
  EXPECT_FALSE(space.Reserve(0, 1));
}

TEST(ExtentSpace, AnyOrderOfReservationsLeavesTheGapsFree) {
  ExtentSpace space(40, 10);
  EXPECT_TRUE(space.Reserve(33, 2));
  EXPECT_TRUE(space.Reserve(4, 3));
  EXPECT_FALSE(space.Reserve(5, 1));
  EXPECT_FALSE(space.Reserve(2, 3));
  EXPECT_TRUE(space.Reserve(12, 8));
  EXPECT_EQ(space.free_pages(), 40u - 13u);
  uint32_t free = 0;
  for (const auto& [page, pages] : space.FreeRanges()) {
    EXPECT_EQ(page / 10, (page + pages - 1) / 10);
    free += pages;
  }
  EXPECT_EQ(free, space.free_pages());
}

TEST(ExtentSpace, AgreesWithAPageMap) {
  constexpr uint32_t kPages = 500, kFile = 64;
  ExtentSpace space(kPages, kFile);
  std::vector<bool> taken(kPages);
  std::vector<std::pair<uint32_t, uint32_t>> held;
  Random random(3);
  for (int step = 0; step < 20000; ++step) {
    const auto n = static_cast<uint32_t>(1 + random.Below(20));
    if (random.Below(2) == 0) {
      const auto page = space.Allocate(n);
      bool possible = false;
      for (uint32_t p = 0, run = 0; p < kPages; ++p) {
        run = taken[p] ? 0 : (p % kFile == 0 ? 1 : run + 1);
        possible = possible || run >= n;
      }
      ASSERT_EQ(page.has_value(), possible) << step;
      if (!page) continue;
      ASSERT_EQ(*page / kFile, (*page + n - 1) / kFile);
      for (uint32_t p = *page; p < *page + n; ++p) {
        ASSERT_FALSE(taken[p]);
        taken[p] = true;
      }
      held.push_back({*page, n});
    } else if (!held.empty()) {
      const size_t i = random.Below(held.size());
      space.Free(held[i].first, held[i].second);
      for (uint32_t p = 0; p < held[i].second; ++p) taken[held[i].first + p] = false;
      held.erase(held.begin() + static_cast<long>(i));
    }
    ASSERT_EQ(space.free_pages(), static_cast<uint32_t>(std::count(taken.begin(), taken.end(), false)));
  }
}

}  // namespace
}  // namespace baton
