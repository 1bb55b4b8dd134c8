// Prompts and token lists in files as users give them: what is read, and what is said about those that are none.
#include "app/prompt_input.h"

#include <filesystem>

#include "app/json_input.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/run_program.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

const std::string kModel = BATON_SHARED_DIR "/golden/checkpoints/tiny-qwen2-f32";

class PromptInputTest : public testing::Test {
 protected:
  PromptInputTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "baton-prompt-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~PromptInputTest() override { std::filesystem::remove_all(folder_); }
  void SetUp() override {
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no reference data at " << kModel;
  }
  std::string File(const std::string& text) {
    std::ofstream(folder_ + "/in.json", std::ios::binary) << text;
    return folder_ + "/in.json";
  }
  /// Why a file is neither ids nor a chat; both ways of asking must say the same kind of thing.
  std::string Refusal(const std::string& text, bool as_messages = false) {
    LazyTokenizer lazy(kModel);
    const auto ids = as_messages ? ReadPrompt({.messages_file = File(text)}, lazy) : ReadTokensFile(File(text), lazy);
    EXPECT_EQ(ids.status().code(), StatusCode::kInvalid) << text.substr(0, 80);
    EXPECT_THAT(ids.status().message(), HasSubstr("in.json")) << text.substr(0, 80);
    EXPECT_LT(ids.status().message().size(), 1000u) << text.substr(0, 80);
    return ids.status().message();
  }
  std::string folder_;
};

TEST_F(PromptInputTest, IdsInEveryWriting) {
  LazyTokenizer no_model("/nowhere");  // ids alone need no tokenizer
  for (const char* text : {"[1,2,3]", " [ 1 ,\n2,\t3 ]\n", "\xef\xbb\xbf[1,2,3]", "[1,2,3]\r\n"}) {
    const auto ids = ReadTokensFile(File(text), no_model);
    ASSERT_TRUE(ids.ok()) << ids.status().ToString();
    EXPECT_THAT(*ids, ElementsAre(1, 2, 3)) << text;
  }
  EXPECT_TRUE(ReadTokensFile(File("[]"), no_model)->empty());
  EXPECT_THAT(*ReadTokensFile(File("[2147483647,0]"), no_model), ElementsAre(2147483647, 0));
}

TEST_F(PromptInputTest, WhatIsNeitherIdsNorChat) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"", "parse error"},
                                                                  {"[1, 2", "parse error at line 1, column"},
                                                                  {"[1,\n2,\n}", "line 3"},
                                                                  {"[1,2,]", "parse error"},
                                                                  {"[1] [2]", "parse error"},
                                                                  {"1,2,3", "parse error"},
                                                                  {"NaN", "parse error"},
                                                                  {"[\"\xff\"]", "UTF-8"},
                                                                  {"7", "list of token ids"},
                                                                  {"null", "list of token ids"},
                                                                  {"\"text\"", "list of token ids"},
                                                                  {"[1,-1]", "entry 1 is -1"},
                                                                  {"[1.0]", "entry 0 is 1.0"},
                                                                  {"[2147483648]", "entry 0 is 2147483648"},
                                                                  {"[9223372036854775808]", "entry 0 is 9223372036854775808"},
                                                                  {"[1e400]", "number"},
                                                                  {"[true]", "entry 0 is true"},
                                                                  {"[[1]]", "entry 0 is [1]"},
                                                                  {"[\"" + std::string(1 << 20, 'x') + "\"]", "entry 0 is \"xxx"},
                                                                  {std::string(1 << 20, '['), "nested deeper than 64"},
                                                                  {"[" + std::string(60, '[') + std::string(60, ']') + "]", "entry 0 is [[["},
                                                                  {"{}", "no \"messages\""},
                                                                  {R"({"prompt":"a"})", "no \"messages\""},
                                                                  {R"({"messages":5})", "messages"},
                                                                  {R"({"messages":[]})", "messages"},
                                                                  {R"({"messages":[5]})", "messages"},
                                                                  {R"({"messages":[{"content":"a"}]})", "messages"}};
  for (const auto& [text, words] : cases) EXPECT_THAT(Refusal(text), HasSubstr(words)) << text.substr(0, 60);
}

TEST_F(PromptInputTest, MessagesThatAreNone) {
  for (const char* text : {"5", "\"a\"", "null", "{}", "[]", "[1,2]", "[[]]", R"([{"role":5,"content":"a"}])", R"({"messages":{"role":"user"}})"}) Refusal(text, true);
  EXPECT_THAT(Refusal("[{\"role\":\"user\",\"content\":\"\xc3\"}]", true), HasSubstr("UTF-8"));
}

TEST_F(PromptInputTest, AChatIsTheSameInEveryFormAndSpelling) {
  LazyTokenizer lazy(kModel);
  const std::string message = R"({"role":"user","content":"Tell me of the river."})";
  const auto list = ReadPrompt({.messages_file = File("[" + message + "]")}, lazy);
  ASSERT_TRUE(list.ok()) << list.status().ToString();
  EXPECT_GT(list->size(), 4u);
  EXPECT_EQ(*ReadPrompt({.messages_file = File("{\"messages\":[" + message + "]}")}, lazy), *list);
  EXPECT_EQ(*ReadTokensFile(File("{\"messages\":[" + message + "],\"temperature\":1}"), lazy), *list) << "what is not of the prompt is left alone";
  EXPECT_EQ(*ReadPrompt({.messages_file = File("[{\"content\":[{\"type\":\"text\",\"text\":\"Tell me of the river.\"}],\"role\":\"user\"}]")}, lazy), *list) << "content in parts";
  const auto bare = ReadTokensFile(File("{\"messages\":[" + message + "],\"add_generation_prompt\":false}"), lazy);
  ASSERT_TRUE(bare.ok());
  EXPECT_LT(bare->size(), list->size());
  EXPECT_TRUE(std::equal(bare->begin(), bare->end(), list->begin())) << "the generation prompt comes last";
}

TEST_F(PromptInputTest, ContentCannotInjectControlTokensAPromptMay) {
  LazyTokenizer lazy(kModel);
  const auto typed = ReadPrompt({.text = "<|im_end|>"}, lazy);
  ASSERT_TRUE(typed.ok());
  EXPECT_EQ(typed->size(), 1u) << "in a prompt it is the token";
  const auto chat = ReadPrompt({.messages_file = File(R"([{"role":"user","content":"<|im_end|>"}])")}, lazy);
  const auto plain = ReadPrompt({.messages_file = File(R"([{"role":"user","content":""}])")}, lazy);
  ASSERT_TRUE(chat.ok() && plain.ok());
  EXPECT_EQ(std::count(chat->begin(), chat->end(), typed->front()), std::count(plain->begin(), plain->end(), typed->front())) << "in content it is text";
}

TEST_F(PromptInputTest, FilesThatCannotBeRead) {
  LazyTokenizer lazy(kModel);
  const auto missing = ReadTokensFile(folder_ + "/none.json", lazy);
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), testing::AllOf(HasSubstr("none.json"), HasSubstr("No such file")));
  EXPECT_THAT(ReadTokensFile(folder_, lazy).status().message(), testing::AllOf(HasSubstr(folder_), HasSubstr("directory")));
  EXPECT_EQ(ReadPrompt({.messages_file = ""}, lazy)->size(), ReadPrompt({.text = ""}, lazy)->size()) << "no file: the text";
  LazyTokenizer nowhere("/nowhere");
  EXPECT_THAT(ReadPrompt({.text = "a"}, nowhere).status().message(), HasSubstr("/nowhere"));
}

TEST(JsonInputTest, ValuesAreShownShortAndPrintable) {
  EXPECT_EQ(ShortJson(Json(5)), "5");
  EXPECT_EQ(ShortJson(Json("caf\xc3\xa9\n")), "\"caf\\u00e9\\n\"");
  EXPECT_EQ(ShortJson(Json("\xff")), "\"\\ufffd\"");
  EXPECT_EQ(ShortJson(Json{{"a", {1, 2}}}), R"({"a":[1,2]})");
  const std::string cut = ShortJson(Json(std::string(1000, '\xff')));
  EXPECT_TRUE(cut.ends_with("…")) << cut;
  EXPECT_LT(cut.size(), 70u);
}

TEST(JsonInputTest, TheVocabularyIsTheLimit) {
  for (const uint32_t vocab : {1u, 2u, 400u, 1u << 31}) {
    EXPECT_TRUE(TokenIdsOf(Json{0, vocab - 1}, vocab).ok()) << vocab;
    EXPECT_THAT(TokenIdsOf(Json{0, vocab}, vocab).status().message(), HasSubstr(fmt::format("entry 1 is {0}, must be a token id from 0 to {1}", vocab, vocab - 1)));
  }
  EXPECT_FALSE(TokenIdsOf(Json(nullptr), 5).ok());
  EXPECT_FALSE(TokenIdsOf(Json::object(), 5).ok());
  EXPECT_TRUE(TokenIdsOf(Json::array(), 5)->empty());
}

// ---- the commands that answer a line of JSON with a line of JSON ----

class LineCommandsTest : public PromptInputTest {
 protected:
  std::vector<Json> Lines(std::vector<std::string> arguments, const std::string& input) {
    arguments.insert(arguments.begin() + 1, {"--model", kModel});
    const Outcome run = RunBaton(arguments, input);
    EXPECT_EQ(run.code, 0) << run.err;
    std::vector<Json> rows;
    std::istringstream out(run.out);
    for (std::string line; std::getline(out, line);) rows.push_back(Json::parse(line));
    return rows;
  }
};

TEST_F(LineCommandsTest, ABadLineIsAnsweredInItsPlaceAndTheRestGoesOn) {
  const std::string deep = std::string(1 << 20, '['), bad_utf8 = "{\"text\":\"\xff\"}", many = "{" + [] {
    std::string keys;
    for (int i = 0; i < 5000; ++i) keys += "\"k" + std::to_string(i) + "\":1,";
    return keys;
  }() + "\"text\":\"a\"}";
  const std::string good = R"({"text":"a b","ids":[1,2],"messages":[{"role":"user","content":"x"}]})";
  for (const std::string command : {"tokenize", "detokenize", "render"}) {
    const auto rows = Lines({command}, good + "\n" + deep + "\n\n  \t\r\n[]\n5\n\"x\"\n{\n" + bad_utf8 + "\n" + many + "\n{}\n" + good);
    ASSERT_EQ(rows.size(), 10u) << command << ": empty lines have no answer, all others one";
    EXPECT_FALSE(rows.front().contains("error")) << command << rows.front();
    EXPECT_EQ(rows.front(), rows.back()) << command << ": the last line needs no end";
    for (size_t i = 1; i + 1 < rows.size(); ++i) EXPECT_EQ(rows[i].size(), 1u) << command << i;
    EXPECT_THAT(rows[1]["error"].get<std::string>(), HasSubstr("nested deeper than 64")) << command;
    EXPECT_THAT(rows[2]["error"].get<std::string>(), HasSubstr("JSON array, not an object")) << command;
    EXPECT_THAT(rows[3]["error"].get<std::string>(), HasSubstr("JSON number")) << command;
    EXPECT_THAT(rows[5]["error"].get<std::string>(), HasSubstr("parse error")) << command;
    EXPECT_THAT(rows[6]["error"].get<std::string>(), HasSubstr("UTF-8")) << command;
    EXPECT_THAT(rows[7]["error"].get<std::string>(), HasSubstr("more than 4096 keys")) << command;
  }
}

TEST_F(LineCommandsTest, TextComesBackThroughItsIds) {
  const std::vector<std::string> texts = {"", " ", "a", "  two  spaces ", "line\nline\r\n\ttab", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8e\xbd", "<|im_start|>", "a\\b\"c", "0123456789 3.14", "\xe4\xb8\xad\xe6\x96\x87"};
  std::string input;
  for (const std::string& text : texts) input += Json{{"text", text}}.dump() + "\n";
  const auto ids = Lines({"tokenize", "--plain"}, input);
  ASSERT_EQ(ids.size(), texts.size());
  std::string back;
  for (const Json& row : ids) back += row.dump() + "\n";
  const auto again = Lines({"detokenize"}, back);
  ASSERT_EQ(again.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(again[i]["text"], texts[i]) << i;
}

TEST_F(LineCommandsTest, TemplatesThatCannotBeRead) {
  const Outcome missing = RunBaton({"render", "--template", folder_ + "/none.jinja"}, "{}\n");
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, testing::AllOf(HasSubstr("none.jinja"), HasSubstr("No such file")));
  const Outcome folder = RunBaton({"render", "--template", folder_}, "{}\n");
  EXPECT_NE(folder.code, 0);
  EXPECT_THAT(folder.err, HasSubstr(folder_));
  EXPECT_EQ(missing.out + folder.out, "");
  EXPECT_EQ(RunBaton({"render", "--template", folder_ + "/none", "--model", kModel}).code, 2) << "one of them";
}

}  // namespace
}  // namespace baton
