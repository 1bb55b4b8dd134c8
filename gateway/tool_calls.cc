#include "gateway/tool_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "gateway/json_text.h"
#include "model/grammar/grammar_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>", kSpace = " \t\r\n";

/// Bytes at the end of `text` that begin `word`.
size_t PartialEnd(std::string_view text, std::string_view word) {
  for (size_t n = std::min(text.size(), word.size() - 1); n > 0; --n) {
    if (text.ends_with(word.substr(0, n))) return n;
  }
  return 0;
}

/// References of a schema that now stands at `place` of a larger one.
void MoveReferences(Json& schema, const std::string& place) {
  if (schema.is_array() || schema.is_object()) {
    for (auto& [key, value] : schema.items()) {
      const bool reference = key == "$ref" && value.is_string() && value.get_ref<const std::string&>().starts_with('#');
      if (reference) value = "#" + place + value.get_ref<const std::string&>().substr(1);
      else MoveReferences(value, place);
    }
  }
}

}  // namespace

bool ToolCallReader::AddCall(std::string_view json, Piece& out) {
  const auto call = ParseJsonObject(json);  // under a body's limits: what a model wrote may be as hostile
  if (!call.ok() || !call->contains("name") || !(*call)["name"].is_string()) return false;
  const std::string name = (*call)["name"].get<std::string>();
  const auto arguments = call->contains("arguments") ? call->find("arguments") : call->find("parameters");
  if (std::find(names_.begin(), names_.end(), name) == names_.end()) return false;
  if (arguments != call->end() && !arguments->is_object() && !arguments->is_string()) return false;
  std::string text = "{}";
  if (arguments != call->end()) text = arguments->is_string() ? arguments->get<std::string>() : arguments->dump(-1, ' ', false, Json::error_handler_t::replace);
  out.calls.push_back({name, std::move(text)});
  ++calls_;
  return true;
}

/// White space before the first word decides nothing and is no text of its own before a call.
void ToolCallReader::ReadStart() {
  const size_t begin = held_.find_first_not_of(kSpace);
  if (begin == std::string::npos) return;
  const std::string_view rest = std::string_view(held_).substr(begin);
  if (rest[0] == '{' && calls_ == 0) {
    state_ = State::kBare;
  } else if (rest.starts_with(kOpen)) {
    lead_ = calls_ == 0 ? held_.substr(0, begin) : "";
    held_.erase(0, begin + kOpen.size());
    state_ = State::kCall;
  } else if (!kOpen.starts_with(rest)) {
    if (calls_ > 0) held_.erase(0, begin);
    state_ = State::kText;
  }
}

bool ToolCallReader::ReadText(Piece& out) {
  const size_t open = held_.find(kOpen);
  const size_t sure = open == std::string::npos ? held_.size() - PartialEnd(held_, kOpen) : open;
  out.text += held_.substr(0, sure);
  lead_.clear();
  held_.erase(0, open == std::string::npos ? sure : open + kOpen.size());
  if (open != std::string::npos) state_ = State::kCall;
  return open != std::string::npos;
}

bool ToolCallReader::ReadCall(Piece& out) {
  const size_t close = held_.find(kClose);
  if (close == std::string::npos) return false;
  if (!AddCall(std::string_view(held_).substr(0, close), out)) out.text += lead_ + std::string(kOpen) + held_.substr(0, close + kClose.size());
  held_.erase(0, close + kClose.size());
  state_ = State::kStart;
  return true;
}

ToolCallReader::Piece ToolCallReader::Push(std::string_view text) {
  Piece out;
  if (state_ == State::kOff) {
    out.text = text;
    return out;
  }
  held_ += text;
  bool more = true;
  while (more) {
    if (state_ == State::kStart) ReadStart();
    more = (state_ == State::kText && ReadText(out)) || (state_ == State::kCall && ReadCall(out));
  }
  return out;
}

ToolCallReader::Piece ToolCallReader::Finish() {
  Piece out;
  const bool call = (state_ == State::kBare || state_ == State::kCall) && AddCall(held_, out);
  const bool blank = state_ == State::kStart && held_.find_first_not_of(kSpace) == std::string::npos && calls_ > 0;
  if (!call && !blank) out.text = (state_ == State::kCall ? lead_ + std::string(kOpen) : "") + held_;
  held_.clear();
  return out;
}

ToolCallReader::Piece ToolCallReader::PushLast(std::string_view text) {
  Piece out = Push(text), held = Finish();
  out.text += held.text;
  out.calls.insert(out.calls.end(), held.calls.begin(), held.calls.end());
  return out;
}

Result<std::string> ToolCallGbnf(const Json& tools, const std::string& only) {
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const Json& function = tool.at("function");
    if (!only.empty() && function.at("name") != only) continue;
    Json parameters = function.contains("parameters") && !function["parameters"].is_null() ? function["parameters"] : Json{{"type", "object"}};
    MoveReferences(parameters, fmt::format("/anyOf/{}/properties/arguments", calls.size()));
    calls.push_back({{"type", "object"}, {"properties", {{"name", {{"const", function["name"]}}}, {"arguments", std::move(parameters)}}}, {"required", {"name", "arguments"}}});
  }
  if (calls.empty()) return InvalidError("there is no tool \"{}\"", only);
  ASSIGN_OR_RETURN(const std::string gbnf, JsonSchemaToGbnf(Json{{"anyOf", std::move(calls)}}));
  constexpr std::string_view kRoot = "root ::= ";
  return "root ::= " + LiteralExpression(kOpen) + " [\\n] call [\\n] " + LiteralExpression(kClose) + "\ncall ::= " + gbnf.substr(kRoot.size());
}

}  // namespace baton
