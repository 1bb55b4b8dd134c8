// Sizes, checked arithmetic and the texts made of bytes.
#include "base/bytes.h"

#include <limits>

#include "base/clock.h"
#include "base/ids.h"

namespace baton {
namespace {

TEST(BytesTest, HexOfEveryByte) {
  std::string all, wanted;
  for (int b = 0; b < 256; ++b) {
    all += static_cast<char>(b);
    char two[3];
    std::snprintf(two, sizeof two, "%02x", b);
    wanted += two;
  }
  EXPECT_EQ(HexEncode(AsBytes(all)), wanted);
  EXPECT_EQ(HexEncode({}), "");
}

TEST(BytesTest, HumanBytes) {
  const std::pair<uint64_t, const char*> table[] = {{0, "0 B"},         {1, "1 B"},           {1023, "1023 B"},      {1024, "1.0 KiB"},      {1536, "1.5 KiB"},
                                                    {1_MiB, "1.0 MiB"}, {3_GiB / 2, "1.5 GiB"}, {1024_GiB, "1.0 TiB"}, {1ull << 50, "1.0 PiB"}, {~0ull, "16384.0 PiB"}};
  for (const auto& [bytes, text] : table) EXPECT_EQ(HumanBytes(bytes), text) << bytes;
}

TEST(BytesTest, TextAndBytesShareMemory) {
  const std::string text("a\0\xff", 3);
  const Bytes bytes = AsBytes(text);
  ASSERT_EQ(bytes.size(), 3u);
  EXPECT_EQ(bytes[1], std::byte{0});
  EXPECT_EQ(bytes[2], std::byte{0xff});
  EXPECT_EQ(AsText(bytes).data(), text.data());
  EXPECT_EQ(AsText(bytes), text);
  EXPECT_TRUE(AsBytes("").empty());
}

TEST(BytesTest, UnitsAndRounding) {
  static_assert(1_KiB == 1024 && 1_MiB == 1048576 && 2_GiB == 2147483648ull);
  const std::array<std::array<uint64_t, 4>, 8> table = {{{0, 64, 0, 0}, {1, 64, 64, 1}, {63, 64, 64, 1}, {64, 64, 64, 1}, {65, 64, 128, 2}, {10, 3, 12, 4}, {9, 3, 9, 3}, {7, 1, 7, 7}}};
  for (const auto& [value, multiple, rounded, blocks] : table) {
    EXPECT_EQ(RoundUp(value, multiple), rounded) << value << " " << multiple;
    EXPECT_EQ(CeilDiv(value, multiple), blocks) << value << " " << multiple;
  }
}

template <typename T>
void CheckAgainstWide(const std::vector<T>& values) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  for (const T a : values) {
    for (const T b : values) {
      T out{};
      const auto sum = static_cast<Wide>(a) + static_cast<Wide>(b), product = static_cast<Wide>(a) * static_cast<Wide>(b);
      const auto fits = [](Wide v) { return v >= static_cast<Wide>(std::numeric_limits<T>::min()) && v <= static_cast<Wide>(std::numeric_limits<T>::max()); };
      EXPECT_EQ(CheckedAdd<T>(a, b, &out), fits(sum)) << +a << " + " << +b;
      if (fits(sum)) {
        EXPECT_EQ(out, static_cast<T>(sum));
      }
      EXPECT_EQ(CheckedMul<T>(a, b, &out), fits(product)) << +a << " * " << +b;
      if (fits(product)) {
        EXPECT_EQ(out, static_cast<T>(product));
      }
    }
  }
}

TEST(BytesTest, CheckedArithmeticAgreesWithAWiderType) {
  CheckAgainstWide<uint64_t>({0, 1, 2, 3, 255, 1ull << 31, 1ull << 32, (1ull << 32) - 1, 1ull << 62, 1ull << 63, ~0ull - 1, ~0ull});
  CheckAgainstWide<uint32_t>({0, 1, 2, 65535, 65536, 1u << 31, ~0u});
  CheckAgainstWide<int64_t>({0, 1, -1, INT64_MAX, INT64_MIN, INT64_MIN + 1, 1ll << 32, -(1ll << 32)});
  CheckAgainstWide<int32_t>({0, 1, -1, INT32_MAX, INT32_MIN, 46341, -46341});
}

TEST(ClockTest, TheFakeMovesOnlyWhenTold) {
  FakeClock clock;
  const Instant start = clock.Now();
  const double unix_start = clock.UnixSeconds();
  EXPECT_GT(start, Instant()) << "its zero means nothing, so it does not begin there";
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(std::chrono::milliseconds(1500));
  EXPECT_EQ(ToSeconds(clock.Now() - start), 1.5);
  EXPECT_NEAR(clock.UnixSeconds() - unix_start, 1.5, 1e-6);
}

TEST(ClockTest, AdvancesFromSeveralThreadsAddUp) {
  FakeClock clock;
  const Instant start = clock.Now();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&clock] {
      for (int i = 0; i < 1000; ++i) clock.Advance(std::chrono::nanoseconds(1));
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ((clock.Now() - start).count(), 4000);
}

TEST(ClockTest, SecondsThereAndBack) {
  for (const double s : {0.0, 1e-9, 0.25, 1.0, 3600.0, 1e6, -2.5}) EXPECT_NEAR(ToSeconds(FromSeconds(s)), s, 1e-9 * std::max(1.0, std::abs(s))) << s;
}

TEST(ClockTest, TheSystemsNeverGoesBack) {
  const SystemClock clock;
  Instant last = clock.Now();
  for (int i = 0; i < 1000; ++i) {
    const Instant now = clock.Now();
    EXPECT_GE(now, last);
    last = now;
  }
  EXPECT_GT(clock.UnixSeconds(), 1.7e9);
}

TEST(IdsTest, KindsAreKeptApartAndOrdered) {
  static_assert(!std::is_convertible_v<WorkerId, BlockId> && !std::is_convertible_v<uint32_t, WorkerId> && !std::is_constructible_v<RequestId, TransferId>);
  EXPECT_EQ(WorkerId().value, 0u) << "nobody";
  EXPECT_LT(Incarnation(1), Incarnation(2));
  std::map<RequestId, int> ordered = {{RequestId(3), 3}, {RequestId(1), 1}, {RequestId(2), 2}};
  EXPECT_EQ(ordered.begin()->second, 1);
  // Small numbers in a row spread over a hash table's buckets.
  std::map<size_t, int> buckets;
  for (uint32_t i = 0; i < 4096; ++i) ++buckets[std::hash<WorkerId>()(WorkerId(i)) % 64];
  for (const auto& [bucket, count] : buckets) EXPECT_NEAR(count, 64, 40) << bucket;
}

}  // namespace
}  // namespace baton
