// Which roles a rank plays, case by case.
#include "app/roles.h"

namespace baton {
namespace {

using Roles = std::vector<std::string>;
using Ranks = std::vector<Roles>;

TEST(ParseRolesTest, TakesRolesApart) {
  EXPECT_EQ(*ParseRoles("decode"), Roles{"decode"});
  EXPECT_EQ(*ParseRoles("coordinator+gateway+store+prefill+decode"), (Roles{"coordinator", "gateway", "store", "prefill", "decode"}));
  EXPECT_EQ(*ParseRoles("decode+decode+prefill"), (Roles{"decode", "prefill"})) << "named twice is named once";
}

TEST(ParseRolesTest, NamesWhatItDoesNotKnow) {
  for (const char* bad : {"", "+", "decode+", "+decode", "decode++prefill", "Decode", "decode prefill", "decode,prefill", "worker"}) {
    EXPECT_EQ(ParseRoles(bad).status().code(), StatusCode::kInvalid) << bad;
  }
  const Status near = ParseRoles("prefil").status();
  EXPECT_THAT(near.message(), ::testing::HasSubstr("\"prefil\""));
  EXPECT_THAT(near.message(), ::testing::HasSubstr("did you mean prefill"));
}

struct Case {
  const char* what;
  Roles configured;
  bool is_default;
  uint32_t ranks;
  Ranks want;         // or
  const char* error;  // part of the message
};

const Roles kFour = {"coordinator+gateway", "store", "prefill", "decode"};
const Roles kHead = {"coordinator", "gateway"}, kAll = {"coordinator", "gateway", "store", "prefill", "decode"};
const Roles kStore = {"store"}, kPrefill = {"prefill"}, kDecode = {"decode"};

const Case kCases[] = {
    {"defaults, one rank", kFour, true, 1, {kAll}, nullptr},
    {"defaults, two", kFour, true, 2, {{"coordinator", "gateway", "store", "prefill"}, kDecode}, nullptr},
    {"defaults, three", kFour, true, 3, {{"coordinator", "gateway", "store"}, kPrefill, kDecode}, nullptr},
    {"defaults, four", kFour, true, 4, {kHead, kStore, kPrefill, kDecode}, nullptr},
    {"defaults, seven", kFour, true, 7, {kHead, kStore, kPrefill, kDecode, kPrefill, kDecode, kPrefill}, nullptr},
    {"defaults, none", kFour, true, 0, {}, "0 ranks"},
    {"as many as named", kFour, false, 4, {kHead, kStore, kPrefill, kDecode}, nullptr},
    {"the last repeats", kFour, false, 6, {kHead, kStore, kPrefill, kDecode, kDecode, kDecode}, nullptr},
    {"too few", kFour, false, 3, {}, "mpirun -n 4"},
    {"all in one", {"coordinator+gateway+decode"}, false, 1, {{"coordinator", "gateway", "decode"}}, nullptr},
    {"a second coordinator by repeating", {"coordinator+gateway+decode"}, false, 2, {}, "coordinator once"},
    {"two", {"coordinator+gateway", "prefill+decode"}, false, 2, {kHead, {"prefill", "decode"}}, nullptr},
    {"coordinator elsewhere", {"gateway", "coordinator+decode"}, false, 2, {}, "coordinator once"},
    {"no coordinator", {"gateway+decode"}, false, 1, {}, "coordinator once"},
    {"two coordinators", {"coordinator+gateway", "coordinator+decode"}, false, 2, {}, "coordinator once"},
    {"no gateway", {"coordinator", "decode"}, false, 2, {}, "no gateway"},
    {"nobody computes", {"coordinator+gateway", "store"}, false, 2, {}, "no prefill or decode"},
    {"only prefill computes", {"coordinator+gateway", "prefill"}, false, 2, {kHead, kPrefill}, nullptr},
    {"nothing", {}, false, 1, {}, "is empty"},
    {"a bad role", {"coordinator+gateway", "decoder"}, false, 2, {}, "decoder"},
};

TEST(AssignRolesTest, EveryCase) {
  for (const Case& c : kCases) {
    const auto got = AssignRoles(c.configured, c.is_default, c.ranks);
    if (c.error == nullptr) {
      ASSERT_TRUE(got.ok()) << c.what << ": " << got.status().ToString();
      EXPECT_EQ(*got, c.want) << c.what;
    } else {
      ASSERT_FALSE(got.ok()) << c.what;
      EXPECT_EQ(got.status().code(), StatusCode::kInvalid) << c.what;
      EXPECT_THAT(got.status().message(), ::testing::HasSubstr(c.error)) << c.what;
    }
  }
}

}  // namespace
}  // namespace baton
