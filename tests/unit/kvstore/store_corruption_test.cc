// The corruption matrix: every kind of damage, a thousand cases each, on disk, in memory and on the wire; all of it is a miss,
// none of it is ever served, and clean reads raise no alarm.
#include <cstring>

#include "base/random.h"
#include "kvstore/block_pool.h"
#include "kvstore/block_record.h"
#include "kvstore/incoming_transfer.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kCases = 1000, kBytes = 5000;
constexpr uint64_t kPages = 1 + CeilDiv(kBytes, kPageBytes), kRecord = kPages * kPageBytes;

std::vector<TestBlock> Blocks(uint64_t first, size_t n) {
  std::vector<TestBlock> blocks;
  for (size_t i = 0; i < n; ++i) blocks.push_back(MakeTestBlock(first + i, kBytes));
  return blocks;
}

/// What the taker of landed blocks does: the digests made of what arrived against those the producer gave.
Status Taken(BlockPool& pool, const std::vector<BlockId>& ids, const std::vector<Digest128>& given) {
  for (const BlockId id : ids) pool.Ref(id);
  Landed landed{BlockRefs(pool, ids), {}};
  for (const BlockId id : ids) landed.digests.push_back(Xxh3({pool.data(id), pool.block_bytes()}));
  return landed.Verify(given);
}

/// What a record's place holds after the damage.
using Damage = std::function<void(std::string& extent, uint64_t record, Random& random)>;

uint64_t HeaderBytes(const std::string& extent, uint64_t record) {
  uint32_t length = 0;
  std::memcpy(&length, &extent[record + 16], sizeof length);
  return length;
}
/// Changes a header and makes its checksum right again, as no fault would.
void Forge(std::string& extent, uint64_t record, size_t at, uint32_t value) {
  std::memcpy(&extent[record + at], &value, sizeof value);
  const uint64_t sum = Xxh3_64(AsBytes(std::string_view(extent).substr(record + 16, HeaderBytes(extent, record) - 16)));
  std::memcpy(&extent[record + 8], &sum, sizeof sum);
}

const std::map<std::string, Damage>& DiskDamages() {
  static const std::map<std::string, Damage> damages = {
      {"bit_flip", [](std::string& e, uint64_t r, Random& random) { e[r + kPageBytes + random.Below(kBytes)] ^= static_cast<char>(1 << random.Below(8)); }},
      {"zeroed_sector", [](std::string& e, uint64_t r, Random& random) { std::memset(&e[r + kPageBytes + 512 * random.Below(kBytes / 512)], 0, 512); }},
      {"truncation", [](std::string& e, uint64_t r, Random& random) {
         const uint64_t from = random.Below(kPageBytes + kBytes);
         std::memset(&e[r + from], 0, kRecord - from);
       }},
      {"header_bit", [](std::string& e, uint64_t r, Random& random) { e[r + random.Below(HeaderBytes(e, r))] ^= static_cast<char>(1 << random.Below(8)); }},
      {"header_zeroed", [](std::string& e, uint64_t r, Random&) { std::memset(&e[r], 0, 512); }},
      {"header_noise", [](std::string& e, uint64_t r, Random& random) {
         for (uint64_t i = 8; i < 152; ++i) e[r + i] = static_cast<char>(random.Next64());
       }},
      {"wrong_length", [](std::string& e, uint64_t r, Random& random) { Forge(e, r, 104, static_cast<uint32_t>(random.Below(1 << 20))); }},
      {"wrong_stored_length", [](std::string& e, uint64_t r, Random& random) { Forge(e, r, 108, static_cast<uint32_t>(random.Below(kBytes))); }},
      {"wrong_model_or_slice", [](std::string& e, uint64_t r, Random& random) { Forge(e, r, 24 + 4 * random.Below(8), static_cast<uint32_t>(random.Next64())); }},
      {"wrong_codec", [](std::string& e, uint64_t r, Random& random) {
         uint32_t word = 0;
         std::memcpy(&word, &e[r + 20], sizeof word);
         Forge(e, r, 20, (word & 0xff00ffff) | static_cast<uint32_t>(1 + random.Below(255)) << 16);
       }},
      {"wrong_digest", [](std::string& e, uint64_t r, Random& random) { Forge(e, r, 88 + 4 * random.Below(4), static_cast<uint32_t>(random.Next64())); }},
  };
  return damages;
}

void ExpectAllMiss(BlockStore& store, const std::vector<TestBlock>& blocks) {
  for (const TestBlock& block : blocks) {
    const auto read = store.Read(block.header.key);
    ASSERT_FALSE(read.ok()) << "damage was served";
    ASSERT_EQ(read.status().code(), StatusCode::kNotFound);
    ASSERT_EQ(store.Lookup(std::span(&block.header.key, 1)), 0u) << "what does not read is still listed";
  }
}

class OnDisk : public ::testing::TestWithParam<std::string> {};

TEST_P(OnDisk, EveryCaseIsDetected) {
  TempFolder folder;
  const std::vector<TestBlock> blocks = Blocks(1, kCases);
  {
    auto store = OpenTestStore(TestConfig(folder.path()));
    for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  }
  const std::string file = ExtentFiles(folder.path()).at(0);
  std::string extent = ReadFile(file);
  ASSERT_GE(extent.size(), kCases * kRecord - kPageBytes);
  extent.resize(kCases * kRecord);
  Random random(Xxh3_64(AsBytes(GetParam())));
  for (size_t i = 0; i < kCases; ++i) {
    ASSERT_TRUE(FindRecordHeader(AsBytes(std::string_view(extent).substr(i * kRecord))).has_value());
    DiskDamages().at(GetParam())(extent, i * kRecord, random);
  }
  OverwriteFile(file, 0, extent);
  auto store = OpenTestStore(TestConfig(folder.path()));
  ExpectAllMiss(*store, blocks);
  EXPECT_EQ(store->stats().corrupt, kCases);
  EXPECT_EQ(store->stats().quarantined, kCases);
  for (size_t i = 0; i < 20; ++i) ASSERT_TRUE(store->Put(blocks[i].header, blocks[i].bytes).ok());  // service goes on
  for (size_t i = 0; i < 20; ++i) EXPECT_TRUE(Holds(*store, blocks[i]));
}
INSTANTIATE_TEST_SUITE_P(Kinds, OnDisk, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& [name, damage] : DiskDamages()) names.push_back(name);
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

TEST(OnDiskWhole, SwappedRecordsAndOldGenerations) {
  TempFolder folder;
  const std::vector<TestBlock> old = Blocks(5001, kCases), blocks = Blocks(1, kCases);
  {
    auto store = OpenTestStore(TestConfig(folder.path("old")));
    for (const TestBlock& block : old) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  }
  const std::string former = ReadFile(ExtentFiles(folder.path("old")).at(0));
  for (const bool swapped : {true, false}) {
    const std::string path = folder.path(swapped ? "swapped" : "generation");
    {
      auto store = OpenTestStore(TestConfig(path));
      for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    }
    const std::string file = ExtentFiles(path).at(0);
    std::string extent = ReadFile(file);
    extent.resize(kCases * kRecord);
    if (swapped) {
      for (size_t i = 0; i < kCases; i += 2) std::swap_ranges(&extent[i * kRecord], &extent[(i + 1) * kRecord], &extent[(i + 1) * kRecord]);
      OverwriteFile(file, 0, extent);
    } else {
      OverwriteFile(file, 0, former);  // whole, valid records: what stood there before
    }
    auto store = OpenTestStore(TestConfig(path));
    ExpectAllMiss(*store, blocks);
    EXPECT_EQ(store->stats().corrupt, kCases);
  }
}

TEST(InMemory, EveryCaseIsDetected) {
  Random random(2);
  for (const std::string kind : {"bit_flip", "zeroed", "tail_zeroed", "another_blocks_bytes"}) {
    auto store = OpenTestStore(TestConfig("", 64 << 20));
    const std::vector<TestBlock> blocks = Blocks(1, kCases);
    for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    for (size_t i = 0; i < kCases; ++i) {
      const auto view = store->View(blocks[i].header.key);
      ASSERT_TRUE(view.ok());
      auto* bytes = const_cast<std::byte*>(view->bytes.data());
      const size_t at = random.Below(kBytes - 512);
      if (kind == "bit_flip") bytes[at] ^= static_cast<std::byte>(1 << random.Below(8));
      else if (kind == "zeroed") std::memset(bytes + at, 0, 512);
      else if (kind == "tail_zeroed") std::memset(bytes + at, 0, kBytes - at);
      else std::memcpy(bytes, blocks[(i + 1) % kCases].bytes.data(), kBytes);
    }
    std::vector<std::byte> room(kBytes);
    for (size_t i = 0; i < kCases; ++i) {  // by each way to read
      const BlockKey& key = blocks[i].header.key;
      ASSERT_EQ((i % 2 == 0 ? store->ReadInto(key, room, nullptr) : store->View(key).status()).code(), StatusCode::kNotFound) << kind;
    }
    EXPECT_EQ(store->stats().corrupt, kCases) << kind;
    EXPECT_EQ(store->stats().blocks_memory, 0u);
  }
}

TEST(OnTheWire, EveryCaseIsDetectedByTheTakerAndByTheStore) {
  auto memory = BlockPool::Create(2, 8192);
  ASSERT_TRUE(memory.ok()) << memory.status().ToString();
  BlockPool& pool = **memory;
  const auto ids = pool.Allocate(2);
  ASSERT_TRUE(ids.ok());
  auto store = OpenTestStore(TestConfig("", 64 << 20));
  Random random(7);
  for (const std::string kind : {"bit_flip", "zeroed", "cut_short", "swapped", "of_another_transfer", "other_digest"}) {
    for (size_t i = 0; i < kCases; ++i) {
      std::vector<TestBlock> sent = {MakeTestBlock(2 * i + 1, 8192), MakeTestBlock(2 * i + 2, 8192)};
      for (size_t b = 0; b < 2; ++b) std::memcpy(pool.data((*ids)[b]), sent[b].bytes.data(), 8192);
      std::vector<Digest128> digests = {sent[0].header.digest, sent[1].header.digest};
      ASSERT_TRUE(Taken(pool, *ids, digests).ok());
      std::byte* bytes = pool.data((*ids)[0]);
      const size_t at = random.Below(8192 - 512);
      if (kind == "bit_flip") bytes[at] ^= static_cast<std::byte>(1 << random.Below(8));
      else if (kind == "zeroed") std::memset(bytes + at, 0, 512);
      else if (kind == "cut_short") std::memset(bytes + at, 0xcd, 8192 - at);  // what was there before it landed
      else if (kind == "swapped") std::swap_ranges(bytes, bytes + 8192, pool.data((*ids)[1]));
      else if (kind == "of_another_transfer") std::memcpy(bytes, MakeTestBlock(1'000'000 + i, 8192).bytes.data(), 8192);
      else (random.Below(2) == 0 ? digests[0].low : digests[0].high) ^= uint64_t{1} << random.Below(64);
      sent[0].header.digest = digests[0];
      ASSERT_EQ(Taken(pool, *ids, digests).code(), StatusCode::kDataLoss) << kind;
      ASSERT_EQ(store->Put(sent[0].header, {bytes, 8192}).code(), StatusCode::kInvalid) << kind;
    }
  }
  EXPECT_EQ(store->stats().blocks_memory, 0u);
  for (const BlockId id : *ids) pool.Unref(id);
}

// 10 M with BATON_CLEAN_READS=10000000.
TEST(Clean, ReadsRaiseNoAlarm) {
  const char* text = std::getenv("BATON_CLEAN_READS");
  const uint64_t reads = text != nullptr ? std::strtoull(text, nullptr, 10) : 300'000;
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path(), 1 << 20);  // half of it fits in memory
  auto store = OpenTestStore(config);
  std::vector<TestBlock> blocks;
  for (uint64_t i = 1; i <= 4096; ++i) blocks.push_back(MakeTestBlock(i, 512));
  for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  ASSERT_TRUE(store->Flush().ok());
  Random random(3);
  std::vector<std::byte> room(512);
  for (uint64_t i = 0; i < reads; ++i) {
    const TestBlock& block = blocks[random.Below(blocks.size())];
    ASSERT_TRUE(store->ReadInto(block.header.key, room, nullptr).ok()) << "read " << i;
    ASSERT_TRUE(i % 64 != 0 || room == block.bytes);
  }
  EXPECT_EQ(store->stats().corrupt, 0u);
  EXPECT_GT(store->stats().hits_disk, reads / 10);
  EXPECT_GT(store->stats().hits_memory, reads / 10);
}

}  // namespace
}  // namespace baton
