// Templates, and what they must give, as tables. The variables are those of kTemplateInput.
#pragma once

#include <span>
#include <string>

#include "model/chat_template.h"

namespace baton {

/// A template's source (or only an expression), and its output or a part of its error.
struct TemplateCase {
  const char *source, *expected;
};

constexpr const char* kTemplateInput = R"json({
  "messages": [{"role": "system", "content": "Be <brief> & \"nice\" \u00e9"}, {"role": "user", "content": "Hi\n there", "n": [1, 2.5, true]}],
  "add_generation_prompt": true, "special_tokens": {"bos_token": "<s>"}, "now": "2026-11-24T09:05:07",
  "chat_template_kwargs": {"kw": {"a": {"b": 1}}, "kwlist": ["x", "y"], "kwnum": 41, "kwfloat": 2.0, "kwnull": null, "kwbool": true}})json";

inline Result<std::string> RenderTemplate(const std::string& source) {
  static const auto input = nlohmann::ordered_json::parse(kTemplateInput);
  ASSIGN_OR_RETURN(const ChatTemplate parsed, ChatTemplate::Parse(source));
  return parsed.Render(input);
}

inline void ExpectTemplate(const std::string& source, const char* expected) {
  const auto text = RenderTemplate(source);
  ASSERT_TRUE(text.ok()) << source << "\n" << text.status().ToString();
  EXPECT_EQ(*text, expected) << source;
}
inline void ExpectTemplates(std::span<const TemplateCase> cases) {
  for (const TemplateCase& c : cases) ExpectTemplate(c.source, c.expected);
}
/// Each source is an expression.
inline void ExpectValues(std::span<const TemplateCase> cases) {
  for (const TemplateCase& c : cases) ExpectTemplate(std::string("{{ ") + c.source + " }}", c.expected);
}
/// Each source is an expression that fails with the message.
inline void ExpectFailures(std::span<const TemplateCase> cases) {
  for (const TemplateCase& c : cases) {
    const auto text = RenderTemplate(std::string("{{ ") + c.source + " }}");
    ASSERT_FALSE(text.ok()) << c.source << " gave " << *text;
    EXPECT_EQ(text.status().code(), StatusCode::kInvalid) << c.source;
    EXPECT_THAT(text.status().message(), testing::EndsWith(c.expected)) << c.source;
  }
}

}  // namespace baton
