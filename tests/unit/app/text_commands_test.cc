// tokenize, detokenize and render as a user runs them.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
const std::string kGolden = std::string(BATON_SHARED_DIR) + "/golden/";

class TextCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(BATON_BINARY)) GTEST_SKIP() << "the program is not built";
    if (!std::filesystem::exists(kGolden)) GTEST_SKIP() << "no reference data";
    char name[] = "/tmp/baton_text_XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override {
    std::error_code error;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, error);
  }
  std::string Write(const char* name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }
  /// The lines of stdout and the exit code.
  std::vector<Json> Run(const std::string& arguments, const std::string& input) {
    const std::string command = std::string(BATON_BINARY) + " " + arguments + " < " + Write("input", input) + " 2>/dev/null";
    FILE* pipe = popen(command.c_str(), "r");
    std::string out;
    char buffer[4096];
    for (size_t n = 0; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) out.append(buffer, n);
    code_ = WEXITSTATUS(pclose(pipe));
    std::vector<Json> lines;
    std::istringstream stream(out);
    for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line, nullptr, false));
    return lines;
  }
  std::string folder_;
  int code_ = -1;
};

TEST_F(TextCommands, TokenizeAndBack) {
  const std::string model = "--model " + kGolden + "checkpoints/tiny-qwen2-f32";
  const auto ids = Run("tokenize " + model, "{\"text\":\"a<|im_end|>\"}\n\n{\"text\":5}\nnot json\n{\"text\":\"\"}\n");
  EXPECT_EQ(code_, 0);
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(ids[0]["ids"].size(), 2u);
  EXPECT_TRUE(ids[1].contains("error"));
  EXPECT_TRUE(ids[2].contains("error"));
  EXPECT_EQ(ids[3], Json({{"ids", Json::array()}}));
  const auto plain = Run("tokenize --plain " + model, "{\"text\":\"a<|im_end|>\"}\n");
  ASSERT_EQ(plain.size(), 1u);
  EXPECT_GT(plain[0]["ids"].size(), 2u);
  const auto text = Run("detokenize " + model, ids[0].dump() + "\n{\"ids\":[\"x\"]}\n{\"ids\":[-1,99999999]}\n{\"ids\":[18446744073709551615]}\n");
  ASSERT_EQ(text.size(), 4u);
  EXPECT_EQ(text[0]["text"], "a<|im_end|>");
  EXPECT_TRUE(text[1].contains("error"));
  EXPECT_EQ(text[2]["text"], "");
  EXPECT_TRUE(text[3].contains("error"));
}

TEST_F(TextCommands, AddSpecialPutsBosInFront) {
  const std::string model = "--model " + kGolden + "checkpoints/tiny-llama-untied-bf16";
  const auto bare = Run("tokenize " + model, "{\"text\":\"a\"}\n"), full = Run("tokenize --add-special " + model, "{\"text\":\"a\"}\n");
  ASSERT_TRUE(bare.size() == 1 && full.size() == 1);
  EXPECT_EQ(full[0]["ids"].size(), bare[0]["ids"].size() + 1);
}

TEST_F(TextCommands, RenderATemplateFile) {
  const std::string file = Write("t.jinja", "{{ bos_token }}{{ messages[0].content }}{% if messages[0].role == 'x' %}{{ raise_exception('no x') }}{% endif %}");
  const auto lines = Run("render --template " + file,
                         R"({"messages":[{"role":"user","content":"hi"}],"special_tokens":{"bos_token":"<s>"}})" "\n"
                         R"({"messages":[{"role":"x","content":"hi"}]})" "\n" "{}\n");
  EXPECT_EQ(code_, 0);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], Json({{"text", "<s>hi"}}));
  EXPECT_EQ(lines[1], Json({{"error", "no x"}}));
  EXPECT_TRUE(lines[2].contains("error"));
}

TEST_F(TextCommands, WrongUsage) {
  Run("render", "");
  EXPECT_EQ(code_, 2);
  Run("render --template " + folder_ + "/none", "");
  EXPECT_EQ(code_, 2);
  Run("tokenize --model " + folder_, "");
  EXPECT_EQ(code_, 2);
}

}  // namespace
}  // namespace baton
