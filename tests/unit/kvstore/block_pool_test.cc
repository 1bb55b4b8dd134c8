#include "kvstore/block_pool.h"

#include <cstring>
#include <set>

#include "base/random.h"

namespace baton {
namespace {

BlockKey Key(uint64_t n) {
  BlockKey key;
  key.bytes = Sha256(AsBytes(std::to_string(n)));
  return key;
}

std::vector<BlockKey> Chain(uint64_t name, size_t n) {
  std::vector<BlockKey> out;
  for (size_t i = 0; i < n; ++i) out.push_back(Key(name * 1000 + i + 1));
  return out;
}

std::unique_ptr<BlockPool> MakePool(size_t blocks, size_t block_bytes = 64) {
  auto pool = BlockPool::Create(blocks, block_bytes);
  EXPECT_TRUE(pool.ok()) << pool.status().ToString();
  return std::move(pool).value();
}

/// Allocates and publishes a chain, one reference on each block.
std::vector<BlockId> PublishChain(BlockPool& pool, const std::vector<BlockKey>& chain) {
  auto ids = pool.Allocate(chain.size());
  EXPECT_TRUE(ids.ok()) << ids.status().ToString();
  for (size_t i = 0; i < chain.size(); ++i) {
    EXPECT_EQ(pool.Publish((*ids)[i], chain[i], i ? chain[i - 1] : Key(0), {i, i}), (*ids)[i]);
  }
  return *ids;
}

void UnrefAll(BlockPool& pool, const std::vector<BlockId>& ids) {
  for (const BlockId id : ids) pool.Unref(id);
}

TEST(BlockPool, RefusesWhatCannotBeMapped) {
  EXPECT_EQ(BlockPool::Create(0, 64).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(BlockPool::Create(64, 0).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(BlockPool::Create(1ull << 32, 64).status().code(), StatusCode::kInvalid);
  const Status overflow = BlockPool::Create(1 << 20, 1ull << 50).status();
  EXPECT_EQ(overflow.code(), StatusCode::kExhausted);
  const Status huge = BlockPool::Create(1 << 20, 1ull << 40).status();
  EXPECT_EQ(huge.code(), StatusCode::kExhausted);
  EXPECT_NE(huge.message().find("1048576 blocks"), std::string::npos) << huge.message();
}

TEST(BlockPool, ALargeArenaCostsNothingUntilTouched) {
  auto pool = BlockPool::Create(1 << 16, 1 << 20, BlockPoolOptions{.huge_pages = true});  // 64 GiB of addresses
  ASSERT_TRUE(pool.ok()) << pool.status().ToString();
  EXPECT_EQ((*pool)->arena().size(), 64_GiB);
  auto ids = (*pool)->Allocate(1);
  ASSERT_TRUE(ids.ok());
  (*pool)->data((*ids)[0])[12345] = std::byte{7};
  EXPECT_EQ((*pool)->arena()[ids->at(0).value * (*pool)->block_bytes() + 12345], std::byte{7});
}

TEST(BlockPool, AllocatesAllOrNothing) {
  auto pool = MakePool(4);
  auto three = pool->Allocate(3);
  ASSERT_TRUE(three.ok());
  EXPECT_EQ(std::set<BlockId>(three->begin(), three->end()).size(), 3u);
  const Status full = pool->Allocate(2).status();
  EXPECT_EQ(full.code(), StatusCode::kExhausted);
  EXPECT_EQ(pool->stats().free, 1u);
  UnrefAll(*pool, *three);
  EXPECT_EQ(pool->stats().free, 4u);
  EXPECT_TRUE(pool->Allocate(4).ok());
  EXPECT_TRUE(pool->Allocate(0).ok());
}

TEST(BlockPool, AReferenceKeepsAPrivateBlockTheLastOneFreesIt) {
  auto pool = MakePool(1);
  auto ids = pool->Allocate(1);
  pool->Ref((*ids)[0]);
  pool->Unref((*ids)[0]);
  EXPECT_EQ(pool->stats().referenced, 1u);
  pool->Unref((*ids)[0]);
  EXPECT_EQ(pool->stats().free, 1u);
}

TEST(BlockPool, LookupGivesTheLongestPrefixAndCounts) {
  auto pool = MakePool(8);
  const auto chain = Chain(1, 4);
  const auto ids = PublishChain(*pool, {chain.begin(), chain.begin() + 3});
  EXPECT_EQ(pool->Peek(chain), 3u);
  EXPECT_EQ(pool->stats().hits, 0u);
  const auto found = pool->Lookup(chain);
  EXPECT_EQ(found, ids);
  EXPECT_EQ(pool->stats().hits, 3u);
  EXPECT_EQ(pool->stats().misses, 1u);
  EXPECT_TRUE(pool->Lookup(Chain(2, 2)).empty());
  EXPECT_EQ(pool->DigestOf(ids[1]), (Digest128{1, 1}));
  const auto own = pool->Allocate(1);
  EXPECT_EQ(pool->DigestOf((*own)[0]), std::nullopt);
  UnrefAll(*pool, ids);
  EXPECT_EQ(pool->stats().cached, 0u);  // the look-up's references hold them
  UnrefAll(*pool, found);
  EXPECT_EQ(pool->stats().cached, 3u);
}

TEST(BlockPool, TheFirstPublishedBlockOfAKeyStays) {
  auto pool = MakePool(4);
  const auto ids = pool->Allocate(2);
  EXPECT_EQ(pool->Publish((*ids)[0], Key(5), Key(0), {1, 2}), (*ids)[0]);
  EXPECT_EQ(pool->Publish((*ids)[0], Key(5), Key(0), {1, 2}), (*ids)[0]);  // again: nothing happens
  EXPECT_EQ(pool->Publish((*ids)[1], Key(5), Key(0), {1, 2}), (*ids)[0]);
  EXPECT_EQ(pool->DrainEvents().size(), 1u);
  pool->Unref((*ids)[1]);
  EXPECT_EQ(pool->stats().free, 3u);  // it stayed private
  EXPECT_EQ(pool->Keys(), std::vector<BlockKey>{Key(5)});
}

TEST(BlockPool, EvictsTheOldestChainTailFirst) {
  auto pool = MakePool(6);
  const auto a = Chain(1, 3), b = Chain(2, 3);
  const auto ids_a = PublishChain(*pool, a), ids_b = PublishChain(*pool, b);
  UnrefAll(*pool, ids_a);
  UnrefAll(*pool, ids_b);
  pool->DrainEvents();
  std::vector<BlockKey> gone;
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(pool->Allocate(1).ok());
    const auto events = pool->DrainEvents();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_FALSE(events[0].added);
    gone.push_back(events[0].key);
  }
  EXPECT_EQ(gone, (std::vector<BlockKey>{a[2], a[1], a[0], b[2], b[1], b[0]}));
  EXPECT_EQ(pool->stats().evictions, 6u);
}

TEST(BlockPool, UseRenewsAPeekDoesNot) {
  auto pool = MakePool(4);
  const auto a = Chain(1, 2), b = Chain(2, 2);
  UnrefAll(*pool, PublishChain(*pool, a));
  UnrefAll(*pool, PublishChain(*pool, b));
  EXPECT_EQ(pool->Peek(b), 2u);
  UnrefAll(*pool, pool->Lookup(a));
  EXPECT_EQ(pool->Peek(b), 2u);
  ASSERT_TRUE(pool->Allocate(2).ok());
  EXPECT_EQ(pool->Peek(a), 2u);
  EXPECT_EQ(pool->Peek(b), 0u);
}

TEST(BlockPool, ABlockOutlivesItsReferencedChild) {
  auto pool = MakePool(3);
  const auto chain = Chain(1, 3);
  const auto ids = PublishChain(*pool, chain);
  pool->Unref(ids[0]);  // only the last block stays referenced: its ancestors cannot go
  pool->Unref(ids[1]);
  EXPECT_EQ(pool->stats().cached, 2u);
  EXPECT_EQ(pool->Allocate(1).status().code(), StatusCode::kExhausted);
  EXPECT_EQ(pool->Peek(chain), 3u);
  pool->Unref(ids[2]);
  EXPECT_TRUE(pool->Allocate(3).ok());
}

TEST(BlockPool, ChildrenPublishedBeforeTheirParentCount) {
  auto pool = MakePool(2);
  const auto ids = pool->Allocate(2);
  pool->Publish((*ids)[1], Key(2), Key(1), {});
  pool->Publish((*ids)[0], Key(1), Key(0), {});
  pool->Unref((*ids)[0]);
  EXPECT_EQ(pool->Allocate(1).status().code(), StatusCode::kExhausted);
  pool->Unref((*ids)[1]);
  pool->DrainEvents();
  ASSERT_TRUE(pool->Allocate(1).ok());
  EXPECT_EQ(pool->DrainEvents().at(0).key, Key(2));
}

TEST(BlockPool, UndrainedEventsAreBoundedAndKeepTheNetChange) {
  auto pool = MakePool(2);
  std::set<BlockKey> view;
  for (uint64_t i = 0; i < 5000; ++i) {
    auto ids = pool->Allocate(1);
    ASSERT_TRUE(ids.ok());
    pool->Publish((*ids)[0], Key(i + 10), Key(0), {});
    pool->Unref((*ids)[0]);
  }
  const auto events = pool->DrainEvents();
  EXPECT_LT(events.size(), 1100u);
  for (const auto& e : events) {
    if (e.added) {
      EXPECT_TRUE(view.insert(e.key).second);
    } else {
      EXPECT_EQ(view.erase(e.key), 1u);
    }
  }
  const auto keys = pool->Keys();
  EXPECT_EQ(view, std::set<BlockKey>(keys.begin(), keys.end()));
}

// A model with sets and linear searches instead of counters; both are driven by the same random operations.
struct Model {
  struct Block {
    uint32_t refs = 0;
    bool published = false;
    BlockKey key, parent;
    uint64_t used = 0;
  };
  std::map<BlockId, Block> blocks;  // allocated only
  size_t total = 0;
  uint64_t tick = 0;

  const Block* Find(const BlockKey& key) const {
    for (const auto& [id, b] : blocks) {
      if (b.published && b.key == key) return &b;
    }
    return nullptr;
  }
  bool Busy(const Block& b) const {
    if (b.refs > 0) return true;
    for (const auto& [id, c] : blocks) {
      if (c.published && c.parent == b.key && Busy(c)) return true;
    }
    return false;
  }
  size_t Evictable() const {
    size_t n = 0;
    for (const auto& [id, b] : blocks) n += b.published && !Busy(b);
    return n;
  }
  std::optional<BlockId> Victim() const {
    std::optional<BlockId> best;
    for (const auto& [id, b] : blocks) {
      if (!b.published || b.refs > 0) continue;
      bool leaf = true;
      for (const auto& [other, c] : blocks) leaf = leaf && !(c.published && c.parent == b.key);
      if (leaf && (!best || b.used < blocks.at(*best).used)) best = id;
    }
    return best;
  }
};

TEST(BlockPool, AgreesWithASimpleModelUnderRandomOperations) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    const size_t total = 3 + random.Below(14);
    auto pool = MakePool(total);
    Model model;
    model.total = total;
    std::vector<BlockId> held;  // one entry a reference
    for (int step = 0; step < 1500; ++step) {
      const uint64_t op = random.Below(10);
      if (op < 3) {
        const size_t n = 1 + random.Below(3);
        const bool fits = n <= (total - model.blocks.size()) + model.Evictable();
        std::set<BlockKey> expect_gone;
        if (fits) {
          while (total - model.blocks.size() < n) {
            const auto victim = model.Victim();
            ASSERT_TRUE(victim.has_value());
            expect_gone.insert(model.blocks.at(*victim).key);
            model.blocks.erase(*victim);
          }
        }
        const auto ids = pool->Allocate(n);
        ASSERT_EQ(ids.ok(), fits) << "seed " << seed << " step " << step;
        std::set<BlockKey> gone;
        for (const auto& e : pool->DrainEvents()) {
          if (!e.added) gone.insert(e.key);
        }
        ASSERT_EQ(gone, expect_gone);
        if (!fits) continue;
        for (const BlockId id : *ids) {
          ASSERT_FALSE(model.blocks.contains(id));
          model.blocks[id].refs = 1;
          held.push_back(id);
        }
      } else if (op < 6 && !held.empty()) {  // release
        const size_t i = random.Below(held.size());
        auto& block = model.blocks.at(held[i]);
        pool->Unref(held[i]);
        if (--block.refs == 0) {
          block.used = ++model.tick;
          if (!block.published) model.blocks.erase(held[i]);
        }
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
      } else if (op < 8 && !held.empty()) {  // publish under a key of a binary tree, so chains share prefixes
        const BlockId id = held[random.Below(held.size())];
        auto& block = model.blocks.at(id);
        if (block.published) continue;
        const uint64_t node = 1 + random.Below(24);
        const BlockKey key = Key(node), parent = Key(node / 2);
        const BlockId got = pool->Publish(id, key, parent, {});
        if (const auto* other = model.Find(key)) {
          ASSERT_EQ(&model.blocks.at(got), other);
        } else {
          ASSERT_EQ(got, id);
          block.published = true;
          block.key = key;
          block.parent = parent;
        }
        pool->DrainEvents();
      } else {  // look up the path from the root to a node
        std::vector<BlockKey> chain;
        for (uint64_t node = 1 + random.Below(24); node > 0; node /= 2) chain.insert(chain.begin(), Key(node));
        size_t expect = 0;
        while (expect < chain.size() && model.Find(chain[expect])) ++expect;
        ASSERT_EQ(pool->Peek(chain), expect);
        const auto ids = pool->Lookup(chain);
        ASSERT_EQ(ids.size(), expect);
        for (size_t i = 0; i < ids.size(); ++i) {
          ASSERT_EQ(model.blocks.at(ids[i]).key, chain[i]);
          ++model.blocks.at(ids[i]).refs;
          held.push_back(ids[i]);
        }
      }
      const auto s = pool->stats();
      size_t referenced = 0;
      for (const auto& [id, b] : model.blocks) referenced += b.refs > 0;
      ASSERT_EQ(s.referenced, referenced) << "seed " << seed << " step " << step;
      ASSERT_EQ(s.cached, model.blocks.size() - referenced);
      ASSERT_EQ(s.free, total - model.blocks.size());
    }
  }
}

TEST(BlockPool, ThreadsNeverShareAPrivateBlockNorSeeAForeignOne) {
  constexpr int kThreads = 4;
  auto pool = MakePool(48, 256);
  std::atomic<uint64_t> wrong{0}, reused{0};
  auto work = [&](uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < 2000; ++i) {
      const auto chain = Chain(random.Below(12), 1 + random.Below(6));
      auto ids = pool->Lookup(chain);
      reused += ids.size();
      for (size_t k = 0; k < ids.size(); ++k) {
        if (std::memcmp(pool->data(ids[k]), chain[k].bytes.data(), 32) != 0) ++wrong;
      }
      const size_t have = ids.size();
      auto fresh = pool->Allocate(chain.size() - have);
      if (fresh.ok()) {
        for (size_t k = have; k < chain.size(); ++k) {
          const BlockId id = (*fresh)[k - have];
          for (size_t at = 0; at < 256; at += 32) std::memcpy(pool->data(id) + at, chain[k].bytes.data(), 32);
          if (std::memcmp(pool->data(id) + 224, chain[k].bytes.data(), 32) != 0) ++wrong;
          pool->Publish(id, chain[k], k ? chain[k - 1] : Key(0), {});
          ids.push_back(id);
        }
      }
      UnrefAll(*pool, ids);
      if (i % 100 == 0) pool->DrainEvents();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back(work, t + 1);
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(reused, 0u);
  const auto s = pool->stats();
  EXPECT_EQ(s.referenced, 0u);
  EXPECT_EQ(s.cached + s.free, 48u);
}

}  // namespace
}  // namespace baton
