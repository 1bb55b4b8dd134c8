#include "app/trace.h"

#include "tests/support/test_pch.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

class TraceTest : public TraceFileTest {};

TEST_F(TraceTest, ReadsTheFields) {
  const auto trace = ReadTrace(Write(R"({"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 7, 8]})"
                                     "\n\n"
                                     R"({"timestamp": 2500, "input_length": 1024, "output_length": 1, "hash_ids": [0, 9]})"));
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  ASSERT_EQ(trace->size(), 2u);
  EXPECT_EQ((*trace)[1].at_s, 2.5);
  EXPECT_EQ((*trace)[0].Keys().size(), 2u) << "the partial block has no key";
  EXPECT_EQ((*trace)[1].Keys().size(), 2u);
  EXPECT_EQ((*trace)[0].Keys()[0], (*trace)[1].Keys()[0]) << "equal ids, equal keys";
  EXPECT_NE((*trace)[0].Keys()[1], (*trace)[1].Keys()[1]);
}

TEST_F(TraceTest, BadLinesAreNamed) {
  const std::string good = R"({"timestamp": 10, "input_length": 1, "output_length": 1, "hash_ids": [0]})";
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"{", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {R"({"input_length": 1, "output_length": 1, "hash_ids": [0]})", "timestamp is missing"},
      {R"({"timestamp": "x", "input_length": 1, "output_length": 1, "hash_ids": [0]})", "timestamp is no number"},
      {R"({"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [0]})", "from 0"},
      {R"({"timestamp": 10, "input_length": 1e300, "output_length": 1, "hash_ids": [0]})", "input_length"},
      {R"({"timestamp": 10, "input_length": 1, "output_length": 1})", "hash_ids is no list"},
      {R"({"timestamp": 10, "input_length": 1, "output_length": 1, "hash_ids": [-1]})", "whole number"},
      {R"({"timestamp": 10, "input_length": 1, "output_length": 1, "hash_ids": [0.5]})", "whole number"},
      {R"({"timestamp": 10, "input_length": 513, "output_length": 1, "hash_ids": [0]})", "513 tokens need 2"},
      {R"({"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [0]})", "goes back"}};
  for (const auto& [line, message] : bad) {
    const auto trace = ReadTrace(Write(good + "\n" + line + "\n"));
    ASSERT_EQ(trace.status().code(), StatusCode::kInvalid) << line;
    EXPECT_THAT(trace.status().message(), HasSubstr("line 2")) << line;
    EXPECT_THAT(trace.status().message(), HasSubstr(message)) << line;
  }
}

TEST_F(TraceTest, MissingAndEmptyFiles) {
  EXPECT_EQ(ReadTrace("/nonexistent/trace").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(ReadTrace(Write("\n \n")).status().code(), StatusCode::kInvalid);
}

}  // namespace
}  // namespace baton
