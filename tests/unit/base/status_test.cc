// Status, Result and CHECK: what every other room's errors are made of.
#include "base/status.h"

namespace baton {
namespace {

const std::vector<std::pair<StatusCode, std::string>> kCodes = {
    {StatusCode::kOk, "ok"},           {StatusCode::kInvalid, "invalid"},         {StatusCode::kNotFound, "not_found"}, {StatusCode::kExhausted, "exhausted"}, {StatusCode::kDeadline, "deadline"},
    {StatusCode::kUnavailable, "unavailable"}, {StatusCode::kDataLoss, "data_loss"}, {StatusCode::kCancelled, "cancelled"}, {StatusCode::kAborted, "aborted"}, {StatusCode::kInternal, "internal"}};

TEST(StatusTest, EveryCodeHasItsNumberAndName) {
  for (size_t i = 0; i < kCodes.size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(kCodes[i].first), i) << "numbers travel: they never change";
    EXPECT_EQ(StatusCodeName(kCodes[i].first), kCodes[i].second);
  }
  for (const int unknown : {-1, 10, 255, 1 << 20}) EXPECT_EQ(StatusCodeName(static_cast<StatusCode>(unknown)), "unknown");
}

TEST(StatusTest, EachConstructorHasItsCode) {
  const std::vector<Status> errors = {InvalidError("{} of {}", 1, "x"), NotFoundError("{} of {}", 1, "x"),  ExhaustedError("{} of {}", 1, "x"), DeadlineError("{} of {}", 1, "x"), UnavailableError("{} of {}", 1, "x"),
                                      DataLossError("{} of {}", 1, "x"), CancelledError("{} of {}", 1, "x"), AbortedError("{} of {}", 1, "x"),   InternalError("{} of {}", 1, "x")};
  for (size_t i = 0; i < errors.size(); ++i) {
    EXPECT_EQ(errors[i].code(), kCodes[i + 1].first);
    EXPECT_FALSE(errors[i].ok());
    EXPECT_EQ(errors[i].message(), "1 of x");
    EXPECT_EQ(errors[i].ToString(), kCodes[i + 1].second + ": 1 of x");
  }
  EXPECT_TRUE(OkStatus().ok());
  EXPECT_EQ(OkStatus().ToString(), "ok");
  EXPECT_EQ(OkStatus(), Status());
  EXPECT_NE(InvalidError("a"), InvalidError("b"));
  EXPECT_NE(InvalidError("a"), NotFoundError("a"));
}

TEST(StatusTest, ContextStacksOutermostFirst) {
  const Status error = DataLossError("block 7 is torn").WithContext("store /s").WithContext("turn 2");
  EXPECT_EQ(error.ToString(), "data_loss: turn 2: store /s: block 7 is torn");
  EXPECT_EQ(error.code(), StatusCode::kDataLoss);
  EXPECT_EQ(OkStatus().WithContext("x"), OkStatus());
  EXPECT_EQ(InvalidError("").WithContext("{}").message(), "{}: ") << "context is text, never a format";
}

struct OnlyMoves {
  explicit OnlyMoves(int v) : value(std::make_unique<int>(v)) {}
  std::unique_ptr<int> value;
};

TEST(ResultTest, HoldsAValueOrAnError) {
  Result<int> good = 3, bad = InvalidError("no");
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(*good, 3);
  *good = 4;
  EXPECT_EQ(good.value(), 4);
  EXPECT_TRUE(good.status().ok());
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().message(), "no");
  Result<std::string> text = std::string("abc");
  EXPECT_EQ(text->size(), 3u);
  Result<std::optional<int>> empty = std::optional<int>();
  EXPECT_TRUE(empty.ok()) << "a value that is empty is still a value";
}

TEST(ResultTest, MovesWhatCannotBeCopied) {
  Result<OnlyMoves> result = OnlyMoves(5);
  Result<OnlyMoves> moved = std::move(result);
  const OnlyMoves taken = std::move(moved).value();
  EXPECT_EQ(*taken.value, 5);
  Result<std::unique_ptr<int>> pointer = std::make_unique<int>(6);
  EXPECT_EQ(**pointer, 6);
  const std::unique_ptr<int> owned = *std::move(pointer);
  EXPECT_EQ(*owned, 6);
}

Result<OnlyMoves> Make(int v) {
  if (v < 0) return InvalidError("{} is below 0", v);
  return OnlyMoves(v);
}
Result<int> SumOf(int a, int b) {
  ASSIGN_OR_RETURN(const OnlyMoves first, Make(a));
  ASSIGN_OR_RETURN(const OnlyMoves second, Make(b));
  return *first.value + *second.value;
}
Status CheckAll(const std::vector<int>& values, int& checked) {
  for (const int v : values) {
    RETURN_IF_ERROR(Make(v).status());
    ++checked;
  }
  return OkStatus();
}

TEST(ResultTest, MacrosStopAtTheFirstError) {
  EXPECT_EQ(*SumOf(1, 2), 3);
  EXPECT_EQ(SumOf(-1, -2).status().message(), "-1 is below 0");
  EXPECT_EQ(SumOf(1, -2).status().message(), "-2 is below 0");
  int checked = 0;
  EXPECT_TRUE(CheckAll({1, 2, 3}, checked).ok());
  EXPECT_EQ(checked, 3);
  EXPECT_EQ(CheckAll({1, -2, -3}, checked).message(), "-2 is below 0");
  EXPECT_EQ(checked, 4);
}

TEST(CheckDeathTest, SaysWhereAndAborts) {
  EXPECT_DEATH(CHECK(1 + 1 == 3), "CHECK failed at .*status_test.cc:[0-9]+: 1 \\+ 1 == 3");
  EXPECT_DEATH((void)Result<int>(OkStatus()), "CHECK failed");
  EXPECT_DEATH((void)*Result<int>(InvalidError("x")), "CHECK failed");
  int evaluated = 0;
  CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1) << "evaluated once, in release builds too";
}

}  // namespace
}  // namespace baton
