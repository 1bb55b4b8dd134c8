#include "base/peer_proof.h"

#include <set>

namespace baton {
namespace {

TEST(PeerProof, OnlyOneByteOrderIsOurs) {
  EXPECT_TRUE(CheckByteOrder(kByteOrderMark).ok());
  EXPECT_THAT(CheckByteOrder(0x04030201).message(), ::testing::HasSubstr("another byte order"));
  EXPECT_THAT(CheckByteOrder(0).message(), ::testing::HasSubstr("not Baton"));
}

TEST(PeerProof, TheNewestCommonVersionOrBothRanges) {
  for (uint16_t mine = 1; mine <= 6; ++mine) {
    for (uint16_t theirs = 1; theirs <= 6; ++theirs) {
      // Each release speaks its own version and the one before it.
      const auto common = CommonVersion({.newest = mine, .oldest = static_cast<uint16_t>(mine - 1)}, {.newest = theirs, .oldest = static_cast<uint16_t>(theirs - 1)}, "x");
      const bool meet = std::abs(mine - theirs) <= 1;
      ASSERT_EQ(common.ok(), meet) << mine << " and " << theirs;
      if (meet) {
        EXPECT_EQ(*common, std::min(mine, theirs));
      } else {
        EXPECT_THAT(common.status().message(), ::testing::HasSubstr(fmt::format("{} to {} over there", theirs - 1, theirs)));
      }
    }
  }
  EXPECT_FALSE(CommonVersion({.newest = 3, .oldest = 2}, {.newest = 65535, .oldest = 65535}, "x").ok());
  EXPECT_FALSE(CommonVersion({.newest = 3, .oldest = 2}, {.newest = 0, .oldest = 0}, "x").ok());
}

TEST(PeerProof, NoncesAreFresh) {
  std::set<Nonce> seen;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(seen.insert(MakeNonce()).second);
}

TEST(PeerProof, EverythingItIsMadeOfCounts) {
  const Nonce a = MakeNonce(), b = MakeNonce();
  std::set<Digest256> proofs = {MakeProof("key", "channel", ProofSide::kDialler, a, b, "who")};
  EXPECT_TRUE(proofs.insert(MakeProof("kez", "channel", ProofSide::kDialler, a, b, "who")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("key", "chann", ProofSide::kDialler, a, b, "elwho")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("key", "channel", ProofSide::kListener, a, b, "who")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("key", "channel", ProofSide::kDialler, b, a, "who")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("key", "channel", ProofSide::kDialler, a, a, "who")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("key", "channel", ProofSide::kDialler, a, b, "whoever")).second);
  EXPECT_TRUE(proofs.insert(MakeProof("", "channel", ProofSide::kDialler, a, b, "who")).second);
  EXPECT_FALSE(proofs.insert(MakeProof("key", "channel", ProofSide::kDialler, a, b, "who")).second) << "and nothing else";
}

TEST(PeerProof, ComparesWholeProofs) {
  const Digest256 proof = MakeProof("key", "channel", ProofSide::kDialler, {}, {}, "");
  EXPECT_TRUE(SameProof(proof, proof));
  EXPECT_FALSE(SameProof(proof, Bytes(proof).first(31)));
  EXPECT_FALSE(SameProof(proof, {}));
  for (size_t at = 0; at < proof.size(); ++at) {
    Digest256 other = proof;
    other[at] ^= std::byte{1};
    EXPECT_FALSE(SameProof(proof, other)) << at;
  }
}

}  // namespace
}  // namespace baton
