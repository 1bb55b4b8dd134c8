// tokenizer.json and the files beside it: the variants that are met, what each of their switches does, and files that lie.
#include "base/random.h"
#include "model/tokenizer.h"
#include "tests/unit/model/format_support.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing_formats::TempDir;
using Json = nlohmann::json;
using Ids = std::vector<TokenId>;

/// Byte-level over the letters a, b, c and the space; "ab" and "abc" merge.
Json SmallJson() {
  return Json::parse(R"json({
    "added_tokens": [{"id": 6, "content": "<s>", "special": true}, {"id": 7, "content": "</s>", "special": true}, {"id": 8, "content": "<tool>", "special": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "abc": 5}, "merges": ["a b", "ab c"]}})json");
}

class TokenizerJson : public testing::Test {
 protected:
  Result<std::shared_ptr<const Tokenizer>> Load(const Json& json) { return LoadText(json.dump()); }
  Result<std::shared_ptr<const Tokenizer>> LoadText(const std::string& text) {
    dir_.Write("tokenizer.json", text);
    return Tokenizer::Load(dir_.path().string());
  }
  /// The ids of `text` once `changes` are merged into SmallJson().
  Ids With(const Json& changes, std::string_view text, EncodeOptions options = {}) {
    Json json = SmallJson();
    if (!changes.is_null()) json.merge_patch(changes);
    const auto tokenizer = Load(json);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    return tokenizer.ok() ? (*tokenizer)->Encode(text, options) : Ids{};
  }
  std::string ErrorOf(const std::string& text) {
    const auto tokenizer = LoadText(text);
    if (tokenizer.ok()) return "no error";
    EXPECT_EQ(tokenizer.status().code(), StatusCode::kInvalid) << tokenizer.status().ToString();
    EXPECT_THAT(tokenizer.status().message(), HasSubstr(dir_.path().string()));
    return tokenizer.status().message();
  }
  TempDir dir_;
};

TEST_F(TokenizerJson, TheSmallOneEncodes) {
  EXPECT_THAT(With({}, "abc ab cab"), ElementsAre(5, 3, 4, 3, 2, 4));
  EXPECT_THAT(With({}, "xaxb"), ElementsAre(4)) << "what the vocabulary lacks is dropped before neighbours merge";
  EXPECT_TRUE(With({}, "").empty());
}

TEST_F(TokenizerJson, MergesAsStringsOrPairs) {
  EXPECT_THAT(With({{"model", {{"merges", Json::array({Json::array({"a", "b"}), Json::array({"ab", "c"})})}}}}, "abc"), ElementsAre(5));
  EXPECT_THAT(With({{"model", {{"merges", Json::array()}}}}, "abc"), ElementsAre(0, 1, 2));
  EXPECT_THAT(With({{"model", {{"merges", Json::array()}, {"ignore_merges", true}}}}, "abc"), ElementsAre(5));
}

TEST_F(TokenizerJson, SpecialTokensAreTextUntilTheyAreTrusted) {
  const Json with_angles{{"model", {{"vocab", {{"<", 9}, {">", 10}, {"s", 11}, {"/", 12}}}}}};
  EXPECT_THAT(With(with_angles, "a<s>b"), ElementsAre(0, 9, 11, 10, 1));
  EXPECT_THAT(With(with_angles, "a<s>b", {.parse_special = true}), ElementsAre(0, 6, 1));
  EXPECT_THAT(With(with_angles, "<tool>"), ElementsAre(8)) << "an added token that is not special is one in any text";
  EXPECT_THAT(With(with_angles, "</s><s>", {.parse_special = true}), ElementsAre(7, 6));
}

TEST_F(TokenizerJson, TheLongestAddedTokenWinsAtTheLeftmostPlace) {
  Json added{{"added_tokens", Json::array()}};
  TokenId id = 6;
  for (const char* content : {"xy", "xyzx", "yz"}) added["added_tokens"].push_back({{"id", id++}, {"content", content}, {"special", false}});
  EXPECT_THAT(With(added, "xyzx"), ElementsAre(7));
  EXPECT_THAT(With(added, "xyzb"), ElementsAre(6, 1));
  EXPECT_THAT(With(added, "cyzxy"), ElementsAre(2, 8, 6));
}

TEST_F(TokenizerJson, StrippingAndWholeWords) {
  const auto added = [](const Json& flags) {
    Json token{{"id", 6}, {"content", "<x>"}, {"special", true}};
    token.update(flags.is_null() ? Json::object() : flags);
    return Json{{"added_tokens", {token}}};
  };
  const EncodeOptions special{.parse_special = true};
  EXPECT_THAT(With(added({}), "a <x> b", special), ElementsAre(0, 3, 6, 3, 1));
  EXPECT_THAT(With(added({{"lstrip", true}}), "a <x> b", special), ElementsAre(0, 6, 3, 1));
  EXPECT_THAT(With(added({{"rstrip", true}}), "a <x> b", special), ElementsAre(0, 3, 6, 1));
  EXPECT_THAT(With(added({{"lstrip", true}, {"rstrip", true}}), "a  <x>  b", special), ElementsAre(0, 6, 1));
  const Json word{{"added_tokens", {{{"id", 6}, {"content", "xy"}, {"special", false}, {"single_word", true}}}}};
  EXPECT_THAT(With(word, "xy xyc"), ElementsAre(6, 3, 2)) << "not inside a word";
}

TEST_F(TokenizerJson, PreTokenizersInASequence) {
  const Json split{{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", "Isolated"}, {"invert", false}},
                                                                              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}}};
  EXPECT_THAT(With(split, "abc"), ElementsAre(0, 1, 2)) << "no merge across a split";
  const Json prefix{{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", true}}}};
  EXPECT_THAT(With(prefix, "abc"), ElementsAre(3, 5));
  EXPECT_THAT(With(prefix, " abc"), ElementsAre(3, 5));
}

TEST_F(TokenizerJson, NormalisersInASequence) {
  const Json lower{{"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}, {{"type", "Lowercase"}},
                                                                              {{"type", "Replace"}, {"pattern", {{"String", "x"}}}, {"content", "c"}}}}}}};
  EXPECT_THAT(With(lower, "ABX"), ElementsAre(5));
  EXPECT_THAT(With(lower, "\xEF\xBC\xA1\xEF\xBC\xA2x"), ElementsAre(5)) << "full-width letters";
  EXPECT_THAT(With({{"normalizer", {{"type", "Prepend"}, {"prepend", "a"}}}}, "bc"), ElementsAre(5));
}

TEST_F(TokenizerJson, TemplatesPutTokensAround) {
  const Json post{{"post_processor", {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                                                                                          {{"SpecialToken", {{"id", "</s>"}}}}}},
                                     {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {6}}}}, {"</s>", {{"id", "</s>"}, {"ids", {7}}}}}}}}};
  EXPECT_THAT(With(post, "a", {.add_special = true}), ElementsAre(6, 0, 7));
  EXPECT_THAT(With(post, "a"), ElementsAre(0));
  EXPECT_THAT(With(post, "", {.add_special = true}), ElementsAre(6, 7));
  const Json sequence{{"post_processor", {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, post["post_processor"]}}}}};
  EXPECT_THAT(With(sequence, "a", {.add_special = true}), ElementsAre(6, 0, 7));
}

TEST_F(TokenizerJson, NamesAndTemplatesComeFromTheFilesBeside) {
  dir_.Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
    "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  dir_.Write("special_tokens_map.json", R"({"eos_token": "<other>", "unk_token": "a"})");
  auto tokenizer = Load(SmallJson());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->bos_id(), 6);
  EXPECT_EQ((*tokenizer)->eos_id(), 7) << "tokenizer_config.json first";
  EXPECT_EQ((*tokenizer)->pad_id(), -1);
  EXPECT_EQ((*tokenizer)->special_tokens(), (std::map<std::string, std::string>{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "a"}}));
  EXPECT_EQ((*tokenizer)->chat_template(), "D");
  dir_.Write("chat_template.json", R"({"chat_template": "J"})");
  EXPECT_EQ((*Load(SmallJson()))->chat_template(), "J");
  dir_.Write("chat_template.jinja", "F\n");
  EXPECT_EQ((*Load(SmallJson()))->chat_template(), "F\n") << "the file of its own wins";
  dir_.Write("tokenizer_config.json", "[1]");
  EXPECT_EQ(Tokenizer::Load(dir_.path().string()).status().code(), StatusCode::kInvalid);
}

TEST_F(TokenizerJson, RefusalsNameWhatIsWrong) {
  const std::vector<std::pair<Json, const char*>> cases{
      {{{"model", {{"type", "Unigram"}}}}, "model type 'Unigram' is not supported"},
      {{{"model", nullptr}}, "there is no 'model'"},
      {{{"model", {{"vocab", nullptr}}}}, "no object 'vocab'"},
      {{{"model", {{"vocab", {1, 2}}}}}, "no object 'vocab'"},
      {{{"model", {{"merges", nullptr}}}}, "no list 'merges'"},
      {{{"model", {{"merges", {"ab"}}}}}, "merge 'ab' is not two tokens"},
      {{{"model", {{"merges", {3}}}}}, "merge 0 is neither"},
      {{{"model", {{"merges", {{"a", "b", "c"}}}}}}, "merge 0 is neither"},
      {{{"model", {{"merges", {"a z"}}}}}, "names a token that is not in the vocabulary"},
      {{{"model", {{"vocab", {{"a", -1}}}}}}, "vocab entry 'a' is not a token id"},
      {{{"model", {{"vocab", {{"a", 1.5}}}}}}, "vocab entry 'a' is not a token id"},
      {{{"model", {{"vocab", {{"a", 3000000000}}}}}}, "vocab entry 'a' is not a token id"},
      {{{"model", {{"continuing_subword_prefix", "##"}}}}, "continuing_subword_prefix"},
      {{{"added_tokens", 3}}, "added_tokens is not a list"},
      {{{"added_tokens", {{{"id", 1}}}}}, "no id or content"},
      {{{"added_tokens", {{{"id", "x"}, {"content", "y"}}}}}, "not a token id"},
      {{{"normalizer", {{"type", "Nmt"}}}}, "normalizer 'Nmt' is not supported; supported are NFC"},
      {{{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", ""}}}}, "of kind 'String' only"},
      {{{"normalizer", {{"type", "Sequence"}}}}, "no list 'normalizers'"},
      {{{"pre_tokenizer", {{"type", "BertPreTokenizer"}}}}, "pre_tokenizer 'BertPreTokenizer' is not supported"},
      {{{"pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}}}}, "does not compile"},
      {{{"pre_tokenizer", {{"type", "Split"}}}}, "pre_tokenizer"},
      {{{"pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Sideways"}}}}, "split behavior 'Sideways'"},
      {{{"post_processor", {{"type", "BertProcessing"}}}}, "post_processor 'BertProcessing' is not supported"},
      {{{"post_processor", {{"type", "TemplateProcessing"}}}}, "no list 'single'"},
      {{{"post_processor", {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<x>"}}}}}}}}}, "special token without ids"}};
  for (const auto& [changes, says] : cases) {
    Json json = SmallJson();
    if (changes.contains("pre_tokenizer")) json["pre_tokenizer"] = nullptr;  // not merged into the one that is there
    json.merge_patch(changes);
    EXPECT_THAT(ErrorOf(json.dump()), HasSubstr(says)) << changes;
  }
  Json after = SmallJson();
  after["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
  EXPECT_THAT(ErrorOf(after.dump()), HasSubstr("after ByteLevel"));
}

TEST_F(TokenizerJson, NestingIsBounded) {
  for (const auto& [key, list] : {std::pair{"normalizer", "normalizers"}, {"pre_tokenizer", "pretokenizers"}, {"post_processor", "processors"}}) {
    Json inner{{"type", "Sequence"}, {list, Json::array()}};
    for (int i = 0; i < 40; ++i) inner = {{"type", "Sequence"}, {list, {inner}}};
    Json json = SmallJson();
    json[key] = inner;
    EXPECT_THAT(ErrorOf(json.dump()), HasSubstr("nested deeper than 16")) << key;
  }
}

TEST_F(TokenizerJson, CutsAndFlippedBytesNeverCrash) {
  const std::string whole = SmallJson().dump();
  for (size_t n = 0; n < whole.size(); n += 7) EXPECT_NE(ErrorOf(whole.substr(0, n)), "no error") << n;
  Random random(11);
  for (int round = 0; round < 600; ++round) {
    std::string text = whole;
    for (int i = 0; i < 2; ++i) text[random.Below(text.size())] = static_cast<char>(random.Below(256));
    const auto tokenizer = LoadText(text);
    if (tokenizer.ok()) (void)(*tokenizer)->Decode((*tokenizer)->Encode("abc <s> \xFF cab", {.parse_special = true, .add_special = true}));
  }
}

TEST_F(TokenizerJson, MissingFolderAndFile) {
  EXPECT_EQ(Tokenizer::Load(dir_.File("nowhere")).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(Tokenizer::Load(dir_.path().string()).ok());
}

}  // namespace
}  // namespace baton
