// Numbers that come and go against a map.
#include "kvstore/paged_array.h"

#include "base/random.h"

namespace baton {
namespace {

TEST(PagedArray, AgreesWithAMap) {
  PagedArray<uint64_t> array;
  std::map<uint32_t, uint64_t> map;
  Random random(6);
  for (int step = 0; step < 100000; ++step) {
    const uint32_t id = static_cast<uint32_t>(random.Below(2) == 0 ? random.Below(400) : random.Below(1 << 22));
    if (const auto it = map.find(id); it == map.end()) {
      ASSERT_FALSE(array.Has(id));
      ASSERT_EQ(array.Find(id), nullptr);
      uint64_t& made = array.Make(id);
      ASSERT_EQ(made, 0u) << "what was erased is made anew";
      made = map[id] = random.Next64() | 1;
    } else if (random.Below(2) == 0) {
      ASSERT_EQ(array[id], it->second);
      ASSERT_EQ(array.Make(id), it->second) << "making what is there changes nothing";
    } else {
      array.Erase(id);
      map.erase(it);
    }
  }
  for (const auto& [id, value] : map) ASSERT_EQ(*array.Find(id), value);
}

TEST(PagedArray, ReferencesStayWhileOthersCome) {
  PagedArray<int> array;
  int& first = array.Make(3);
  first = 7;
  for (uint32_t id = 4; id < 100000; ++id) array.Make(id) = 1;
  first = 8;
  EXPECT_EQ(array[3], 8);
  EXPECT_FALSE(array.Has(~uint32_t{0}));
}

}  // namespace
}  // namespace baton
