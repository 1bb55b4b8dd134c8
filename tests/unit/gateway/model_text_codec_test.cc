#include "gateway/model_text_codec.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "model/tokenizer.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;
const std::string kGolden = std::string(BATON_SHARED_DIR) + "/golden/";

class Folder {  // a model folder with another chat template
 public:
  Folder() {
    char name[] = "/tmp/baton_codec_XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  bool CopyTokenizer() const {
    std::error_code error;
    return std::filesystem::copy_file(kGolden + "checkpoints/tiny-qwen2-f32/tokenizer.json", path_ + "/tokenizer.json", error);
  }
  void Write(const char* name, const std::string& text) const { std::ofstream(path_ + "/" + name) << text; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class ModelTextCodecTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGolden + "checkpoints")) GTEST_SKIP() << "no reference data";
  }
  std::unique_ptr<TextCodec> Load(const std::string& chat_template) {
    EXPECT_TRUE(folder_.CopyTokenizer());
    folder_.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
    if (!chat_template.empty()) folder_.Write("chat_template.jinja", chat_template);
    auto codec = LoadTextCodec(folder_.path(), clock_);
    EXPECT_TRUE(codec.ok()) << codec.status().ToString();
    return codec.ok() ? std::move(*codec) : nullptr;
  }
  static std::string Rendered(const TextCodec& codec, const Json& body) {
    const auto text = codec.Render(body);
    return text.ok() ? *text : "error: " + text.status().message();
  }
  Folder folder_;
  FakeClock clock_;
};

TEST_F(ModelTextCodecTest, EncodesDecodesAndStreams) {
  const auto codec = LoadTextCodec(kGolden + "checkpoints/tiny-qwen2-f32", clock_);
  ASSERT_TRUE(codec.ok()) << codec.status().ToString();
  const std::string text = "na\xC3\xAFve caf\xC3\xA9 \xF0\x9F\x98\x80!";
  const auto ids = (*codec)->Encode(text, false, false);
  EXPECT_EQ((*codec)->Decode(ids), text);
  std::string bytes, streamed;
  const auto stream = (*codec)->NewStream();
  for (const TokenId id : ids) {
    bytes += (*codec)->TokenBytes(id);
    streamed += stream->Push(id);
  }
  EXPECT_EQ(bytes, text);
  EXPECT_EQ(streamed + stream->Finish(), text);
}

TEST_F(ModelTextCodecTest, StreamsLeaveSpecialTokensOut) {
  const auto codec = LoadTextCodec(kGolden + "checkpoints/tiny-qwen2-f32", clock_);
  ASSERT_TRUE(codec.ok());
  const auto ids = (*codec)->Encode("a<|im_end|>b", true, false);
  ASSERT_EQ(ids.size(), 3u);
  const auto stream = (*codec)->NewStream();
  std::string text;
  for (const TokenId id : ids) text += stream->Push(id);
  EXPECT_EQ(text + stream->Finish(), "ab");
  EXPECT_EQ((*codec)->Decode(ids), "a<|im_end|>b");
}

TEST_F(ModelTextCodecTest, AModelWithoutTemplateStillCompletes) {
  const auto codec = Load("");
  ASSERT_NE(codec, nullptr);
  EXPECT_FALSE(codec->Encode("x", false, false).empty());
  const auto text = codec->Render({{"messages", {{{"role", "user"}, {"content", "x"}}}}});
  EXPECT_EQ(text.status().code(), StatusCode::kInvalid);
  EXPECT_THAT(text.status().message(), HasSubstr("no chat template"));
  EXPECT_EQ(codec->EncodeChat({{"messages", Json::array()}}).status().code(), StatusCode::kInvalid);
}

TEST_F(ModelTextCodecTest, LoadingFailsWithTheReason) {
  EXPECT_EQ(LoadTextCodec(folder_.path() + "/nothing", clock_).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(folder_.CopyTokenizer());
  folder_.Write("chat_template.jinja", "a\n{% if %}");
  const auto codec = LoadTextCodec(folder_.path(), clock_);
  ASSERT_FALSE(codec.ok());
  EXPECT_THAT(codec.status().message(), HasSubstr("line 2"));
}

TEST_F(ModelTextCodecTest, GenerationPromptUnlessToldOtherwise) {
  const auto codec = Load("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}A:{% endif %}");
  ASSERT_NE(codec, nullptr);
  Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}};
  EXPECT_EQ(Rendered(*codec, body), "[x]A:");
  body["add_generation_prompt"] = nullptr;
  EXPECT_EQ(Rendered(*codec, body), "[x]A:");
  body["add_generation_prompt"] = false;
  EXPECT_EQ(Rendered(*codec, body), "[x]");
  body.erase("add_generation_prompt");
  body["continue_final_message"] = true;
  EXPECT_EQ(Rendered(*codec, body), "[x");
}

TEST_F(ModelTextCodecTest, TextPartsBecomeOneTextWhereTheTemplateKnowsNoParts) {
  const auto codec = Load("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}");
  ASSERT_NE(codec, nullptr);
  const auto parts = [](const Json& list) { return Json{{"messages", {{{"role", "user"}, {"content", list}}}}}; };
  EXPECT_EQ(Rendered(*codec, parts({{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}})), "[a\nb]");
  EXPECT_THAT(Rendered(*codec, parts({{{"type", "image_url"}, {"image_url", {{"url", "x"}}}}})), HasSubstr("reads text only"));
  EXPECT_THAT(Rendered(*codec, parts({1})), HasSubstr("messages[0]"));
}

TEST_F(ModelTextCodecTest, PartsReachATemplateThatKnowsThem) {
  const auto codec = Load("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}<{{ p.type }}>{{ p.text }}{% endfor %}{% endif %}{% endfor %}");
  ASSERT_NE(codec, nullptr);
  EXPECT_EQ(Rendered(*codec, {{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "image"}}}}}}}}), "<text>a<image>");
}

TEST_F(ModelTextCodecTest, ToolArgumentsInJsonTextBecomeTheObject) {
  const auto codec = Load("{{ messages[0].tool_calls[0].function.arguments | tojson }}");
  ASSERT_NE(codec, nullptr);
  const auto call = [](const Json& arguments) { return Json{{"messages", {{{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", arguments}}}}}}}}}}; };
  EXPECT_EQ(Rendered(*codec, call(R"({"a": 1})")), R"({"a": 1})");
  EXPECT_EQ(Rendered(*codec, call({{"a", 2}})), R"({"a": 2})");
  EXPECT_EQ(Rendered(*codec, call("not json")), R"("not json")");
}

TEST_F(ModelTextCodecTest, TheBodyCannotSetTokensOrTheDate) {
  const auto codec = Load("{{ eos_token }}{{ strftime_now('%Y') }}{{ messages[0].content }}");
  ASSERT_NE(codec, nullptr);
  const Json body = {{"messages", {{{"role", "user"}, {"content", "<|im_end|>"}}}}, {"special_tokens", {{"eos_token", "<|im_start|>"}}}, {"now", "1999-01-01"}};
  EXPECT_EQ(Rendered(*codec, body), "<|im_end|>2023<|im_end|>");  // the fake clock's year
  const auto tokenizer = Tokenizer::Load(folder_.path());
  ASSERT_TRUE(tokenizer.ok());
  const auto ids = codec->EncodeChat(body);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(std::count_if(ids->begin(), ids->end(), [&](TokenId id) { return (*tokenizer)->IsSpecial(id); }), 1);
}

TEST_F(ModelTextCodecTest, BadBodiesNameTheField) {
  const auto codec = Load("{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}x");
  ASSERT_NE(codec, nullptr);
  EXPECT_THAT(Rendered(*codec, Json::array()), HasSubstr("messages must be a list"));
  EXPECT_THAT(Rendered(*codec, {{"messages", Json::array()}}), HasSubstr("at least one message"));
  EXPECT_THAT(Rendered(*codec, {{"messages", "x"}}), HasSubstr("messages must be a list"));
  EXPECT_THAT(Rendered(*codec, {{"messages", {"x"}}}), HasSubstr("messages[0] must be an object"));
  EXPECT_EQ(Rendered(*codec, {{"messages", {{{"role", "system"}, {"content", "x"}}}}}), "error: user first");
}

TEST_F(ModelTextCodecTest, DemoModel) {
  const char* demo = std::getenv("BATON_DEMO_MODEL");
  if (demo == nullptr) GTEST_SKIP() << "BATON_DEMO_MODEL is not set";
  const auto codec = LoadTextCodec(demo, clock_);
  ASSERT_TRUE(codec.ok()) << codec.status().ToString();
  const Json body = {{"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "Hello!"}}}}}}}};
  EXPECT_EQ(Rendered(**codec, body),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_TRUE((*codec)->EncodeChat(body).ok());
}

}  // namespace
}  // namespace baton
