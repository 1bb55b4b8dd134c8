// The file in which a store keeps whose chains are whose: it is appended to while power may go, so any end of it may be there at the
// next start. A lost name costs a name; no chain may be counted to another tenant, and what is written later must be read.
#include <fstream>
#include <set>

#include "base/random.h"
#include "kvstore/tenant_books.h"
#include "store_support.h"

namespace baton {
namespace {

struct Named {
  BlockKey root;
  std::string name;
};
Named NameOf(uint64_t i) { return {TestKey(7000 + i), i % 3 == 0 ? "bob" : "tenant-" + std::to_string(i)}; }

class TenantNames : public ::testing::Test {
 protected:
  /// Books over the file as it is now.
  struct Books {
    explicit Books(TenantNames& test, bool read_only = false) { books.Open(*test.files_, test.path_, read_only); }
    std::string Of(const Named& n) const { return books.name(books.Of(n.root)); }
    BlockIndex index;
    TenantBooks books{index};
  };
  void Write(const std::string& text) { std::ofstream(path_, std::ios::binary | std::ios::trunc) << text; }
  std::string Text() const { return ReadFile(path_); }

  TempFolder folder_;
  const std::string path_ = folder_.path("tenants");
  const std::unique_ptr<FileLayer> files_ = MakeSystemFiles();
};

TEST_F(TenantNames, AreOneLineEach) {
  {
    Books books(*this);
    for (uint64_t i = 0; i < 3; ++i) books.books.Name(NameOf(i).root, NameOf(i).name);
    books.books.Name(NameOf(1).root, "another");  // the first word counts
  }
  std::string expected;
  for (uint64_t i = 0; i < 3; ++i) expected += NameOf(i).root.ToHex() + " " + NameOf(i).name + "\n";
  EXPECT_EQ(Text(), expected);
  Books again(*this);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(again.Of(NameOf(i)), NameOf(i).name);
}

TEST_F(TenantNames, EveryTornEndCostsItsOwnNameOnly) {
  std::string whole;
  for (uint64_t i = 0; i < 3; ++i) whole += NameOf(i).root.ToHex() + " " + NameOf(i).name + "\n";
  const size_t line = whole.size() / 3 - 12;
  for (size_t cut = 2 * line; cut <= whole.size(); ++cut) {
    Write(whole.substr(0, cut));
    {
      Books books(*this);
      for (uint64_t i = 0; i < 3; ++i) {
        const size_t end = whole.find(NameOf(i).root.ToHex()) + 64 + 1 + NameOf(i).name.size() + 1;
        EXPECT_EQ(books.Of(NameOf(i)), end <= cut ? NameOf(i).name : "") << "cut at " << cut << ", name " << i;
      }
      for (uint64_t i = 10; i < 13; ++i) books.books.Name(NameOf(i).root, NameOf(i).name);
      books.books.Name(NameOf(2).root, NameOf(2).name);  // its chain is put again
    }
    Books again(*this);
    for (const uint64_t i : {2, 10, 11, 12}) ASSERT_EQ(again.Of(NameOf(i)), NameOf(i).name) << "cut at " << cut << ": what was written after it is whole";
  }
}

/// Blocks of a file that the disk had given and never written read as zeros after a power loss.
TEST_F(TenantNames, ATailOfZerosIsNoName) {
  const std::string first = NameOf(1).root.ToHex() + " " + NameOf(1).name + "\n";
  for (const size_t zeros : {1u, 63u, 64u, 80u, 4096u}) {
    Write(first + std::string(zeros, '\0'));
    {
      Books books(*this);
      EXPECT_EQ(books.Of(NameOf(1)), NameOf(1).name);
      books.books.Name(NameOf(2).root, NameOf(2).name);
    }
    Books again(*this);
    EXPECT_EQ(again.Of(NameOf(1)), NameOf(1).name);
    EXPECT_EQ(again.Of(NameOf(2)), NameOf(2).name) << zeros << " zeros";
  }
}

TEST_F(TenantNames, LinesThatAreNoneArePassedOver) {
  const std::string hex = NameOf(1).root.ToHex(), upper = [&] {
    std::string out = hex;
    for (char& c : out) c = static_cast<char>(std::toupper(c));
    return out;
  }();
  for (const std::string& line : {std::string(), std::string(" "), hex, hex + " ", hex + " two words", hex.substr(1) + " bob", "0" + hex + " bob", "x" + hex.substr(1) + " bob",
                                  hex + "\tbob", " " + hex + " bob", hex + " " + std::string(100'000, 'n'), hex + " bob\r"}) {
    Write(line + "\n" + NameOf(2).root.ToHex() + " alice\n");
    Books books(*this);
    EXPECT_EQ(books.Of(NameOf(1)), "") << line.substr(0, 90);
    EXPECT_EQ(books.Of(NameOf(2)), "alice") << "behind \"" << line.substr(0, 90) << '"';
  }
  Write(upper + " bob\n");
  EXPECT_EQ(Books(*this).Of(NameOf(1)), "bob") << "hex of either case";
}

TEST_F(TenantNames, ALookFromOutsideWritesNothing) {
  const std::string text = NameOf(1).root.ToHex() + " bob\n" + "torn";
  Write(text);
  {
    Books books(*this, true);
    EXPECT_EQ(books.Of(NameOf(1)), "bob");
    books.books.Name(NameOf(2).root, "alice");
    EXPECT_EQ(books.Of(NameOf(2)), "alice") << "for itself";
  }
  EXPECT_EQ(Text(), text);
}

TEST_F(TenantNames, AFileThatCannotBeWrittenKeepsNamesForThisProcess) {
  FaultyFiles faulty;
  faulty.writes_until_error = 1;
  BlockIndex index;
  TenantBooks books(index);
  books.Open(faulty, path_, false);
  for (uint64_t i = 1; i < 4; ++i) books.Name(NameOf(i).root, NameOf(i).name);
  for (uint64_t i = 1; i < 4; ++i) EXPECT_EQ(books.name(books.Of(NameOf(i).root)), NameOf(i).name);
  faulty.writes_until_error = -1;
  books.Name(NameOf(4).root, NameOf(4).name);
  Books again(*this);
  EXPECT_EQ(again.Of(NameOf(1)), NameOf(1).name);
  EXPECT_EQ(again.Of(NameOf(2)), "") << "its write failed";
  EXPECT_EQ(again.Of(NameOf(4)), NameOf(4).name) << "and left no hole";
}

TEST_F(TenantNames, NamesThatCouldNotBeReadAreNotTaken) {
  Books books(*this);
  for (const std::string& name : {std::string(), std::string("two words"), std::string("line\nbreak"), std::string("tab\t"), std::string("cr\r"), std::string(100'000, 'n')}) {
    books.books.Name(NameOf(1).root, name);
    EXPECT_EQ(books.Of(NameOf(1)), "") << name.substr(0, 20);
  }
  EXPECT_EQ(Text(), "");
  books.books.Name(NameOf(1).root, "bob");
  EXPECT_EQ(books.Of(NameOf(1)), "bob") << "a refused name takes no place";
}

/// Many lives, each ended at a random byte of what it had written.
TEST_F(TenantNames, RandomLivesNeverMixTenants) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    Write("");
    std::set<uint64_t> safe;  // written whole before a cut
    for (int life = 0; life < 10; ++life) {
      std::set<uint64_t> written;
      const size_t before = Text().size();
      {
        Books books(*this);
        for (uint64_t i = 0; i < 40; ++i) {
          const std::string read = books.Of(NameOf(i));
          ASSERT_TRUE(read.empty() || read == NameOf(i).name) << "seed " << seed << ", life " << life;
          ASSERT_TRUE(!safe.contains(i) || !read.empty()) << "seed " << seed << ", life " << life << ": a whole line was lost";
        }
        for (uint64_t n = random.Below(6); n > 0; --n) {
          const uint64_t i = random.Below(40);
          books.books.Name(NameOf(i).root, NameOf(i).name);
          written.insert(i);
        }
      }
      const std::string text = Text();
      const size_t kept = text.size() > before ? before + random.Below(text.size() - before + 1) : text.size();
      Write(text.substr(0, kept));
      for (const uint64_t i : written) {
        if (text.find(NameOf(i).root.ToHex() + " " + NameOf(i).name + "\n") + 66 + NameOf(i).name.size() <= kept) safe.insert(i);
      }
    }
  }
}

/// A block that no tenant may ever have must not cost the tenant what it has.
TEST(TenantRoom, AHopelessPutEvictsNothing) {
  constexpr size_t kBytes = 4096;
  BlockStoreConfig config = TestConfig("", 64 * kBytes);
  config.tenant_bytes = 4 * kBytes;
  auto store = OpenTestStore(config);
  const auto chain = MakeTestChain(100, 4, kBytes);
  for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  const TestBlock huge = MakeTestBlock(500, 5 * kBytes);
  const Status refused = store->Put(huge.header, huge.bytes);
  EXPECT_EQ(refused.code(), StatusCode::kExhausted);
  EXPECT_THAT(refused.message(), ::testing::HasSubstr("store.tenant_bytes"));
  EXPECT_EQ(store->Lookup(KeysOf(chain)), 4u);
  EXPECT_EQ(store->stats().evictions, 0u);
  const TestBlock just = MakeTestBlock(501, 4 * kBytes);
  EXPECT_TRUE(store->Put(just.header, just.bytes).ok()) << "all of it may be one block";
  EXPECT_EQ(store->Lookup(KeysOf(chain)), 0u);
}

}  // namespace
}  // namespace baton
