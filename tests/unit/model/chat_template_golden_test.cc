// Every vector of golden/chat_templates, and the chat cases of golden/refs.
#include <filesystem>

#include "model/chat_template.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
const std::string kGolden = std::string(BATON_SHARED_DIR) + "/golden/";

Json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return Json::parse(in, nullptr, false);
}

Json InputOf(const Json& vector, const Json& now) {
  Json input = {{"messages", vector["messages"]},   {"tools", vector["tools"]},
                {"documents", vector["documents"]}, {"add_generation_prompt", vector["add_generation_prompt"]},
                {"special_tokens", vector["special_tokens"]}, {"chat_template_kwargs", vector["kwargs"]}, {"now", now}};
  if (vector.contains("continue_final_message")) input["continue_final_message"] = vector["continue_final_message"];
  return input;
}

TEST(ChatTemplateGolden, EveryVector) {
  const Json templates = ReadJson(kGolden + "chat_templates/templates.json");
  const Json file = ReadJson(kGolden + "chat_templates/vectors.json");
  if (file.is_discarded() || templates.is_discarded()) GTEST_SKIP() << "no reference data";
  size_t rendered = 0, failed = 0;
  for (const Json& vector : file["vectors"]) {
    SCOPED_TRACE(vector["name"].get<std::string>());
    auto parsed = ChatTemplate::Parse(templates[vector["template"].get<std::string>()]["source"].get<std::string>());
    if (vector.contains("error")) {
      ++failed;
      const Json& error = vector["error"];
      if (!parsed.ok()) {
        EXPECT_EQ(error["type"], "TemplateSyntaxError");
        continue;
      }
      const auto text = parsed->Render(InputOf(vector, file["now"]));
      ASSERT_FALSE(text.ok()) << *text;
      EXPECT_EQ(text.status().code(), StatusCode::kInvalid);
      if (error["type"] == "TemplateError") {
        EXPECT_EQ(text.status().message(), error["message"].get<std::string>());
      }
      continue;
    }
    ++rendered;
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    const auto text = parsed->Render(InputOf(vector, file["now"]));
    ASSERT_TRUE(text.ok()) << text.status().ToString();
    EXPECT_EQ(*text, vector["rendered"].get<std::string>());
  }
  EXPECT_EQ(rendered + failed, file["n"].get<size_t>());
  EXPECT_GE(failed, 20u);
}

TEST(ChatTemplateGolden, ChatCasesOfEveryCheckpoint) {
  std::error_code error;
  size_t cases = 0;
  for (const auto& folder : std::filesystem::directory_iterator(kGolden + "refs", error)) {
    if (!folder.is_directory()) continue;
    const std::string name = folder.path().filename().string();
    const Json chat = ReadJson(folder.path().string() + "/chat.json");
    if (chat.is_discarded()) continue;
    const auto tokenizer = Tokenizer::Load(kGolden + "checkpoints/" + name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    const auto parsed = ChatTemplate::Parse((*tokenizer)->chat_template());
    ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
    const Json input = {{"messages", chat["messages"]}, {"add_generation_prompt", true}, {"now", "2024-07-26"}, {"special_tokens", (*tokenizer)->special_tokens()}};
    const auto text = parsed->Render(input);
    ASSERT_TRUE(text.ok()) << name << ": " << text.status().ToString();
    EXPECT_EQ(*text, chat["rendered"].get<std::string>()) << name;
    const auto ids = EncodeChat(**tokenizer, *parsed, input);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, chat["input_ids"].get<std::vector<TokenId>>()) << name;
    ++cases;
  }
  if (cases == 0) GTEST_SKIP() << "no reference data";
  EXPECT_GE(cases, 4u);
}

}  // namespace
}  // namespace baton
