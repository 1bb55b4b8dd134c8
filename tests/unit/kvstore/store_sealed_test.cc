// Encryption at rest: the key file, the seal, and what a store does with and without a tenant's key.
#include "base/random.h"
#include "kvstore/block_record.h"
#include "kvstore/key_ring.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 20000;
const std::string kKeyA(64, 'a'), kKeyB(64, 'b'), kKeyC = std::string(63, 'c') + "1";

std::string WriteKeys(const TempFolder& folder, const std::string& text, const std::string& name = "keys") {
  std::ofstream(folder.path(name)) << text;
  return folder.path(name);
}

TEST(KeyRing, ReadsItsFile) {
  TempFolder folder;
  const auto ring = KeyRing::Read(WriteKeys(folder, "# comment\n\nzoe " + kKeyB + "  # hers\ndefault\t" + kKeyA + "\n  adam " + kKeyC + "\n"));
  ASSERT_TRUE(ring.ok()) << ring.status().ToString();
  EXPECT_NE(ring->SlotOf("zoe"), ring->SlotOf("adam"));
  EXPECT_EQ(ring->SlotOf("nobody"), ring->SlotOf("default"));
  EXPECT_EQ(ring->SlotOf(""), ring->SlotOf("default"));
  const SealKey* zoe = ring->at(ring->SlotOf("zoe"));
  ASSERT_NE(zoe, nullptr);
  EXPECT_EQ(zoe->bytes[0], std::byte{0xbb});
  EXPECT_NE(zoe->id, 0u);
  EXPECT_EQ(ring->SlotOfId(zoe->id), ring->SlotOf("zoe"));
  EXPECT_EQ(ring->SlotOfId(zoe->id + 2), 0);
  EXPECT_EQ(ring->at(0), nullptr);
  EXPECT_EQ(KeyRing().SlotOf("zoe"), 0);
}

TEST(KeyRing, RefusesWhatItCannotUse) {
  TempFolder folder;
  EXPECT_EQ(KeyRing::Read(folder.path("absent")).status().code(), StatusCode::kNotFound);
  for (const std::string& text : std::vector<std::string>{"", "adam " + kKeyA, "default " + kKeyA.substr(1), "default", "default " + kKeyA + " more",
                                  "default " + kKeyA + "\ndefault " + kKeyB, "default zz" + kKeyA.substr(2)}) {
    const auto ring = KeyRing::Read(WriteKeys(folder, text));
    EXPECT_EQ(ring.status().code(), StatusCode::kInvalid) << text;
    EXPECT_THAT(ring.status().ToString(), ::testing::HasSubstr("keys"));
    EXPECT_THAT(ring.status().ToString(), ::testing::Not(::testing::HasSubstr(kKeyA.substr(1)))) << "a message tells a key";
  }
}

SealKey Key(const std::string& hex) {
  SealKey key;
  key.bytes = ParseBlockKey(hex)->bytes;
  key.id = 5;
  return key;
}

TEST(Seal, OpensOnlyWithKeyContextAndText) {
  const TestBlock block = MakeTestBlock(1, 5000);
  std::vector<std::byte> head(77, std::byte{3}), body = block.bytes;
  const std::string context = "the header";
  const std::array<MutableBytes, 2> parts = {head, body};
  const auto seal = SealParts(Key(kKeyA), AsBytes(context), parts);
  ASSERT_TRUE(seal.ok());
  EXPECT_NE(body, block.bytes);
  const auto sealed_head = head, sealed_body = body;
  const auto open = [&](const SealKey& key, Seal s, const std::string& c, const std::function<void()>& spoil) {
    head = sealed_head;
    body = sealed_body;
    spoil();
    return OpenParts(key, s, AsBytes(c), parts);
  };
  EXPECT_TRUE(open(Key(kKeyA), *seal, context, [] {}));
  EXPECT_EQ(body, block.bytes);
  EXPECT_FALSE(open(Key(kKeyB), *seal, context, [] {}));
  EXPECT_FALSE(open(Key(kKeyA), *seal, "another header", [] {}));
  EXPECT_FALSE(open(Key(kKeyA), *seal, context, [&] { head[76] ^= std::byte{1}; }));
  EXPECT_FALSE(open(Key(kKeyA), *seal, context, [&] { body[0] ^= std::byte{1}; }));
  Seal other = *seal;
  other.nonce[0] ^= std::byte{1};
  EXPECT_FALSE(open(Key(kKeyA), other, context, [] {}));
  other = *seal;
  other.tag[15] ^= std::byte{1};
  EXPECT_FALSE(open(Key(kKeyA), other, context, [] {}));
}

TEST(Seal, ARecordSurvivesTheRoundAndEveryNonceIsNew) {
  const TestBlock block = MakeTestBlock(4, 9000);
  RecordHeader header;
  header.block = block.header;
  header.raw_bytes = header.stored_bytes = 9000;
  std::set<std::string> texts;
  for (int i = 0; i < 50; ++i) {
    std::vector<std::byte> payload = block.bytes;
    const SealKey key = Key(kKeyA);
    const auto pages = EncodeRecord(header, &key, payload);
    ASSERT_TRUE(pages.ok());
    texts.insert(std::string(AsText(payload)));
    auto decoded = DecodeRecordHeader(*pages);
    ASSERT_TRUE(decoded && decoded->seal);
    EXPECT_TRUE(decoded->block.token_ids.empty() && decoded->block.extra.empty());
    ASSERT_TRUE(OpenRecord(key, *decoded, payload));
    EXPECT_EQ(decoded->block, block.header);
    EXPECT_EQ(payload, block.bytes);
  }
  EXPECT_EQ(texts.size(), 50u);
}

TestBlock Readable(uint64_t name, uint64_t parent, uint32_t depth, const std::string& tenant) {
  TestBlock block = MakeTestBlock(name, kBytes, parent, depth);
  const std::string text = "the secret of block " + std::to_string(name) + " ";
  for (size_t i = 0; i < kBytes; ++i) block.bytes[i] = static_cast<std::byte>(text[i % text.size()]);
  block.header.digest = Xxh3(block.bytes);
  block.header.extra = "extra secret " + std::to_string(name);
  block.header.tenant = depth == 0 ? tenant : "";
  return block;
}

std::vector<TestBlock> TenantChain(uint64_t first, const std::string& tenant) {
  std::vector<TestBlock> chain;
  for (uint32_t depth = 0; depth < 5; ++depth) chain.push_back(Readable(first + depth, depth == 0 ? first + 50 : first + depth - 1, depth, tenant));
  return chain;
}

size_t CountHeld(BlockStore& store, const std::vector<TestBlock>& chain) {
  size_t held = 0;
  for (const TestBlock& block : chain) {
    const auto read = store.Read(block.header.key);
    if (!read.ok()) continue;
    EXPECT_EQ(read->bytes, block.bytes);
    EXPECT_EQ(read->header.token_ids, block.header.token_ids);
    EXPECT_EQ(read->header.extra, block.header.extra);
    ++held;
  }
  return held;
}

TEST(SealedStore, NothingOfABlockIsReadableOnDisk) {
  for (const std::string codec : {"none", "zstd", "lz4", "planes"}) {
    TempFolder folder;
    BlockStoreConfig config = TestConfig(folder.path(), 0);
    config.key_file = WriteKeys(folder, "default " + kKeyA);
    config.compression = codec;
    auto store = OpenTestStore(config);
    const auto chain = TenantChain(100, "");
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kWritten).ok());
    EXPECT_EQ(CountHeld(*store, chain), 5u) << codec;
    const std::string extent = ReadFile(ExtentFiles(folder.path()).at(0));
    EXPECT_EQ(extent.find("secret"), std::string::npos) << codec;
    const std::string ids(AsText(std::as_bytes(std::span(chain[0].header.token_ids))));
    EXPECT_EQ(extent.find(ids), std::string::npos) << "token ids are the user's text";
    store.reset();
    store = OpenTestStore(config);
    EXPECT_EQ(CountHeld(*store, chain), 5u) << codec;
    EXPECT_EQ(store->stats().corrupt, 0u);
  }
}

TEST(SealedStore, DeletingATenantsKeyMakesItsDataMisses) {
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path(), 1 << 20);
  const std::string all = "default " + kKeyA + "\nadam " + kKeyB + "\nzoe " + kKeyC + "\n";
  config.key_file = WriteKeys(folder, all);
  const auto adam = TenantChain(100, "adam"), zoe = TenantChain(200, "zoe"), others = TenantChain(300, "");
  {
    auto store = OpenTestStore(config);
    for (const auto* chain : {&adam, &zoe, &others}) {
      for (const TestBlock& block : *chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    }
  }
  {
    auto store = OpenTestStore(config);
    EXPECT_EQ(CountHeld(*store, adam) + CountHeld(*store, zoe) + CountHeld(*store, others), 15u);
    TestBlock next = Readable(105, 104, 5, "");  // names no tenant: adam's by its chain, also after a restart
    ASSERT_TRUE(store->Put(next.header, next.bytes).ok());
  }
  WriteKeys(folder, "zoe " + kKeyC + "\ndefault " + kKeyA + "\n");  // adam left
  for (int start = 0; start < 2; ++start) {
    auto store = OpenTestStore(config);
    EXPECT_EQ(store->Lookup(KeysOf(adam)), 0u);
    EXPECT_EQ(CountHeld(*store, adam), 0u);
    const BlockKey last = TestKey(105);
    EXPECT_EQ(store->Lookup(std::span(&last, 1)), 0u) << "sealed with another key than its chain";
    EXPECT_EQ(CountHeld(*store, zoe) + CountHeld(*store, others), 10u);
    EXPECT_EQ(store->stats().corrupt, 0u) << "a deleted key is no damage";
    if (start == 1) {
      ASSERT_TRUE(store->Put(adam[0].header, adam[0].bytes, Durability::kSynced).ok());  // now under the default key
    }
  }
  WriteKeys(folder, all);  // a key that comes back finds its blocks gone
  auto store = OpenTestStore(config);
  EXPECT_EQ(CountHeld(*store, adam), 1u);
}

TEST(SealedStore, AFolderIsNotEmptiedBecauseSomeoneForgotTheKeys) {
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path());
  config.key_file = WriteKeys(folder, "default " + kKeyA);
  const auto chain = TenantChain(100, "");
  {
    auto store = OpenTestStore(config);
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  }
  BlockStoreConfig without = config;
  without.key_file = "";
  const auto refused = OpenBlockStore(without);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(refused.status().ToString(), ::testing::HasSubstr("store.key_file"));
  without.read_only = true;  // may look, and sees what it cannot read
  auto looking = OpenTestStore(without);
  EXPECT_EQ(looking->List().size(), 5u);
  EXPECT_EQ(looking->Read(chain[0].header.key).status().code(), StatusCode::kNotFound);
  const auto report = looking->Scrub(0, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->locked, 5u);
  EXPECT_EQ(report->corrupt, 0u);
  looking.reset();
  auto store = OpenTestStore(config);
  EXPECT_EQ(CountHeld(*store, chain), 5u);
}

TEST(SealedStore, PlainBlocksOfBeforeStayReadable) {
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path(), 0);
  const auto before = TenantChain(100, ""), after = TenantChain(200, "");
  {
    auto store = OpenTestStore(config);
    for (const TestBlock& block : before) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  }
  config.key_file = WriteKeys(folder, "default " + kKeyA);
  auto store = OpenTestStore(config);
  for (const TestBlock& block : after) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  EXPECT_EQ(CountHeld(*store, before) + CountHeld(*store, after), 10u);
  ASSERT_TRUE(store->Flush().ok());
  const std::string extent = ReadFile(ExtentFiles(folder.path()).at(0));
  EXPECT_NE(extent.find("secret of block 100"), std::string::npos);
  EXPECT_EQ(extent.find("secret of block 200"), std::string::npos);
}

TEST(SealedStore, DamageIsDetectedAndARebuildKeepsTheSeal) {
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path(), 0);
  config.key_file = WriteKeys(folder, "default " + kKeyA);
  std::vector<TestBlock> blocks;
  {
    auto store = OpenTestStore(config);
    for (uint64_t i = 1; i <= 200; ++i) {
      blocks.push_back(MakeTestBlock(i, kBytes));
      ASSERT_TRUE(store->Put(blocks.back().header, blocks.back().bytes).ok());
    }
  }
  const std::string file = ExtentFiles(folder.path()).at(0), content = ReadFile(file);
  Random random(8);
  for (size_t at = 0, n = 0; at + kPageBytes <= content.size(); at += kPageBytes) {
    if (!DecodeRecordHeader(AsBytes(std::string_view(content).substr(at)))) continue;
    if (n++ % 2 == 0) FlipByte(file, at + (random.Below(2) == 0 ? 16 + random.Below(200) : kPageBytes + random.Below(kBytes)));
  }
  std::filesystem::remove_all(folder.path() + "/index");
  auto store = OpenTestStore(config);
  EXPECT_EQ(store->Keys().size(), 100u);
  EXPECT_EQ(CountHeld(*store, blocks), 100u);
}

}  // namespace
}  // namespace baton
