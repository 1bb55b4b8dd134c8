#include "model/chat_template.h"

#include <algorithm>
#include <cstdio>

#include "model/jinja/ast.h"
#include "model/jinja/json.h"
#include "model/jinja/objects.h"
#include "model/jinja/parser.h"
#include "model/jinja/run.h"
#include "model/jinja/unicode.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;
using jinja::Dict;
using jinja::List;
using jinja::Run;
using jinja::Text;
using jinja::Value;

// Templates build control tokens from these ("<|" + role + "|>"), and no caller can hide another token in them.
constexpr std::string_view kKnownRoles[] = {"system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "observation"};
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";  // the reference's marker, which some templates look for

const Json* Find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// "2026-11-24T09:05:07", a fraction and a zone ignored, as seconds since 1970.
Result<int64_t> ParseNow(const Json* now) {
  if (now == nullptr) return int64_t{0};
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  const std::string text = now->is_string() ? now->get<std::string>() : "";
  const int fields = std::sscanf(text.c_str(), "%4d-%2d-%2d%*[T ]%2d:%2d:%2d", &year, &month, &day, &hour, &minute, &second);
  const bool valid = fields >= 3 && year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= 31 &&
                     hour >= 0 && hour < 24 && minute >= 0 && minute < 60 && second >= 0 && second <= 60;
  if (!valid) return InvalidError("now must be an ISO 8601 time such as 2026-11-24T09:05:07");
  // Days since 1970 of the proleptic Gregorian calendar, years beginning in March.
  const int64_t y = month <= 2 ? year - 1 : year;
  const int64_t era = y / 400, year_of_era = y % 400;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  const int64_t days = era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
  return ((days * 24 + hour) * 60 + minute) * 60 + second;
}

/// The messages as templates get them: without null values, the reasoning under both of its names.
Result<Json> NormalizeMessages(const Json& input) {
  const Json* messages = Find(input, "messages");
  if (messages == nullptr || !messages->is_array()) return InvalidError("messages must be a list");
  Json out = Json::array();
  for (const Json& message : *messages) {
    if (!message.is_object()) return InvalidError("messages[{}] must be an object", out.size());
    Json kept = Json::object();
    for (const auto& [key, value] : message.items()) {
      if (!value.is_null()) kept[key] = value;
    }
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
      if (!kept.contains(name)) continue;
      const Json reasoning = kept[name];
      kept["reasoning_content"] = reasoning;
      if (!kept.contains("thinking")) kept["thinking"] = reasoning;
      break;
    }
    out.push_back(std::move(kept));
  }
  return out;
}

/// The field that continue_final_message names, or "".
std::string ContinuedField(const Json& input) {
  const Json* value = Find(input, "continue_final_message");
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  return value->is_boolean() && value->get<bool>() ? "content" : "";
}

/// Puts the marker behind the last message's text.
Status MarkEnd(Json& messages, const std::string& field) {
  if (messages.empty() || Find(messages.back(), field) == nullptr) return InvalidError("continue_final_message is set, but the last message has no '{}' to continue", field);
  Json* text = &messages.back()[field];
  if (text->is_array()) {
    Json* last = nullptr;
    for (Json& part : *text) {
      if (part.is_object() && part.contains("text")) last = &part["text"];
    }
    if (last == nullptr) return InvalidError("continue_final_message is set, but the last message has no text part");
    text = last;
  }
  if (!text->is_string()) return InvalidError("continue_final_message is set, but the last message's '{}' is not text", field);
  *text = text->get<std::string>() + std::string(kContinueTag);
  return OkStatus();
}

/// Cuts at the marker; where the template stripped the message, what is left is stripped too.
Status CutAtMark(Text& text) {
  const size_t at = text.bytes.rfind(kContinueTag.substr(0, kContinueTag.size() - 1));
  if (at == std::string::npos) return InvalidError("continue_final_message is set, but the chat template does not show the last message's text");
  const bool kept = text.bytes.compare(at, kContinueTag.size(), kContinueTag) == 0;
  text = text.Sub(0, at);
  if (!kept) text = text.Sub(0, text.bytes.size() - jinja::TrailingSpace(text.bytes));
  return OkStatus();
}

Value MessageValues(Run& run, const Json& messages) {
  List list;
  list.from_user = true;
  for (const Json& message : messages) {
    Dict dict;
    dict.from_user = true;
    for (const auto& [key, value] : message.items()) {
      const bool known = key == "role" && value.is_string() &&
                         std::find(std::begin(kKnownRoles), std::end(kKnownRoles), value.get_ref<const std::string&>()) != std::end(kKnownRoles);
      dict.Set(Value::String(Text(key, true)), jinja::FromJson(run, value, !known));
    }
    list.items.push_back(Value::Of(std::move(dict)));
    list.depth = std::max(list.depth, 1 + jinja::Depth(list.items.back()));
  }
  return Value::Of(std::move(list));
}

void DefineInput(Run& run, const Json& input, const Json& messages, jinja::Scope& scope) {
  if (const Json* tokens = Find(input, "special_tokens"); tokens != nullptr && tokens->is_object()) {
    for (const auto& [name, value] : tokens->items()) scope.Set(name, jinja::FromJson(run, value, false));
  }
  if (const Json* more = Find(input, "chat_template_kwargs"); more != nullptr && more->is_object()) {
    for (const auto& [name, value] : more->items()) scope.Set(name, jinja::FromJson(run, value, true));
  }
  const auto user = [&](const char* name) {
    const Json* value = Find(input, name);
    return value == nullptr ? Value::None() : jinja::FromJson(run, *value, true);
  };
  scope.Set("messages", MessageValues(run, messages));
  scope.Set("tools", user("tools"));
  scope.Set("documents", user("documents"));
  const Json* prompt = Find(input, "add_generation_prompt");
  scope.Set("add_generation_prompt", prompt == nullptr ? Value::Bool(false) : jinja::FromJson(run, *prompt, false));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::Parse(std::string source) {
  auto parsed = jinja::ParseTemplate(source);
  if (!parsed.ok()) return parsed.status().WithContext("chat template");
  ChatTemplate result;
  result.template_ = std::move(*parsed);
  return result;
}

Result<ChatTemplate::Marked> ChatTemplate::RenderMarked(const Json& input) const {
  if (!input.is_object()) return InvalidError("a chat must be an object with a list 'messages'");
  ASSIGN_OR_RETURN(const int64_t now, ParseNow(Find(input, "now")));
  ASSIGN_OR_RETURN(Json messages, NormalizeMessages(input));
  const std::string continued = ContinuedField(input);
  if (!continued.empty()) {
    const Json* prompt = Find(input, "add_generation_prompt");
    if (prompt != nullptr && prompt->is_boolean() && prompt->get<bool>()) return InvalidError("continue_final_message and add_generation_prompt exclude each other");
    RETURN_IF_ERROR(MarkEnd(messages, continued));
  }
  Run run(now);
  const auto globals = std::make_shared<jinja::Scope>();
  jinja::DefineGlobals(run, *globals);
  DefineInput(run, input, messages, *globals);
  const auto scope = std::make_shared<jinja::Scope>();
  scope->parent = globals;
  Text text;
  jinja::Flow flow = jinja::Flow::kNormal;
  run.Execute(template_->body, scope, text, flow);
  if (!run.ok()) return run.status();
  if (!continued.empty()) RETURN_IF_ERROR(CutAtMark(text));
  Marked marked;
  marked.untrusted = text.user.empty() ? std::string(text.bytes.size(), '\0') : std::move(text.user);
  marked.text = std::move(text.bytes);
  return marked;
}

Result<std::string> ChatTemplate::Render(const Json& input) const {
  ASSIGN_OR_RETURN(Marked marked, RenderMarked(input));
  return std::move(marked.text);
}

Result<std::vector<TokenId>> EncodeChat(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const Json& input) {
  Json full = input;
  if (full.is_object() && Find(full, "special_tokens") == nullptr) full["special_tokens"] = tokenizer.special_tokens();
  ASSIGN_OR_RETURN(const ChatTemplate::Marked marked, chat_template.RenderMarked(full));
  return tokenizer.EncodeTrusted(marked.text, marked.untrusted);
}

}  // namespace baton
