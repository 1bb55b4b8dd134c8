#include "app/warm_plan.h"

#include <random>

#include "tests/support/test_pch.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

constexpr uint32_t kBlock = 4;

BlockKey Root(const std::string& tenant) { return RootKey({{}, "layout", "exact", tenant}); }

/// A prompt whose blocks are named by letters; a lower-case letter stands for a part of a block.
std::vector<TokenId> Prompt(const std::string& letters) {
  std::vector<TokenId> tokens;
  for (const char c : letters) tokens.insert(tokens.end(), c >= 'a' ? kBlock - 1 : kBlock, c);
  return tokens;
}

class WarmPlanTest : public ::testing::Test {
 protected:
  size_t Add(const std::string& letters, const std::string& tenant = "") { return plan_.Add(Root(tenant), tenant, Prompt(letters)); }
  /// The letters of all blocks up to a step's last one.
  std::string Name(uint32_t block) const {
    std::string name;
    const auto tokens = plan_.Tokens(block);
    for (size_t i = 0; i < tokens.size(); i += kBlock) name += static_cast<char>(tokens[i]);
    return name;
  }
  /// "ABC/2<0": the prefix ABC, of which the step computes two blocks, after step 0.
  std::vector<std::string> Steps(uint32_t max_blocks = 100) const {
    std::vector<std::string> out;
    for (const WarmStep& s : plan_.Steps(max_blocks)) {
      out.push_back(Name(s.last) + "/" + std::to_string(s.blocks) + (s.follows ? "<" + std::to_string(*s.follows) : ""));
    }
    return out;
  }
  WarmPlan plan_{kBlock};
};

TEST_F(WarmPlanTest, OnlyFullBlocksCount) {
  EXPECT_EQ(Add("ABc"), 2u);
  EXPECT_EQ(Add("d"), 0u);
  EXPECT_EQ(Add(""), 0u);
  EXPECT_EQ(plan_.blocks(), 2u);
  EXPECT_THAT(Steps(), ElementsAre("AB/2"));
}

TEST_F(WarmPlanTest, SharedBlocksAreComputedOnceAndFirst) {
  Add("ABCD");
  Add("ABCEF");
  EXPECT_EQ(plan_.blocks(), 6u);
  EXPECT_THAT(Steps(), ElementsAre("ABC/3", "ABCEF/2<0", "ABCD/1<0"));
}

TEST_F(WarmPlanTest, APrefixOfAnotherPromptIsNoStepOfItsOwn) {
  Add("AB");
  Add("ABCD");
  Add("ABCD");
  EXPECT_THAT(Steps(), ElementsAre("ABCD/4"));
  EXPECT_EQ(plan_.Ends().size(), 1u);
}

TEST_F(WarmPlanTest, TheOrderOfLinesDoesNotMatterForTheBlocks) {
  for (const char* line : {"ABCD", "AX", "ABCE", "QR"}) Add(line);
  WarmPlan backwards(kBlock);
  for (const char* line : {"QR", "ABCE", "AX", "ABCD"}) backwards.Add(Root(""), "", Prompt(line));
  EXPECT_EQ(backwards.blocks(), plan_.blocks());
  EXPECT_THAT(Steps(), ElementsAre("A/1", "ABC/2<0", "ABCD/1<1", "ABCE/1<1", "QR/2", "AX/1<0"));
}

TEST_F(WarmPlanTest, MostUsedThenLongestFirst) {
  Add("PQ");
  Add("LMNO");
  Add("S");
  for (int i = 0; i < 3; ++i) Add("U");
  EXPECT_THAT(Steps(), ElementsAre("U/1", "LMNO/4", "PQ/2", "S/1"));
}

TEST_F(WarmPlanTest, TheSameTokensOfAnotherTenantAreOtherBlocks) {
  Add("AB", "red");
  Add("AB", "blue");
  ASSERT_EQ(plan_.blocks(), 4u);
  const auto steps = plan_.Steps(100);
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(plan_.Tenant(steps[0].last), "red");
  EXPECT_EQ(plan_.Tenant(steps[1].last), "blue");
  EXPECT_NE(plan_.Keys(steps[0].last, 2), plan_.Keys(steps[1].last, 2));
  EXPECT_EQ(plan_.Keys(steps[0].last, 2), KeyChain(Root("red"), Prompt("AB"), kBlock));
}

TEST_F(WarmPlanTest, HeldBlocksAreLeftOut) {
  Add("ABCD");
  Add("ABCE");
  for (const uint32_t end : plan_.Ends()) plan_.MarkHeld(end, Name(end) == "ABCD" ? 4 : 3);
  EXPECT_EQ(plan_.held(), 4u) << "shared blocks count once";
  EXPECT_THAT(Steps(), ElementsAre("ABCE/1"));
  for (const uint32_t end : plan_.Ends()) plan_.MarkHeld(end, 100);
  EXPECT_THAT(Steps(), ElementsAre());
  EXPECT_EQ(plan_.held(), plan_.blocks());
}

TEST_F(WarmPlanTest, NothingHeldMarksNothing) {
  Add("ABCD");
  plan_.MarkHeld(plan_.Ends()[0], 0);
  EXPECT_EQ(plan_.held(), 0u);
  EXPECT_THAT(Steps(), ElementsAre("ABCD/4"));
}

TEST_F(WarmPlanTest, ABranchWithOneHeldChildIsStillABranch) {
  Add("AB");
  Add("ACD");
  for (const uint32_t end : plan_.Ends()) plan_.MarkHeld(end, Name(end) == "AB" ? 2 : 1);
  EXPECT_THAT(Steps(), ElementsAre("ACD/2"));
}

TEST_F(WarmPlanTest, LongStepsAreCut) {
  Add("ABCDE");
  EXPECT_THAT(Steps(2), ElementsAre("AB/2", "ABCD/2<0", "ABCDE/1<1"));
  EXPECT_THAT(Steps(1), ElementsAre("A/1", "AB/1<0", "ABC/1<1", "ABCD/1<2", "ABCDE/1<3"));
}

TEST_F(WarmPlanTest, KeysAreThoseOfTheChain) {
  Add("ABCD");
  const auto chain = KeyChain(Root(""), Prompt("ABCD"), kBlock);
  const uint32_t end = plan_.Ends()[0];
  EXPECT_EQ(plan_.Depth(end), 4u);
  EXPECT_EQ(plan_.Keys(end, 4), chain);
  EXPECT_THAT(plan_.Keys(end, 2), ElementsAre(chain[2], chain[3]));
  EXPECT_EQ(plan_.Tokens(end), Prompt("ABCD"));
}

/// Whatever the corpus: each block that is not held is in exactly one step, behind the step of the block before it.
TEST_F(WarmPlanTest, RandomForestsAreCoveredInOrder) {
  std::mt19937 rng(7);
  for (int round = 0; round < 50; ++round) {
    WarmPlan plan(kBlock);
    for (int line = 0; line < 30; ++line) {
      std::string letters;
      for (uint32_t i = rng() % 8; i > 0; --i) letters += static_cast<char>('A' + rng() % 2);
      plan.Add(Root(""), "", Prompt(letters));
    }
    for (const uint32_t end : plan.Ends()) plan.MarkHeld(end, rng() % 4 == 0 ? rng() % 5 : 0);
    const uint32_t max_blocks = 1 + rng() % 4;
    const auto steps = plan.Steps(max_blocks);
    std::set<BlockKey> computed;
    for (size_t i = 0; i < steps.size(); ++i) {
      EXPECT_LE(steps[i].blocks, max_blocks);
      for (const BlockKey& key : plan.Keys(steps[i].last, steps[i].blocks)) EXPECT_TRUE(computed.insert(key).second) << "computed twice";
      if (!steps[i].follows) continue;
      ASSERT_LT(*steps[i].follows, i);
      const auto before = plan.Keys(steps[i].last, steps[i].blocks + 1).front();
      EXPECT_EQ(before, plan.Keys(steps[*steps[i].follows].last, 1).front());
    }
    EXPECT_EQ(computed.size() + plan.held(), plan.blocks());
  }
}

}  // namespace
}  // namespace baton
