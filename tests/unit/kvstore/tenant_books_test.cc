// Whose blocks are whose: accounts by root, the order in which a tenant's own leave, quotas in the store, names over a restart.
#include "kvstore/tenant_books.h"

#include <fstream>

#include "base/random.h"
#include "store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 4096;

class TenantBooksTest : public ::testing::Test {
 protected:
  /// Enters a block into the index and the books.
  uint32_t Add(uint64_t name, uint64_t parent, uint32_t depth, uint64_t bytes = 10) {
    const uint32_t id = index_.Intern(TestKey(name));
    EXPECT_TRUE(index_.Link(id, TestKey(parent), depth));
    books_.Add(id, bytes);
    return id;
  }
  static bool Nothing(uint32_t) { return false; }

  BlockIndex index_;
  TenantBooks books_{index_};
};

TEST_F(TenantBooksTest, ABlockIsItsRootsTenants) {
  books_.Name(TestKey(100), "alice");
  books_.Name(TestKey(200), "bob");
  books_.Name(TestKey(300), "alice");
  Add(1, 100, 0);
  Add(2, 1, 1);
  Add(3, 2, 2);
  Add(4, 200, 0, 7);
  Add(5, 300, 0);
  Add(6, 999, 0, 3);
  EXPECT_EQ(books_.All()["alice"].blocks, 4u) << "with two roots: one of a cache_salt";
  EXPECT_EQ(books_.All()["alice"].bytes, 40u);
  EXPECT_EQ(books_.All()["bob"].bytes, 7u);
  EXPECT_EQ(books_.All()[""].bytes, 3u) << "of no named tenant";
  EXPECT_EQ(books_.name(books_.Of(TestKey(3))), "alice") << "what comes behind block 3";
  EXPECT_EQ(books_.name(books_.Of(TestKey(200))), "bob") << "a first block";
  EXPECT_EQ(books_.name(books_.Of(TestKey(12345))), "");
}

TEST_F(TenantBooksTest, AddingTwiceAndRemovingTwiceCountOnce) {
  const uint32_t id = Add(1, 100, 0);
  books_.Add(id, 10);
  EXPECT_EQ(books_.bytes(0), 10u);
  books_.Remove(id);
  books_.Remove(id);
  EXPECT_EQ(books_.bytes(0), 0u);
  EXPECT_EQ(books_.Victim(0, Nothing), std::nullopt);
  books_.Remove(12345);
  books_.Use(12345);
}

TEST_F(TenantBooksTest, TheLeafUsedLongestAgoLeavesFirst) {
  const uint32_t a = Add(1, 100, 0), b = Add(2, 1, 1), c = Add(3, 1, 1), d = Add(4, 100, 0);
  EXPECT_EQ(books_.Victim(0, Nothing), b) << "not its parent, which came before it";
  books_.Use(b);
  EXPECT_EQ(books_.Victim(0, Nothing), c);
  EXPECT_EQ(books_.Victim(0, [&](uint32_t id) { return id == c; }), d);
  books_.Remove(c);
  books_.Remove(b);
  EXPECT_EQ(books_.Victim(0, Nothing), a) << "a leaf now, and the oldest";
  books_.Use(a);
  EXPECT_EQ(books_.Victim(0, Nothing), d);
  EXPECT_EQ(books_.Victim(0, [](uint32_t) { return true; }), std::nullopt);
}

TEST_F(TenantBooksTest, OneTenantsVictimIsNeverAnothers) {
  books_.Name(TestKey(100), "alice");
  books_.Name(TestKey(200), "bob");
  Add(1, 100, 0);
  const uint32_t b = Add(2, 200, 0);
  EXPECT_EQ(books_.Victim(books_.Of(TestKey(200)), Nothing), b);
  books_.Remove(b);
  EXPECT_EQ(books_.Victim(books_.Of(TestKey(200)), Nothing), std::nullopt);
}

TEST_F(TenantBooksTest, NamesAreBoundedAndPlain) {
  for (const std::string& bad : {std::string(), std::string(65, 'x'), std::string("a b"), std::string("a\nb")}) {
    books_.Name(TestKey(1), bad);
    EXPECT_EQ(books_.Of(TestKey(1)), 0u) << bad;
  }
  books_.Name(TestKey(1), "first");
  books_.Name(TestKey(1), "second");
  EXPECT_EQ(books_.name(books_.Of(TestKey(1))), "first") << "a root does not change hands";
}

TEST_F(TenantBooksTest, RandomCallsAgreeWithAModel) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    BlockIndex index;
    TenantBooks books(index);
    books.Name(TestKey(1000), "a");
    books.Name(TestKey(2000), "b");
    Random random(seed);
    struct Known {
      uint32_t id, depth;
      std::string tenant;
      uint64_t bytes;
      bool here;
    };
    std::map<uint64_t, Known> known;
    for (int step = 0; step < 300; ++step) {
      const uint64_t name = 1 + random.Below(40);
      const auto it = known.find(name);
      if (it == known.end()) {
        uint64_t parent = random.Below(2) == 0 ? 1000 : 2000;
        uint32_t depth = 0;
        std::string tenant = parent == 1000 ? "a" : "b";
        if (!known.empty() && random.Below(3) > 0) {
          const auto up = std::next(known.begin(), static_cast<ptrdiff_t>(random.Below(known.size())));
          parent = up->first;
          depth = up->second.depth + 1;
          tenant = up->second.tenant;
        }
        const uint32_t id = index.Intern(TestKey(name));
        ASSERT_TRUE(index.Link(id, TestKey(parent), depth));
        known[name] = {id, depth, tenant, 1 + random.Below(9), true};
        books.Add(id, known[name].bytes);
      } else if (it->second.here && random.Below(2) == 0) {
        books.Remove(it->second.id);
        it->second.here = false;
      } else if (!it->second.here) {
        books.Add(it->second.id, it->second.bytes);
        it->second.here = true;
      } else {
        books.Use(it->second.id);
      }
      std::map<std::string, uint64_t> bytes;
      for (const auto& [key, block] : known) bytes[block.tenant] += block.here ? block.bytes : 0;
      for (const char* tenant : {"a", "b"}) ASSERT_EQ(books.All()[tenant].bytes, bytes[tenant]) << "seed " << seed << " step " << step;
    }
  }
}

/// A chain under a root of its own.
std::vector<TestBlock> ChainOf(uint64_t root, const std::string& tenant, size_t blocks) {
  std::vector<TestBlock> chain = MakeTestChain(root * 1000, blocks, kBytes);
  chain[0].header.parent = TestKey(root * 1000 + 999);
  chain[0].header.tenant = tenant;
  return chain;
}

class TenantQuotaTest : public ::testing::Test {
 protected:
  void Open(uint64_t quota_blocks, const std::string& path = "", uint64_t memory_blocks = 256) {
    store_ = nullptr;
    BlockStoreConfig config = TestConfig(path, memory_blocks * kBytes);
    config.tenant_bytes = quota_blocks * kBytes;
    store_ = OpenTestStore(config);
  }
  Status Put(const std::vector<TestBlock>& chain) {
    Status last;
    for (const TestBlock& block : chain) {
      if (const Status status = store_->Put(block.header, block.bytes); !status.ok()) last = status;
    }
    return last;
  }
  size_t Held(const std::vector<TestBlock>& chain) { return store_->Lookup(KeysOf(chain)); }

  TempFolder folder_;
  std::unique_ptr<BlockStore> store_;
};

TEST_F(TenantQuotaTest, ATenantsOwnBlocksMakeRoomForItsNewOnes) {
  Open(5);
  const auto other = ChainOf(1, "bob", 5), first = ChainOf(2, "alice", 4), second = ChainOf(3, "alice", 4);
  ASSERT_TRUE(Put(other).ok());
  ASSERT_TRUE(Put(first).ok());
  ASSERT_TRUE(Put(second).ok());
  EXPECT_EQ(Held(second), 4u);
  EXPECT_EQ(Held(first), 1u) << "its tail went";
  EXPECT_EQ(Held(other), 5u) << "another tenant's stayed, though older";
  EXPECT_EQ(store_->tenants()["alice"].bytes, 5 * kBytes);
  EXPECT_EQ(store_->stats().evictions, 3u);
  EXPECT_TRUE(store_->EvictedAt(first[3].header.key).has_value());
}

TEST_F(TenantQuotaTest, AChainLongerThanTheQuotaKeepsItsHead) {
  Open(5);
  const auto chain = ChainOf(1, "alice", 9);
  EXPECT_EQ(Put(chain).code(), StatusCode::kExhausted);
  EXPECT_EQ(Held(chain), 5u);
}

TEST_F(TenantQuotaTest, PinnedBlocksAreSparedAndThenRefused) {
  Open(4);
  const auto held = ChainOf(1, "alice", 4), next = ChainOf(2, "alice", 2);
  ASSERT_TRUE(Put(held).ok());
  ASSERT_TRUE(store_->Pin(KeysOf(held), SystemClock().Now() + std::chrono::hours(1)).ok());
  EXPECT_EQ(Put(next).code(), StatusCode::kExhausted);
  EXPECT_EQ(Held(held), 4u);
  EXPECT_EQ(Held(next), 0u);
  store_->Unpin(KeysOf(held));
  EXPECT_TRUE(Put(next).ok());
}

TEST_F(TenantQuotaTest, UnnamedTenantsShareOneQuota) {
  Open(5);
  const auto a = ChainOf(1, "", 4), b = ChainOf(2, "", 4);
  ASSERT_TRUE(Put(a).ok());
  ASSERT_TRUE(Put(b).ok());
  EXPECT_EQ(Held(b), 4u);
  EXPECT_EQ(Held(a), 1u);
}

TEST_F(TenantQuotaTest, WithoutAQuotaNothingIsCounted) {
  Open(0);
  ASSERT_TRUE(Put(ChainOf(1, "alice", 20)).ok());
  EXPECT_TRUE(store_->tenants().empty());
}

TEST_F(TenantQuotaTest, AccountsOutliveARestart) {
  Open(6, folder_.path());
  const auto a = ChainOf(1, "alice", 3), b = ChainOf(2, "bob", 2);
  ASSERT_TRUE(Put(a).ok());
  ASSERT_TRUE(Put(b).ok());
  ASSERT_TRUE(store_->Flush().ok());
  Open(6, folder_.path());
  EXPECT_EQ(store_->tenants()["alice"].blocks, 3u);
  EXPECT_EQ(store_->tenants()["bob"].blocks, 2u);
  EXPECT_EQ(store_->tenants()[""].blocks, 0u);
  const auto more = ChainOf(3, "alice", 5);
  ASSERT_TRUE(Put(more).ok());
  EXPECT_EQ(Held(more), 5u);
  EXPECT_EQ(Held(a), 1u);
  EXPECT_EQ(Held(b), 2u);
}

TEST_F(TenantQuotaTest, ALostFileOfNamesCostsTheNamesOnly) {
  Open(6, folder_.path());
  const auto a = ChainOf(1, "alice", 3);
  ASSERT_TRUE(Put(a).ok());
  ASSERT_TRUE(store_->Flush().ok());
  store_ = nullptr;
  std::ofstream(folder_.path() + "/tenants") << "nonsense\nzz alice\n" << std::string(300, 'x');
  Open(6, folder_.path());
  EXPECT_EQ(Held(a), 3u);
  EXPECT_EQ(store_->tenants()[""].blocks, 3u);
}

TEST_F(TenantQuotaTest, BooksAgreeWithTheStoreUnderPressure) {
  Open(12, folder_.path(), 16);
  Random random(5);
  for (int round = 0; round < 60; ++round) {
    const uint64_t root = 1 + random.Below(8);
    (void)Put(ChainOf(root, root % 2 == 0 ? "even" : "odd", 1 + random.Below(8)));
    if (random.Below(5) == 0) (void)store_->Remove(TestKey(root * 1000));
    uint64_t bytes = 0;
    for (const auto& [tenant, use] : store_->tenants()) {
      EXPECT_LE(use.bytes, 12 * kBytes) << tenant;
      bytes += use.bytes;
    }
    ASSERT_TRUE(store_->Flush().ok());
    ASSERT_EQ(store_->Keys().size() * kBytes, bytes) << "round " << round;
  }
}

}  // namespace
}  // namespace baton
