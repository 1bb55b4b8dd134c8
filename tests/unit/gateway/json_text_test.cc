#include "gateway/json_text.h"

#include <cmath>
#include <limits>

namespace baton {
namespace {

TEST(JsonText, EscapesLikeAnIndependentWriter) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "é€😀";
  std::string out;
  AppendJsonString(out, all);
  EXPECT_EQ(nlohmann::json::parse(out).get<std::string>(), all);
}

TEST(JsonText, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  for (const std::string bad : {"\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "a\xe2\x82", "\xf0\x9f\x98", "\xff"}) {
    std::string out;
    AppendJsonString(out, bad);
    const auto parsed = nlohmann::json::parse(out, nullptr, false);
    ASSERT_FALSE(parsed.is_discarded()) << out;
    EXPECT_NE(parsed.get<std::string>().find("\xef\xbf\xbd"), std::string::npos);
    EXPECT_EQ(parsed.get<std::string>(), ValidUtf8(bad));
  }
}

TEST(JsonText, LogprobsReadBackToTheSameBits) {
  for (const float value : {0.0f, -0.0f, -1.5f, -0.1f, -1e-7f, -123.456f, std::nextafter(-2.0f, 0.0f)}) {
    std::string out;
    AppendLogprob(out, value);
    EXPECT_EQ(static_cast<float>(nlohmann::json::parse(out).get<double>()), value) << out;
    EXPECT_TRUE(nlohmann::json::parse(out).is_number_float()) << out;
  }
  for (const float value : {-std::numeric_limits<float>::infinity(), std::nanf(""), -1e30f}) {
    std::string out;
    AppendLogprob(out, value);
    EXPECT_EQ(out, "-9999.0");
  }
}

TEST(JsonText, RefusesWhatIsNotOneObject) {
  for (const char* text : {"", " ", "[]", "1", "\"x\"", "{", "{}x", "{\"a\":}", "{'a':1}", "{\"a\":NaN}", "{\"a\":1e999}", "{\"a\":01}",
                           "{\"a\":\"\x80\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\n\"}", "\xef\xbb\xbf[]"}) {
    const auto parsed = ParseJsonObject(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalid);
    EXPECT_EQ(ValidUtf8(parsed.status().message()), parsed.status().message());
  }
}

TEST(JsonText, OfEqualKeysTheLastCounts) {
  const auto parsed = ParseJsonObject("{\"a\":1,\"b\":2,\"a\":3}");
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->at("a"), 3);
}

TEST(JsonText, NestingKeysAndValuesAreBounded) {
  const auto nested = [](int depth) { return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}"; };
  EXPECT_TRUE(ParseJsonObject(nested(kMaxJsonDepth - 1)).ok());
  EXPECT_FALSE(ParseJsonObject(nested(kMaxJsonDepth)).ok());
  EXPECT_FALSE(ParseJsonObject(std::string(1 << 20, '[')).ok());
  std::string keys = "{";
  for (int i = 0; i <= kMaxJsonKeys; ++i) keys += (i ? ",\"" : "\"") + std::to_string(i) + "\":0";
  EXPECT_FALSE(ParseJsonObject(keys + "}").ok());
  std::string values = "{\"a\":[0";
  for (int i = 0; i < kMaxJsonValues; ++i) values += ",0";
  EXPECT_FALSE(ParseJsonObject(values + "]}").ok());
  // Brackets, colons and commas in strings count for nothing.
  EXPECT_TRUE(ParseJsonObject("{\"a\":\"" + std::string(1 << 16, '[') + "\\\"" + std::string(1 << 16, ':') + "\"}").ok());
}

}  // namespace
}  // namespace baton
