// The option table as YAML with origins, as a Markdown page and as a JSON schema.
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "app/config.h"

namespace baton {
namespace {

std::string Section(const Option& option) { return option.key.substr(0, option.key.find('.')); }
std::string Name(const Option& option) { return option.key.substr(option.key.find('.') + 1); }

std::string YamlValue(const Option& option) {
  nlohmann::json value;  // YAML takes JSON
  if (auto* list = std::get_if<std::vector<std::string>*>(&option.target)) value = **list;
  else if (auto* text = std::get_if<std::string*>(&option.target)) value = **text;
  else return OptionText(option);
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Range(const Option& option) {
  if (!option.choices.empty()) {
    std::vector<std::string> shown;
    for (const std::string& choice : option.choices) shown.push_back(choice.empty() ? "(empty)" : choice);
    return fmt::format("{}", fmt::join(shown, ", "));
  }
  return option.min == 0 && option.max == 0 ? "" : fmt::format("{:.10g} – {:.10g}", option.min, option.max);
}

}  // namespace

std::string ConfigYaml(LoadedConfig& loaded) {
  std::string out, section;
  for (const Option& option : OptionTable(loaded.config)) {
    if (Section(option) != section) out += (section = Section(option)) + ":\n";
    // A secret's line is a comment: who serves from what was printed must not get a key that everybody knows.
    const bool hidden = option.secret && !OptionText(option).empty();
    out += fmt::format("  {}{}: {}  # {}{}; {}\n", hidden ? "# " : "", Name(option), hidden ? "(hidden)" : YamlValue(option), option.doc,
                       option.unit.empty() ? "" : " [" + option.unit + "]", loaded.origins[option.key]);
  }
  return out;
}

std::string ConfigMarkdown() {
  std::string out =
      "# Settings\n\nMade by `baton config --doc`; do not edit. A setting comes from its default, then the YAML file given with\n"
      "`--config`, then its environment variable (`BATON_` and the key in capitals, `_` for the dot), then a flag\n"
      "(`--gateway.port=8001`). The last one wins. `baton config --print` shows every value with its origin.\n";
  Config defaults;
  std::string section;
  for (const Option& option : OptionTable(defaults)) {
    if (Section(option) != section) {
      section = Section(option);
      out += fmt::format("\n## {}\n\n| key | default | unit | allowed | meaning |\n|---|---|---|---|---|\n", section);
    }
    const std::string text = OptionText(option);
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", option.key, text.empty() ? "(empty)" : "`" + text + "`", option.unit,
                       Range(option), option.doc);
  }
  return out;
}

std::string ConfigSchema() {
  using Json = nlohmann::ordered_json;
  Json properties = Json::object();
  Config defaults;
  for (const Option& option : OptionTable(defaults)) {
    Json& section = properties[Section(option)];
    if (section.is_null()) section = {{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
    Json value = {{"description", option.doc + (option.unit.empty() ? "" : " [" + option.unit + "]")}};
    const std::string type = OptionTypeName(option), text = OptionText(option);
    value["type"] = type == "list" ? "array" : type;
    if (type == "list") {
      value["items"] = {{"type", "string"}};
      value["default"] = *std::get<std::vector<std::string>*>(option.target);
    } else {
      value["default"] = type == "string" ? Json(text) : Json::parse(text);
    }
    if (!option.choices.empty()) value["enum"] = option.choices;
    if (option.min != 0 || option.max != 0) value["minimum"] = option.min, value["maximum"] = option.max;
    section["properties"][Name(option)] = std::move(value);
  }
  const Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "Baton's config file"},
                       {"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
  return schema.dump(2) + "\n";
}

}  // namespace baton
