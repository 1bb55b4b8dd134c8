#include "gateway/output_form.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "model/grammar/grammar_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

/// `gbnf` if it is a grammar, else the reason why not.
Result<std::string> Checked(Result<std::string> gbnf) {
  if (!gbnf.ok()) return gbnf;
  if (const auto grammar = Grammar::Parse(*gbnf); !grammar.ok()) return grammar.status();
  return gbnf;
}

/// A schema, or the text of one.
Result<std::string> FromSchema(const Json& schema) {
  if (!schema.is_string()) return JsonSchemaToGbnf(schema);
  const Json parsed = Json::parse(schema.get_ref<const std::string&>(), nullptr, false);
  if (parsed.is_discarded()) return InvalidError("the schema's text is no JSON");
  return JsonSchemaToGbnf(parsed);
}

Result<std::string> FromChoices(const Json& choices) {
  std::vector<std::string> texts;
  bool good = choices.is_array();
  for (size_t i = 0; good && i < choices.size(); ++i) {
    good = choices[i].is_string();
    if (good) texts.push_back(choices[i].get<std::string>());
  }
  if (!good) return InvalidError("the choices must be a list of strings");
  return ChoicesToGbnf(texts);
}

Result<std::string> FromText(const Json& text, Result<std::string> (*make)(std::string_view)) {
  if (!text.is_string()) return InvalidError("it must be a string");
  return make(text.get_ref<const std::string&>());
}
Result<std::string> Same(std::string_view gbnf) { return std::string(gbnf); }

/// {"type": "text" | "json_object" | "json_schema", …}; `schema` is where the schema is, or null.
Result<std::string> FromType(const Json& format, const Json* schema) {
  const Json* type = format.is_object() && format.contains("type") ? &format["type"] : nullptr;
  if (type == nullptr || !type->is_string()) return InvalidError("it must be an object with a 'type'");
  if (*type == "text") return std::string();
  if (*type == "json_object") return schema == nullptr ? Result<std::string>(JsonObjectGbnf()) : FromSchema(*schema);
  if (*type != "json_schema") return InvalidError("the type must be \"text\", \"json_object\" or \"json_schema\", not {}", type->dump());
  if (schema == nullptr) return InvalidError("the type \"json_schema\" needs a schema");
  return FromSchema(*schema);
}

const Json* Member(const Json& object, const char* name) {
  const auto it = object.is_object() ? object.find(name) : object.end();
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Result<std::string> FromResponseFormat(const Json& format) {
  const Json* named = Member(format, "json_schema");
  const Json* schema = named != nullptr ? Member(*named, "schema") : nullptr;
  return FromType(format, schema != nullptr ? schema : Member(format, "schema"));
}

Result<std::string> FromGuide(std::string_view kind, const Json& value) {
  if (kind == "json") return FromSchema(value);
  if (kind == "regex") return FromText(value, RegexToGbnf);
  if (kind == "choice") return FromChoices(value);
  if (kind == "grammar") return FromText(value, Same);
  if (kind == "json_object") return value == true ? JsonObjectGbnf() : std::string();
  return InvalidError("'{}' is not supported by this server; send json, regex, choice, grammar or json_object", kind);
}

struct Wish {
  std::string param;
  Result<std::string> gbnf;
};

}  // namespace

std::string ReadOutputGrammar(FieldReader& fields) {
  std::vector<Wish> wishes;
  if (const Json* format = fields.Find("response_format")) wishes.push_back({"response_format", FromResponseFormat(*format)});
  for (const auto& [name, kind] : std::initializer_list<std::pair<const char*, const char*>>{{"guided_json", "json"}, {"guided_regex", "regex"},
                                                                                             {"guided_choice", "choice"}, {"guided_grammar", "grammar"},
                                                                                             {"json_schema", "json"}}) {
    if (const Json* value = fields.Find(name)) wishes.push_back({name, FromGuide(kind, *value)});
  }
  // llama.cpp's clients send "" for no grammar.
  if (const Json* grammar = fields.Find("grammar"); grammar != nullptr && *grammar != "") wishes.push_back({"grammar", FromGuide("grammar", *grammar)});
  if (const Json* outputs = fields.Find("structured_outputs")) {
    if (!outputs->is_object()) fields.Fail("structured_outputs", "'structured_outputs' must be an object");
    for (const auto& [kind, value] : outputs->items()) {
      if (!value.is_null()) wishes.push_back({"structured_outputs." + kind, FromGuide(kind, value)});
    }
  }
  std::string out, first;
  for (Wish& wish : wishes) {
    if (wish.gbnf.ok() && wish.gbnf->empty()) continue;  // any text
    const auto gbnf = Checked(std::move(wish.gbnf));
    if (!gbnf.ok()) {
      fields.Fail(wish.param, fmt::format("'{}': {}", wish.param, gbnf.status().message()));
    } else if (!first.empty()) {
      fields.Fail(wish.param, fmt::format("'{}' and '{}' both say what the answer must look like; send one of them", first, wish.param));
    } else {
      first = wish.param;
      out = *gbnf;
    }
  }
  return out;
}

std::string ReadTextFormat(FieldReader& fields) {
  const Json* text = fields.Find("text");
  const Json* format = text != nullptr ? Member(*text, "format") : nullptr;
  if (format == nullptr) return "";
  auto wanted = FromType(*format, Member(*format, "schema"));
  const auto gbnf = wanted.ok() && wanted->empty() ? wanted : Checked(std::move(wanted));
  if (!gbnf.ok()) fields.Fail("text.format", fmt::format("'text.format': {}", gbnf.status().message()));
  return gbnf.ok() ? *gbnf : "";
}

}  // namespace baton
