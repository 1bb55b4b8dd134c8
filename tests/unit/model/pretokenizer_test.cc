// Pre-tokenizers and normalisers step by step. What is expected was printed by Hugging Face tokenizers 0.22.1.
#include "model/pretokenizer.h"

#include <random>

namespace baton {
namespace {

struct Pieces {
  const char* text;
  std::vector<const char*> pieces;
};

std::vector<std::string> Strings(const std::vector<const char*>& texts) { return {texts.begin(), texts.end()}; }

void ExpectPieces(const PreTokenizer& pre, const std::vector<Pieces>& cases) {
  for (const Pieces& c : cases) EXPECT_EQ(pre.Split(c.text, true), Strings(c.pieces)) << "'" << c.text << "'";
}
PreTokenizer Regex(std::string_view pattern, SplitBehavior behavior = SplitBehavior::kIsolated, bool invert = false) {
  PreTokenizer pre;
  const Status status = pre.AddRegex(pattern, behavior, invert);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return pre;
}

const std::vector<Pieces> kGpt2{
    {" ", {" "}},
    {"Hello world", {"Hello", " world"}},
    {"  two  spaces ", {" ", " two", " ", " spaces", " "}},
    {"it's I'LL we've'd", {"it", "'s", " I", "'", "LL", " we", "'ve", "'d"}},
    {"a1b22c333d4444", {"a", "1", "b", "22", "c", "333", "d", "4444"}},
    {"x=1+2;", {"x", "=", "1", "+", "2", ";"}},
    {"日本語 テスト", {"日本語", " テスト"}},
    {"naïve café", {"naïve", " café"}},
    {"\n\n a\r\n\tb ", {"\n\n", " a", "\r\n", "\t", "b", " "}},
    {"٣٤٥ ½ Ⅷ", {"٣٤٥", " ½", " Ⅷ"}},
    {"e\xCC\x81\xCC\x80x", {"e", "\xCC\x81\xCC\x80", "x"}},
    {"don't   stop", {"don", "'t", "  ", " stop"}},
    {"🙂🙂 ok", {"🙂🙂", " ok"}},
    {"a\xC2\xA0""b\xE3\x80\x80""c", {"a", "\xC2\xA0", "b", "\xE3\x80\x80", "c"}},
    {"\xE2\x80\x8Bzero", {"\xE2\x80\x8B", "zero"}},
    {"tabs\t\tend\t", {"tabs", "\t", "\t", "end", "\t"}},
    {"!!!??? ...", {"!!!???", " ..."}},
};
TEST(PreTokenizerPatterns, Gpt2) { ExpectPieces(Regex(kGpt2Pattern), kGpt2); }

const std::vector<Pieces> kQwen2{
    {" ", {" "}},
    {"Hello world", {"Hello", " world"}},
    {"  two  spaces ", {" ", " two", " ", " spaces", " "}},
    {"it's I'LL we've'd", {"it", "'s", " I", "'LL", " we", "'ve", "'d"}},
    {"a1b22c333d4444", {"a", "1", "b", "2", "2", "c", "3", "3", "3", "d", "4", "4", "4", "4"}},
    {"x=1+2;", {"x", "=", "1", "+", "2", ";"}},
    {"日本語 テスト", {"日本語", " テスト"}},
    {"naïve café", {"naïve", " café"}},
    {"\n\n a\r\n\tb ", {"\n\n", " a", "\r\n", "\tb", " "}},
    {"٣٤٥ ½ Ⅷ", {"٣", "٤", "٥", " ", "½", " ", "Ⅷ"}},
    {"e\xCC\x81\xCC\x80x", {"e", "\xCC\x81\xCC\x80", "x"}},
    {"don't   stop", {"don", "'t", "  ", " stop"}},
    {"🙂🙂 ok", {"🙂🙂", " ok"}},
    {"a\xC2\xA0""b\xE3\x80\x80""c", {"a", "\xC2\xA0""b", "\xE3\x80\x80""c"}},
    {"\xE2\x80\x8Bzero", {"\xE2\x80\x8Bzero"}},
    {"tabs\t\tend\t", {"tabs", "\t", "\tend", "\t"}},
    {"!!!??? ...", {"!!!???", " ..."}},
};
TEST(PreTokenizerPatterns, Qwen2) { ExpectPieces(Regex(kQwen2Pattern), kQwen2); }

const std::vector<Pieces> kLlama3{
    {" ", {" "}},
    {"Hello world", {"Hello", " world"}},
    {"  two  spaces ", {" ", " two", " ", " spaces", " "}},
    {"it's I'LL we've'd", {"it", "'s", " I", "'LL", " we", "'ve", "'d"}},
    {"a1b22c333d4444", {"a", "1", "b", "22", "c", "333", "d", "444", "4"}},
    {"x=1+2;", {"x", "=", "1", "+", "2", ";"}},
    {"日本語 テスト", {"日本語", " テスト"}},
    {"naïve café", {"naïve", " café"}},
    {"\n\n a\r\n\tb ", {"\n\n", " a", "\r\n", "\tb", " "}},
    {"٣٤٥ ½ Ⅷ", {"٣٤٥", " ", "½", " ", "Ⅷ"}},
    {"e\xCC\x81\xCC\x80x", {"e", "\xCC\x81\xCC\x80", "x"}},
    {"don't   stop", {"don", "'t", "  ", " stop"}},
    {"🙂🙂 ok", {"🙂🙂", " ok"}},
    {"a\xC2\xA0""b\xE3\x80\x80""c", {"a", "\xC2\xA0""b", "\xE3\x80\x80""c"}},
    {"\xE2\x80\x8Bzero", {"\xE2\x80\x8Bzero"}},
    {"tabs\t\tend\t", {"tabs", "\t", "\tend", "\t"}},
    {"!!!??? ...", {"!!!???", " ..."}},
};
TEST(PreTokenizerPatterns, Llama3) { ExpectPieces(Regex(kLlama3Pattern), kLlama3); }

struct SplitCase {
  const char* name;
  SplitBehavior behavior;
  bool regex, invert;  // \\s, or the letter a
  std::vector<Pieces> cases;
};

const SplitCase kSplits[] = {
    {"Isolated", SplitBehavior::kIsolated, true, false,
     {{"  two  words ", {" ", " ", "two", " ", " ", "words", " "}}, {"a b\t\nc", {"a", " ", "b", "\t", "\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"IsolatedOfALetter", SplitBehavior::kIsolated, false, false,
     {{"aaxaa", {"a", "a", "x", "a", "a"}}, {"banana", {"b", "a", "n", "a", "n", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "X", "a", " ", "a", "a"}}}},
    {"IsolatedInverted", SplitBehavior::kIsolated, true, true,
     {{"  two  words ", {" ", " ", "two", " ", " ", "words", " "}}, {"a b\t\nc", {"a", " ", "b", "\t", "\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"IsolatedOfALetterInverted", SplitBehavior::kIsolated, false, true,
     {{"aaxaa", {"a", "a", "x", "a", "a"}}, {"banana", {"b", "a", "n", "a", "n", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "X", "a", " ", "a", "a"}}}},
    {"Removed", SplitBehavior::kRemoved, true, false,
     {{"  two  words ", {"two", "words"}}, {"a b\t\nc", {"a", "b", "c"}}, {" ", {}}, {"x", {"x"}}}},
    {"RemovedOfALetter", SplitBehavior::kRemoved, false, false,
     {{"aaxaa", {"x"}}, {"banana", {"b", "n", "n"}}, {"a", {}}, {"xyz", {"xyz"}}, {"aXa aa", {"X", " "}}}},
    {"RemovedInverted", SplitBehavior::kRemoved, true, true,
     {{"  two  words ", {" ", " ", " ", " ", " "}}, {"a b\t\nc", {" ", "\t", "\n"}}, {" ", {" "}}, {"x", {}}}},
    {"RemovedOfALetterInverted", SplitBehavior::kRemoved, false, true,
     {{"aaxaa", {"a", "a", "a", "a"}}, {"banana", {"a", "a", "a"}}, {"a", {"a"}}, {"xyz", {}}, {"aXa aa", {"a", "a", "a", "a"}}}},
    {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious, true, false,
     {{"  two  words ", {" ", " ", "two ", " ", "words "}}, {"a b\t\nc", {"a ", "b\t", "\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"MergedWithPreviousOfALetter", SplitBehavior::kMergedWithPrevious, false, false,
     {{"aaxaa", {"a", "a", "xa", "a"}}, {"banana", {"ba", "na", "na"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "Xa", " a", "a"}}}},
    {"MergedWithPreviousInverted", SplitBehavior::kMergedWithPrevious, true, true,
     {{"  two  words ", {" ", " two", " ", " words", " "}}, {"a b\t\nc", {"a", " b", "\t", "\nc"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"MergedWithPreviousOfALetterInverted", SplitBehavior::kMergedWithPrevious, false, true,
     {{"aaxaa", {"a", "ax", "a", "a"}}, {"banana", {"b", "an", "an", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"aX", "a ", "a", "a"}}}},
    {"MergedWithNext", SplitBehavior::kMergedWithNext, true, false,
     {{"  two  words ", {" ", " two", " ", " words", " "}}, {"a b\t\nc", {"a", " b", "\t", "\nc"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"MergedWithNextOfALetter", SplitBehavior::kMergedWithNext, false, false,
     {{"aaxaa", {"a", "ax", "a", "a"}}, {"banana", {"b", "an", "an", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"aX", "a ", "a", "a"}}}},
    {"MergedWithNextInverted", SplitBehavior::kMergedWithNext, true, true,
     {{"  two  words ", {" ", " ", "two ", " ", "words "}}, {"a b\t\nc", {"a ", "b\t", "\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"MergedWithNextOfALetterInverted", SplitBehavior::kMergedWithNext, false, true,
     {{"aaxaa", {"a", "a", "xa", "a"}}, {"banana", {"ba", "na", "na"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "Xa", " a", "a"}}}},
    {"Contiguous", SplitBehavior::kContiguous, true, false,
     {{"  two  words ", {"  ", "two", "  ", "words", " "}}, {"a b\t\nc", {"a", " ", "b", "\t\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"ContiguousOfALetter", SplitBehavior::kContiguous, false, false,
     {{"aaxaa", {"aa", "x", "aa"}}, {"banana", {"b", "a", "n", "a", "n", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "X", "a", " ", "aa"}}}},
    {"ContiguousInverted", SplitBehavior::kContiguous, true, true,
     {{"  two  words ", {"  ", "two", "  ", "words", " "}}, {"a b\t\nc", {"a", " ", "b", "\t\n", "c"}}, {" ", {" "}}, {"x", {"x"}}}},
    {"ContiguousOfALetterInverted", SplitBehavior::kContiguous, false, true,
     {{"aaxaa", {"aa", "x", "aa"}}, {"banana", {"b", "a", "n", "a", "n", "a"}}, {"a", {"a"}}, {"xyz", {"xyz"}}, {"aXa aa", {"a", "X", "a", " ", "aa"}}}},
};

TEST(PreTokenizerSplit, EveryBehaviorBothWays) {
  for (const SplitCase& split : kSplits) {
    SCOPED_TRACE(split.name);
    PreTokenizer pre;
    ASSERT_TRUE((split.regex ? pre.AddRegex("\\s", split.behavior, split.invert) : pre.AddString("a", split.behavior, split.invert)).ok());
    ExpectPieces(pre, split.cases);
  }
}

const std::vector<Pieces> kDigits[] = {
    {
        {"a1b22c333d4444", {"a", "1", "b", "2", "2", "c", "3", "3", "3", "d", "4", "4", "4", "4"}},
        {"x=1+2;", {"x=", "1", "+", "2", ";"}},
        {"٣٤٥ ½ Ⅷ", {"٣", "٤", "٥", " ", "½", " ", "Ⅷ"}},
    },
    {
        {"a1b22c333d4444", {"a", "1", "b", "22", "c", "333", "d", "4444"}},
        {"x=1+2;", {"x=", "1", "+", "2", ";"}},
        {"٣٤٥ ½ Ⅷ", {"٣٤٥", " ", "½", " ", "Ⅷ"}},
    },
};
TEST(PreTokenizerSplit, DigitsAloneOrInRuns) {
  ExpectPieces(Regex(R"(\p{N})", SplitBehavior::kIsolated), kDigits[0]);
  ExpectPieces(Regex(R"(\p{N})", SplitBehavior::kContiguous), kDigits[1]);
}

struct MetaspaceCase {
  PreTokenizer::PrependScheme scheme;
  bool split;
  std::vector<Pieces> cases;
};
const MetaspaceCase kMetaspaces[] = {
    {PreTokenizer::PrependScheme::kAlways, true,
     {{"Hello world", {"▁Hello", "▁world"}}, {"  two  spaces ", {"▁", "▁two", "▁", "▁spaces", "▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x", "▁y"}},
      {"a▁b", {"▁a", "▁b"}}}},
    {PreTokenizer::PrependScheme::kAlways, false,
     {{"Hello world", {"▁Hello▁world"}}, {"  two  spaces ", {"▁▁two▁▁spaces▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x▁y"}}, {"a▁b", {"▁a▁b"}}}},
    {PreTokenizer::PrependScheme::kFirst, true,
     {{"Hello world", {"▁Hello", "▁world"}}, {"  two  spaces ", {"▁", "▁two", "▁", "▁spaces", "▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x", "▁y"}},
      {"a▁b", {"▁a", "▁b"}}}},
    {PreTokenizer::PrependScheme::kFirst, false,
     {{"Hello world", {"▁Hello▁world"}}, {"  two  spaces ", {"▁▁two▁▁spaces▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x▁y"}}, {"a▁b", {"▁a▁b"}}}},
    {PreTokenizer::PrependScheme::kNever, true,
     {{"Hello world", {"Hello", "▁world"}}, {"  two  spaces ", {"▁", "▁two", "▁", "▁spaces", "▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x", "▁y"}},
      {"a▁b", {"a", "▁b"}}}},
    {PreTokenizer::PrependScheme::kNever, false,
     {{"Hello world", {"Hello▁world"}}, {"  two  spaces ", {"▁▁two▁▁spaces▁"}}, {" ", {"▁"}}, {"▁x y", {"▁x▁y"}}, {"a▁b", {"a▁b"}}}},
};
TEST(PreTokenizerMetaspace, EverySchemeSplitOrWhole) {
  for (const MetaspaceCase& c : kMetaspaces) {
    PreTokenizer pre;
    ASSERT_TRUE(pre.AddMetaspace("\xE2\x96\x81", c.scheme, c.split).ok());
    ExpectPieces(pre, c.cases);
  }
}

TEST(PreTokenizerMetaspace, FirstIsOnlyTheBeginningOfTheInput) {
  PreTokenizer pre;
  ASSERT_TRUE(pre.AddMetaspace("_", PreTokenizer::PrependScheme::kFirst, true).ok());
  EXPECT_EQ(pre.Split("a b", false), (std::vector<std::string>{"a", "_b"}));
  EXPECT_EQ(pre.Split("a b", true), (std::vector<std::string>{"_a", "_b"}));
}

struct NormalCase {
  const char *text, *expected;
};
struct NormalTable {
  const char* name;
  std::function<void(Normalizer&)> add;
  std::vector<NormalCase> cases;
};

const NormalTable kNormals[] = {
    {"NFC", [](Normalizer& n) { n.AddUnicode(UnicodeForm::kNfc); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa aaaa"}, {" x ", " x "}, {"\xC3\xA9", "\xC3\xA9"}, {"e\xCC\x81", "\xC3\xA9"},
      {"\xC3\x85\xE2\x84\xAB", "\xC3\x85\xC3\x85"}, {"\xEF\xAC\x81\xE2\x91\xA0", "\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xEA\xB0\x81\xED\x95\x9C"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA4\x95\xE0\xA4\xBC\xCE\xA9"}, {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
    {"NFD", [](Normalizer& n) { n.AddUnicode(UnicodeForm::kNfd); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa aaaa"}, {" x ", " x "}, {"\xC3\xA9", "e\xCC\x81"}, {"e\xCC\x81", "e\xCC\x81"},
      {"\xC3\x85\xE2\x84\xAB", "A\xCC\x8A""A\xCC\x8A"}, {"\xEF\xAC\x81\xE2\x91\xA0", "\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "I\xCC\x87STANBUL \xCE\x91\xCE\xA3 \xC7\x85"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA4\x95\xE0\xA4\xBC\xCE\xA9"}, {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
    {"NFKC", [](Normalizer& n) { n.AddUnicode(UnicodeForm::kNfkc); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa aaaa"}, {" x ", " x "}, {"\xC3\xA9", "\xC3\xA9"}, {"e\xCC\x81", "\xC3\xA9"},
      {"\xC3\x85\xE2\x84\xAB", "\xC3\x85\xC3\x85"}, {"\xEF\xAC\x81\xE2\x91\xA0", "fi1"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "\xC4\xB0STANBUL \xCE\x91\xCE\xA3 D\xC5\xBE"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xEA\xB0\x81\xED\x95\x9C"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA4\x95\xE0\xA4\xBC\xCE\xA9"}, {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
    {"NFKD", [](Normalizer& n) { n.AddUnicode(UnicodeForm::kNfkd); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa aaaa"}, {" x ", " x "}, {"\xC3\xA9", "e\xCC\x81"}, {"e\xCC\x81", "e\xCC\x81"},
      {"\xC3\x85\xE2\x84\xAB", "A\xCC\x8A""A\xCC\x8A"}, {"\xEF\xAC\x81\xE2\x91\xA0", "fi1"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "I\xCC\x87STANBUL \xCE\x91\xCE\xA3 Dz\xCC\x8C"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA4\x95\xE0\xA4\xBC\xCE\xA9"}, {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
    {"Lowercase", [](Normalizer& n) { n.AddLowercase(); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa aaaa"}, {" x ", " x "}, {"\xC3\xA9", "\xC3\xA9"}, {"e\xCC\x81", "e\xCC\x81"},
      {"\xC3\x85\xE2\x84\xAB", "\xC3\xA5\xC3\xA5"}, {"\xEF\xAC\x81\xE2\x91\xA0", "\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "i\xCC\x87stanbul \xCE\xB1\xCF\x83 \xC7\x86"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA5\x98\xCF\x89"}, {"q\xCC\x87\xCC\xA3", "q\xCC\x87\xCC\xA3"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "strasse \xC3\x9F \xC3\x9F"}}},
    {"Prepend", [](Normalizer& n) { n.AddPrepend("▁"); },
     {{"", ""}, {"a", "\xE2\x96\x81""a"}, {"aaa aaaa", "\xE2\x96\x81""aaa aaaa"}, {" x ", "\xE2\x96\x81 x "}, {"\xC3\xA9", "\xE2\x96\x81\xC3\xA9"},
      {"e\xCC\x81", "\xE2\x96\x81""e\xCC\x81"}, {"\xC3\x85\xE2\x84\xAB", "\xE2\x96\x81\xC3\x85\xE2\x84\xAB"},
      {"\xEF\xAC\x81\xE2\x91\xA0", "\xE2\x96\x81\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "\xE2\x96\x81\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xE2\x96\x81\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE2\x96\x81\xE0\xA5\x98\xE2\x84\xA6"}, {"q\xCC\x87\xCC\xA3", "\xE2\x96\x81q\xCC\x87\xCC\xA3"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "\xE2\x96\x81STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
    {"Replace", [](Normalizer& n) { n.AddReplace(" ", "▁"); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "aaa\xE2\x96\x81""aaaa"}, {" x ", "\xE2\x96\x81x\xE2\x96\x81"}, {"\xC3\xA9", "\xC3\xA9"},
      {"e\xCC\x81", "e\xCC\x81"}, {"\xC3\x85\xE2\x84\xAB", "\xC3\x85\xE2\x84\xAB"}, {"\xEF\xAC\x81\xE2\x91\xA0", "\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "\xC4\xB0STANBUL\xE2\x96\x81\xCE\x91\xCE\xA3\xE2\x96\x81\xC7\x85"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA5\x98\xE2\x84\xA6"}, {"q\xCC\x87\xCC\xA3", "q\xCC\x87\xCC\xA3"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE\xE2\x96\x81\xC3\x9F\xE2\x96\x81\xE1\xBA\x9E"}}},
    {"Replace2", [](Normalizer& n) { n.AddReplace("aa", "b"); },
     {{"", ""}, {"a", "a"}, {"aaa aaaa", "ba bb"}, {" x ", " x "}, {"\xC3\xA9", "\xC3\xA9"}, {"e\xCC\x81", "e\xCC\x81"},
      {"\xC3\x85\xE2\x84\xAB", "\xC3\x85\xE2\x84\xAB"}, {"\xEF\xAC\x81\xE2\x91\xA0", "\xEF\xAC\x81\xE2\x91\xA0"},
      {"\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85", "\xC4\xB0STANBUL \xCE\x91\xCE\xA3 \xC7\x85"},
      {"\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xEA\xB0\x81\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"},
      {"\xE0\xA5\x98\xE2\x84\xA6", "\xE0\xA5\x98\xE2\x84\xA6"}, {"q\xCC\x87\xCC\xA3", "q\xCC\x87\xCC\xA3"},
      {"STRASSE \xC3\x9F \xE1\xBA\x9E", "STRASSE \xC3\x9F \xE1\xBA\x9E"}}},
};
TEST(Normalizers, AsTheReference) {
  for (const NormalTable& table : kNormals) {
    Normalizer normalizer;
    table.add(normalizer);
    EXPECT_FALSE(normalizer.empty());
    for (const NormalCase& c : table.cases) EXPECT_EQ(normalizer.Apply(c.text), c.expected) << table.name << " of '" << c.text << "'";
  }
}

TEST(Normalizers, RunInOrder) {
  Normalizer normalizer;
  EXPECT_TRUE(normalizer.empty());
  normalizer.AddPrepend(" ");
  normalizer.AddReplace(" ", "_");
  normalizer.AddUnicode(UnicodeForm::kNfc);
  EXPECT_EQ(normalizer.Apply("e\xCC\x81 x"), "_\xC3\xA9_x");
  EXPECT_EQ(normalizer.Apply(""), "") << "nothing is put before nothing";
}

/// Nothing is lost, whatever the pattern and the text: the pieces of a step that removes nothing make up the text.
TEST(PreTokenizerProperties, PiecesMakeUpTheText) {
  std::mt19937 random(5);
  const std::vector<std::string> letters{"a", "B", "1", "42", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "é", "e\xCC\x81", "漢", "🙂", ".", "...", "\xC2\xA0", "_", "½"};
  for (const std::string_view pattern : {kGpt2Pattern, kQwen2Pattern, kLlama3Pattern}) {
    const PreTokenizer pre = Regex(pattern);
    for (int round = 0; round < 300; ++round) {
      std::string text, joined;
      for (uint32_t n = random() % 20; n > 0; --n) text += letters[random() % letters.size()];
      for (const std::string& piece : pre.Split(text, true)) {
        EXPECT_FALSE(piece.empty());
        joined += piece;
      }
      EXPECT_EQ(joined, text);
    }
  }
}

TEST(PreTokenizerProperties, NoPatternAndNoTextCanHang) {
  const std::string text(20'000, 'a');
  for (const char* pattern : {"(a+)+$b", "(a|aa)+b", "(?=(a+))\\1b", "a*a*a*a*a*b", "(a*)*b", ""}) {
    std::string joined;
    for (const std::string& piece : Regex(pattern).Split(text, true)) joined += piece;
    EXPECT_EQ(joined, text) << pattern;
  }
}

TEST(PreTokenizerErrors, SayWhatIsWrong) {
  PreTokenizer pre;
  const Status open = pre.AddRegex("(a", SplitBehavior::kIsolated, false);
  EXPECT_EQ(open.code(), StatusCode::kInvalid);
  EXPECT_THAT(open.message(), testing::HasSubstr("split pattern '(a' does not compile"));
  EXPECT_FALSE(pre.AddRegex("\\C", SplitBehavior::kIsolated, false).ok()) << "would cut characters";
  EXPECT_FALSE(pre.AddRegex("\xff", SplitBehavior::kIsolated, false).ok());
  EXPECT_THAT(pre.AddRegex(std::string(1 << 20, 'a'), SplitBehavior::kIsolated, false).message(), testing::HasSubstr("at most"));
  EXPECT_FALSE(pre.AddString("", SplitBehavior::kIsolated, false).ok());
  EXPECT_FALSE(pre.AddMetaspace("", PreTokenizer::PrependScheme::kFirst, true).ok());
  EXPECT_EQ(pre.Split("a b", true), std::vector<std::string>{"a b"}) << "what was refused is not there";
}

}  // namespace
}  // namespace baton
