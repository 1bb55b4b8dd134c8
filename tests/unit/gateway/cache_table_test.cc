// The books of cache handles: owners, expiry, deletion, and what is told of what is not there.
#include "gateway/cache_table.h"

#include "base/random.h"

namespace baton {
namespace {

constexpr double kNow = 1000;

CacheRecord Record(char digit, std::string tenant, double expires = 0, double created = 0) {
  return {"cache_" + std::string(32, digit), std::move(tenant), {1, 2, 3}, created, expires};
}

TEST(CacheRecordTest, IdsThatMayNameFiles) {
  EXPECT_TRUE(IsCacheId("cache_0123456789abcdef0123456789abcdef"));
  for (const char* bad : {"", "cache_", "cache_0123456789abcdef0123456789abcde", "cache_0123456789abcdef0123456789abcdef0", "cache_0123456789abcdef0123456789abcdeF",
                          "cache_../456789abcdef0123456789abcdef", "cacheX0123456789abcdef0123456789abcdef", "../../../../../../../../../../../etc/passwd"}) {
    EXPECT_FALSE(IsCacheId(bad)) << bad;
  }
  EXPECT_FALSE(IsCacheId(std::string_view("cache_0123456789abcdef0123456789abcde\0", 38)));
}

TEST(CacheRecordTest, ATenantAndItsSalts) {
  EXPECT_EQ(BaseTenant("alice"), "alice");
  EXPECT_EQ(BaseTenant("alice/0123"), "alice");
  EXPECT_EQ(BaseTenant("/0123"), "");
  EXPECT_EQ(BaseTenant(""), "");
  EXPECT_EQ(SaltedTenant("alice", ""), "alice");
  const std::string salted = SaltedTenant("alice", "s");
  EXPECT_EQ(BaseTenant(salted), "alice");
  EXPECT_EQ(salted.size(), std::string("alice/").size() + 16) << "the client's text is not in it";
  EXPECT_NE(salted, SaltedTenant("alice", "t"));
  EXPECT_NE(salted, SaltedTenant("bob", "s"));
  EXPECT_EQ(salted, SaltedTenant("alice", "s"));
}

TEST(CacheRecordTest, Expiry) {
  EXPECT_FALSE(Record('a', "", 0).Expired(1e12)) << "pinned";
  EXPECT_TRUE(Record('a', "", 0).pinned());
  EXPECT_FALSE(Record('a', "", 10).Expired(9.99));
  EXPECT_TRUE(Record('a', "", 10).Expired(10));
}

TEST(CacheTableTest, FindsWhatIsThereForItsOwnerOnly) {
  CacheTable table(10);
  ASSERT_TRUE(table.Put(Record('a', "alice")));
  const std::string id = Record('a', "").id;
  ASSERT_TRUE(table.Find(id, "alice", kNow).ok());
  EXPECT_EQ(*table.Find(id, "alice", kNow), Record('a', "alice"));
  const Status foreign = table.Find(id, "bob", kNow).status(), unknown = table.Find(Record('b', "").id, "bob", kNow).status();
  EXPECT_EQ(foreign.code(), StatusCode::kNotFound);
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound);
  std::string as_unknown = foreign.message();
  as_unknown.replace(as_unknown.find(id), id.size(), Record('b', "").id);
  EXPECT_EQ(as_unknown, unknown.message()) << "another's handle must look as if it did not exist";
}

TEST(CacheTableTest, ASaltedHandleIsItsTenantsButNotListed) {
  CacheTable table(10);
  table.Put(Record('a', "alice/0011"));
  table.Put(Record('b', "alice"));
  table.Put(Record('c', "/0011"));
  EXPECT_TRUE(table.Find(Record('a', "").id, "alice", kNow).ok());
  ASSERT_EQ(table.List("alice", kNow).size(), 1u);
  EXPECT_EQ(table.List("alice", kNow)[0].id, Record('b', "").id);
  EXPECT_TRUE(table.List("", kNow).empty());
  EXPECT_TRUE(table.Find(Record('c', "").id, "", kNow).ok());
  EXPECT_FALSE(table.Find(Record('c', "").id, "alice", kNow).ok());
}

TEST(CacheTableTest, SaysOfAnExpiredOneThatItExpiredAndForgetsItLater) {
  CacheTable table(10);
  table.Put(Record('a', "alice", kNow + 5));
  const std::string id = Record('a', "").id;
  EXPECT_TRUE(table.Find(id, "alice", kNow + 4.9).ok());
  const Status expired = table.Find(id, "alice", kNow + 65).status();
  EXPECT_EQ(expired.code(), StatusCode::kNotFound);
  EXPECT_NE(expired.message().find("expired 60 s ago"), std::string::npos) << expired.message();
  EXPECT_EQ(table.Find(id, "bob", kNow + 65).status().message().find("expired 60"), std::string::npos);
  EXPECT_TRUE(table.List("alice", kNow + 65).empty());
  table.Sweep(kNow + 5 + CacheTable::kRememberS - 1);
  EXPECT_EQ(table.size(), 1u);
  table.Sweep(kNow + 5 + CacheTable::kRememberS);
  EXPECT_EQ(table.size(), 0u);
}

TEST(CacheTableTest, WhatWasErasedDoesNotComeBack) {
  CacheTable table(10);
  table.Put(Record('a', "alice", kNow + 50));
  table.Put(Record('b', "alice"));
  for (const char digit : {'a', 'b'}) {
    table.Erase(Record(digit, "").id);
    EXPECT_TRUE(table.Erased(Record(digit, "").id));
    EXPECT_FALSE(table.Find(Record(digit, "").id, "alice", kNow).ok());
    EXPECT_FALSE(table.Put(Record(digit, "alice", kNow + 50))) << "a store that was away still has it";
  }
  table.Sweep(kNow + 50);
  EXPECT_FALSE(table.Erased(Record('a', "").id)) << "no store can have it any more";
  EXPECT_TRUE(table.Erased(Record('b', "").id)) << "pinned: a store may have it for ever";
  table.Erase(Record('c', "").id);
  EXPECT_FALSE(table.Erased(Record('c', "").id)) << "was never here";
}

TEST(CacheTableTest, PutReplaces) {
  CacheTable table(10);
  table.Put(Record('a', "alice", kNow + 1));
  CacheRecord longer = Record('a', "alice", kNow + 100);
  longer.tokens.push_back(4);
  table.Put(longer);
  EXPECT_EQ(table.size(), 1u);
  EXPECT_EQ(*table.Find(longer.id, "alice", kNow + 2), longer);
}

TEST(CacheTableTest, ListsByAge) {
  CacheTable table(10);
  table.Put(Record('c', "alice", 0, 3));
  table.Put(Record('a', "alice", 0, 2));
  table.Put(Record('b', "alice", 0, 2));
  std::string order;
  for (const CacheRecord& record : table.List("alice", kNow)) order += record.id.back();
  EXPECT_EQ(order, "abc");
}

TEST(CacheTableTest, CountsLivingHandlesOfATenantWithItsSalts) {
  CacheTable table(3);
  table.Put(Record('a', "alice"));
  table.Put(Record('b', "alice/01"));
  table.Put(Record('c', "alice", kNow - 1));
  table.Put(Record('d', "bob"));
  EXPECT_TRUE(table.CheckCount("alice", kNow).ok());
  table.Put(Record('e', "alice/02"));
  EXPECT_EQ(table.CheckCount("alice", kNow).code(), StatusCode::kExhausted);
  EXPECT_TRUE(table.CheckCount("bob", kNow).ok());
  table.Erase(Record('a', "").id);
  EXPECT_TRUE(table.CheckCount("alice", kNow).ok());
}

TEST(CacheTableTest, RandomCallsAgreeWithAModel) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    CacheTable table(1000);
    std::map<std::string, CacheRecord> model;
    std::set<std::string> erased;
    double now = kNow;
    for (int step = 0; step < 400; ++step) {
      const std::string digits = "0123456789abcdef";
      CacheRecord record = Record(digits[random.Below(16)], random.Below(2) == 0 ? "alice" : "bob", random.Below(3) == 0 ? 0 : now + double(random.Below(20)));
      switch (random.Below(4)) {
        case 0:
          EXPECT_EQ(table.Put(record), !erased.contains(record.id));
          if (!erased.contains(record.id)) model[record.id] = record;
          break;
        case 1:
          table.Erase(record.id);
          if (model.erase(record.id) > 0) erased.insert(record.id);
          break;
        case 2: now += double(random.Below(5)); break;
        case 3: {
          const auto found = table.Find(record.id, "alice", now);
          const auto known = model.find(record.id);
          const bool there = known != model.end() && known->second.tenant == "alice" && !known->second.Expired(now);
          ASSERT_EQ(found.ok(), there) << "seed " << seed << " step " << step;
          if (there) {
            EXPECT_EQ(*found, known->second);
          }
          break;
        }
      }
    }
  }
}

}  // namespace
}  // namespace baton
