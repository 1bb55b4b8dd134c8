// Any bytes as a chat template: parse and render end, within bounds, and the marks fit the text.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "model/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = baton::ChatTemplate::Parse(std::string(reinterpret_cast<const char*>(data), size));
  if (!parsed.ok()) return 0;
  static const auto input = nlohmann::ordered_json::parse(
      R"({"messages": [{"role": "system", "content": "Be <brief>"}, {"role": "user", "content": [{"type": "text", "text": "h\u00e9"}]}],
          "tools": [{"function": {"name": "f", "parameters": {"type": "object"}}}], "add_generation_prompt": true,
          "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"}, "chat_template_kwargs": {"n": 3, "x": 1.5}})");
  const auto marked = parsed->RenderMarked(input);
  if (marked.ok()) CHECK(marked->text.size() == marked->untrusted.size());
  return 0;
}
