// /v1/responses: its request's names for what chat completions ask.
#include <fmt/format.h>

#include "gateway/answer_request.h"
#include "gateway/field_reader.h"
#include "gateway/output_form.h"

namespace baton {

std::optional<ApiError> ReadResponsesRequest(const nlohmann::ordered_json& body, const TextCodec& codec, const ModelCard& card, AnswerRequest& out) {
  using Json = nlohmann::ordered_json;
  FieldReader fields(body);
  for (const char* name : {"previous_response_id", "conversation", "background", "prompt"}) {
    const Json* value = fields.Find(name);
    if (value != nullptr && *value != false) return BadRequest(name, fmt::format("'{}' is not supported: this server keeps no responses; send the whole input", name));
  }
  if (const Json* tools = fields.Find("tools"); tools != nullptr && !tools->empty()) {
    return BadRequest("tools", "'tools' are supported in /v1/chat/completions; the responses API of this server gives text");
  }
  const std::string grammar = ReadTextFormat(fields);
  const Json* input = fields.Find("input");
  if (input == nullptr || !(input->is_string() || input->is_array())) {
    return BadRequest("input", "'input' must be a string or a list of messages");
  }
  std::string instructions;
  Json chat = Json::object();
  for (const auto& [name, value] : body.items()) {  // what both APIs share keeps its name
    if (name != "input" && name != "instructions" && name != "max_output_tokens" && name != "text" && name != "top_logprobs") chat[name] = value;
  }
  chat["messages"] = Json::array();
  if (fields.String("instructions", instructions)) chat["messages"].push_back({{"role", "system"}, {"content", instructions}});
  if (fields.error()) return *fields.error();
  if (const Json* limit = fields.Find("max_output_tokens")) chat["max_tokens"] = *limit;
  if (input->is_string()) {
    chat["messages"].push_back({{"role", "user"}, {"content", *input}});
  } else {
    for (const Json& item : *input) chat["messages"].push_back(item);
  }
  auto error = ReadChatRequest(std::move(chat), codec, card, out);
  if (!grammar.empty()) out.sampling.grammar = grammar;
  if (!error && out.n != 1) error = BadRequest("n", "'n' is not part of the responses API");
  if (error) RenameParam(*error, "max_tokens", "max_output_tokens");
  if (error) RenameParam(*error, "messages", "input");
  return error;
}

}  // namespace baton
