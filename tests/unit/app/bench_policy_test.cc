// `baton bench policy`: hit ratios that no policy and no store size can break.
#include <set>

#include "base/random.h"
#include "tests/unit/app/run_program.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class BenchPolicyTest : public TraceFileTest {
 protected:
  /// Conversations whose turns share their beginning, under a seed.
  std::string Conversations(uint64_t seed, size_t requests) {
    Random random(seed);
    std::string text;
    for (size_t i = 0; i < requests; ++i) {
      const uint64_t conversation = random.Below(12), blocks = 1 + random.Below(8);
      Json ids = Json::array();
      for (uint64_t b = 0; b < blocks; ++b) ids.push_back(conversation * 100 + b);
      text += Json{{"timestamp", i * 100}, {"input_length", blocks * 512}, {"output_length", 1}, {"hash_ids", ids}}.dump() + "\n";
    }
    return Write(text);
  }
  static std::vector<Json> Rows(const Outcome& run) {
    std::vector<Json> rows;
    std::istringstream out(run.out);
    for (std::string line; std::getline(out, line);) rows.push_back(Json::parse(line));
    return rows;
  }
};

TEST_F(BenchPolicyTest, NoPolicyBeatsTheFutureAndMoreRoomNeverHurtsTheBound) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    const Outcome run = RunBaton({"bench", "policy", "--trace", Conversations(seed, 120), "--capacities", "64,1,4,16,200", "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    const auto rows = Rows(run);
    ASSERT_EQ(rows.size(), 5u);
    double bound = 0;
    uint64_t blocks = 0;
    for (const Json& row : rows) {
      EXPECT_GT(row["blocks"].get<uint64_t>(), blocks) << "smallest store first, whatever the order of the flag";
      blocks = row["blocks"];
      EXPECT_GE(row["offline"].get<double>(), bound);
      bound = row["offline"];
      for (const char* policy : {"lru", "s3fifo", "cost"}) {
        const double ratio = row[policy];
        EXPECT_GE(ratio, 0);
        EXPECT_LE(ratio, bound + 1e-9) << policy << " with " << blocks << " blocks knows the future";
      }
    }
    for (const char* policy : {"lru", "s3fifo", "cost"}) EXPECT_NEAR(rows.back()[policy].get<double>(), bound, 1e-9) << "where all fits nothing is ever evicted";
  }
}

TEST_F(BenchPolicyTest, TheTableHasTheNumbersOfTheObjects) {
  const std::string trace = Conversations(3, 60);
  const std::vector<std::string> command = {"bench", "policy", "--trace", trace, "--capacities", "4,32", "--policies", "lru,cost"};
  auto with_json = command;
  with_json.push_back("--json");
  const auto rows = Rows(RunBaton(with_json));
  std::istringstream table(RunBaton(command).out);
  std::string header;
  std::getline(table, header);
  EXPECT_EQ(header, "  blocks      lru     cost  offline");
  for (const Json& row : rows) {
    EXPECT_EQ(row.size(), 4u) << "only what was asked for";
    uint64_t blocks = 0;
    double lru = 0, cost = 0, offline = 0;
    table >> blocks >> lru >> cost >> offline;
    EXPECT_EQ(blocks, row["blocks"]);
    EXPECT_NEAR(lru, row["lru"].get<double>(), 6e-5);
    EXPECT_NEAR(cost, row["cost"].get<double>(), 6e-5);
    EXPECT_NEAR(offline, row["offline"].get<double>(), 6e-5);
  }
}

TEST_F(BenchPolicyTest, TheDrawingHasACurveForEachAndStaysInside) {
  const std::string svg = (folder_ / "curves.svg").string();
  for (const char* capacities : {"8", "1,1000000000", "10,20,50"}) {
    ASSERT_EQ(RunBaton({"bench", "policy", "--trace", Conversations(5, 40), "--capacities", capacities, "--svg", svg}).code, 0);
    std::ifstream in(svg);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    EXPECT_TRUE(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    EXPECT_THAT(text, testing::Not(testing::AnyOf(HasSubstr("nan"), HasSubstr("inf"))));
    size_t curves = 0;
    for (size_t at = text.find("fill=\"none\""); at != std::string::npos; at = text.find("fill=\"none\"", at + 1)) ++curves;
    EXPECT_EQ(curves, 4u);
    for (size_t at = text.find("<path d=\"M"); at != std::string::npos; at = text.find("<path d=\"M", at + 1)) {
      std::istringstream point(text.substr(at + 10, 40));
      double x = -1, y = -1;
      point >> x >> y;
      EXPECT_TRUE(x >= 0 && x <= 640 && y >= 0 && y <= 400) << x << " " << y;
    }
  }
}

TEST_F(BenchPolicyTest, WhatCannotBeIsSaid) {
  const std::string trace = Conversations(1, 5);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {{{"--trace", "/nowhere/t.jsonl"}, "/nowhere/t.jsonl"},
                                                                               {{"--trace", trace, "--policies", "lru,fifo"}, "fifo"},
                                                                               {{"--trace", trace, "--capacities", "0"}, "--capacities"},
                                                                               {{"--trace", trace, "--capacities", "1,x"}, "--capacities"},
                                                                               {{"--trace", trace, "--capacities", "-1"}, "--capacities"},
                                                                               {{}, "--trace"}};
  for (const auto& [flags, words] : cases) {
    std::vector<std::string> arguments = {"bench", "policy", "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Outcome run = RunBaton(arguments);
    EXPECT_EQ(run.code, 2) << words;
    EXPECT_EQ(run.out, "") << words;
    EXPECT_THAT(run.err, HasSubstr(words));
  }
  const Outcome unwritable = RunBaton({"bench", "policy", "--trace", trace, "--capacities", "4", "--svg", "/nowhere/x.svg"});
  EXPECT_EQ(unwritable.code, 1);
  EXPECT_THAT(unwritable.err, HasSubstr("/nowhere/x.svg"));
}

}  // namespace
}  // namespace baton
