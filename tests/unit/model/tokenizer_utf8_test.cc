// UTF-8 with Unicode's maximal-subpart rule, against the table of the standard written another way, over every sequence of up to three
// bytes and many longer ones.
#include "model/tokenizer_utf8.h"

#include "base/random.h"

namespace baton {
namespace {

/// Table 3-7 of the Unicode standard: lead bytes, and the range of the second.
struct Row {
  int first_low, first_high, second_low, second_high, length;
};
constexpr Row kRows[] = {{0x00, 0x7f, 0, 0, 1},          {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                         {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};

/// How many of the leading bytes belong to a well-formed character's beginning, and of which length.
std::pair<int, int> Match(const std::string& text) {
  const auto byte = [&](size_t i) { return static_cast<int>(static_cast<uint8_t>(text[i])); };
  for (const Row& row : kRows) {
    if (byte(0) < row.first_low || byte(0) > row.first_high) continue;
    int matched = 1;
    for (; matched < row.length && static_cast<size_t>(matched) < text.size(); ++matched) {
      const int low = matched == 1 ? row.second_low : 0x80, high = matched == 1 ? row.second_high : 0xbf;
      if (byte(static_cast<size_t>(matched)) < low || byte(static_cast<size_t>(matched)) > high) break;
    }
    return {matched, row.length};
  }
  return {1, 0};  // no character begins so
}

void Check(const std::string& text) {
  const auto [matched, length] = Match(text);
  const Utf8Step step = NextUtf8(text);
  ASSERT_EQ(step.valid, matched == length) << testing::PrintToString(text);
  ASSERT_EQ(step.length, static_cast<uint32_t>(matched)) << testing::PrintToString(text);
  ASSERT_EQ(step.incomplete, length > matched && static_cast<size_t>(matched) == text.size()) << testing::PrintToString(text);
  if (!step.valid) {
    ASSERT_EQ(step.code, 0xFFFDu);
    return;
  }
  std::string back;
  AppendUtf8(step.code, back);
  ASSERT_EQ(back, text.substr(0, step.length));
}

TEST(Utf8Table, EverySequenceOfUpToTwoBytesAndManyOfThreeAndFour) {
  for (int a = 0; a < 256; ++a) {
    Check(std::string(1, static_cast<char>(a)));
    for (int b = 0; b < 256; ++b) {
      Check({static_cast<char>(a), static_cast<char>(b)});
      for (const int c : {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff}) {
        Check({static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)});
        if (a < 0xe0) continue;
        for (const int d : {0x41, 0x80, 0xbf, 0xc2}) Check({static_cast<char>(a), static_cast<char>(b), static_cast<char>(c), static_cast<char>(d)});
      }
    }
  }
}

TEST(Utf8Table, EveryCodePointThereAndBack) {
  for (char32_t code = 0; code <= 0x10FFFF; code += code < 0x3000 || (code > 0xd700 && code < 0xe100) || code > 0x10ff00 ? 1 : 97) {
    std::string text;
    AppendUtf8(code, text);
    const Utf8Step step = NextUtf8(text);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    ASSERT_TRUE(step.valid);
    ASSERT_EQ(step.code, surrogate ? 0xFFFDu : code);
    ASSERT_EQ(step.length, text.size());
    ASSERT_TRUE(IsValidUtf8(text));
  }
  std::string above;
  AppendUtf8(0x110000, above);
  EXPECT_EQ(above, kReplacementCharacter);
}

TEST(Utf8Sanitize, AsPythonReplaces) {
  const std::string r(kReplacementCharacter);
  const std::vector<std::pair<std::string, std::string>> table = {{"", ""},
                                                                  {"abc", "abc"},
                                                                  {"\x80", r},
                                                                  {"\xc3", r},
                                                                  {"\xc3(", r + "("},
                                                                  {"\xe2\x82", r},
                                                                  {"\xe2\x82(", r + "("},
                                                                  {"\xe2(\xa1", r + "(" + r},
                                                                  {"\xf0\x9f\x98", r},
                                                                  {"\xf0\x9f(\x98", r + "(" + r},
                                                                  {"\xf0\x80\x80\x80", r + r + r + r},
                                                                  {"\xf8\x88\x80\x80\x80", r + r + r + r + r},
                                                                  {"\xed\xa0\x80", r + r + r},
                                                                  {"\xc0\xaf", r + r},
                                                                  {"\xe0\x80\xaf", r + r + r},
                                                                  {"\xf4\x90\x80\x80", r + r + r + r},
                                                                  {"a\xff" "b\xfe", "a" + r + "b" + r},
                                                                  {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf" "A", r + r + r + r + "A"}};
  for (const auto& [bytes, wanted] : table) EXPECT_EQ(SanitizeUtf8(bytes), wanted) << testing::PrintToString(bytes);
}

TEST(Utf8Sanitize, Properties) {
  Random random(1);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    for (uint64_t i = 0; i < random.Below(16); ++i) bytes += static_cast<char>(random.Below(3) == 0 ? random.Below(128) : 0x80 + random.Below(128));
    const std::string clean = SanitizeUtf8(bytes);
    EXPECT_TRUE(IsValidUtf8(clean));
    EXPECT_EQ(SanitizeUtf8(clean), clean) << "once is enough";
    EXPECT_EQ(IsValidUtf8(bytes), clean == bytes);
    const size_t tail = IncompleteUtf8Tail(bytes);
    EXPECT_LE(tail, 3u);
    // The tail is what some continuation can complete; without it the rest is final.
    if (tail > 0) {
      bool completes = false;
      for (const std::string more : {"\x80", "\x80\x80", "\x80\x80\x80", "\xa0\x80", "\x90\x80", "\xbf", "\xbf\xbf", "\xbf\xbf\xbf", "\x90\x80\x80", "\x8f\x80", "\x8f\x80\x80"}) {
        completes = completes || IsValidUtf8(bytes.substr(bytes.size() - tail) + more);
      }
      EXPECT_TRUE(completes) << testing::PrintToString(bytes);
      EXPECT_EQ(SanitizeUtf8(bytes), SanitizeUtf8(bytes.substr(0, bytes.size() - tail)) + std::string(kReplacementCharacter));
    }
  }
}

}  // namespace
}  // namespace baton
