// Reading settings from their four places, in order: defaults, file, environment, flags.
#include "app/config.h"

#include <yaml-cpp/yaml.h>

#include <fstream>
#include <set>
#include <sstream>

namespace baton {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

std::vector<std::string> Keys(const std::vector<Option>& table) {
  std::vector<std::string> keys;
  for (const Option& option : table) keys.push_back(option.key);
  return keys;
}

const Option* Find(const std::vector<Option>& table, const std::string& key) {
  for (const Option& option : table) {
    if (option.key == key) return &option;
  }
  return nullptr;
}

Status UnknownKey(const std::string& where, const std::string& key, const std::vector<std::string>& known) {
  const std::string near = NearestName(key, known);
  return InvalidError("{}: there is no setting \"{}\"{}; `baton config --doc` lists all", where, key,
                      near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near));
}

Result<std::string> NodeText(const YAML::Node& node, const std::string& where, const Option& option) {
  const bool list = std::holds_alternative<std::vector<std::string>*>(option.target);
  if (node.IsScalar()) return node.Scalar();
  if (node.IsNull()) return std::string();
  if (!list || !node.IsSequence()) {
    return InvalidError("{}: {} must be a {}, not a {}", where, option.key, OptionTypeName(option), node.IsMap() ? "map" : "list");
  }
  std::string text;
  for (const YAML::Node& item : node) {
    if (!item.IsScalar()) return InvalidError("{}: each item of {} must be plain text", where, option.key);
    if (item.Scalar().find(',') != std::string::npos) return InvalidError("{}: an item of {} must not hold a comma", where, option.key);
    text += (text.empty() ? "" : ",") + item.Scalar();
  }
  return text;
}

Status ApplySection(const std::string& file, const std::string& section, const YAML::Node& node,
                    const std::vector<Option>& table, ConfigOrigins& origins, std::set<std::string>& seen) {
  for (const auto& entry : node) {
    const std::string key = section + "." + entry.first.Scalar();
    const std::string where = fmt::format("{}:{}", file, entry.first.Mark().line + 1);
    const Option* option = Find(table, key);
    if (option == nullptr) return UnknownKey(where, key, Keys(table));
    if (!seen.insert(key).second) return InvalidError("{}: {} is given twice; keep one", where, key);
    ASSIGN_OR_RETURN(const std::string text, NodeText(entry.second, where, *option));
    RETURN_IF_ERROR(SetOption(*option, text).WithContext(where));
    origins[key] = "file " + where;
  }
  return OkStatus();
}

Status ApplyYaml(const std::string& file, const std::string& text, const std::vector<Option>& table, ConfigOrigins& origins) {
  const std::vector<YAML::Node> documents = YAML::LoadAll(text);
  if (documents.size() > 1) return InvalidError("{} holds {} YAML documents; a config file is one, without a line of \"---\" in between", file, documents.size());
  const YAML::Node root = documents.empty() ? YAML::Node() : documents.front();
  if (root.IsNull()) return OkStatus();
  if (!root.IsMap()) return InvalidError("{}: a config file is a map of sections, for example \"gateway:\"", file);
  std::set<std::string> sections, seen;
  for (const Option& option : table) sections.insert(option.key.substr(0, option.key.find('.')));
  for (const auto& entry : root) {
    const std::string where = fmt::format("{}:{}", file, entry.first.Mark().line + 1);
    if (!entry.first.IsScalar()) return InvalidError("{}: a section's name must be plain text", where);
    const std::string section = entry.first.Scalar();
    if (!sections.count(section)) return UnknownKey(where, section, {sections.begin(), sections.end()});
    if (entry.second.IsNull()) continue;
    if (!entry.second.IsMap()) return InvalidError("{}: section {} must be a map of settings", where, section);
    RETURN_IF_ERROR(ApplySection(file, section, entry.second, table, origins, seen));
  }
  return OkStatus();
}

Status ApplyFile(const std::string& file, const std::vector<Option>& table, ConfigOrigins& origins) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return NotFoundError("config file {} cannot be opened; give the path of a YAML file, such as those in configs/", file);
  std::string text(kMaxFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return UnavailableError("config file {} cannot be read; is it a folder?", file);
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kMaxFileBytes) return InvalidError("{}: longer than {} bytes, so not a config file", file, kMaxFileBytes);
  try {
    return ApplyYaml(file, text, table, origins);
  } catch (const YAML::Exception& e) {  // yaml-cpp reports only by exceptions; none leaves this function
    return InvalidError("{}:{}: {}", file, e.mark.line + 1, e.msg);
  }
}

}  // namespace

Result<LoadedConfig> LoadConfig(const std::string& file, const std::map<std::string, std::string>& environment,
                                const std::map<std::string, std::string>& flags) {
  LoadedConfig loaded;
  const std::vector<Option> table = OptionTable(loaded.config);
  for (const Option& option : table) loaded.origins[option.key] = "default";
  if (!file.empty()) RETURN_IF_ERROR(ApplyFile(file, table, loaded.origins));
  for (const Option& option : table) {
    const std::string name = OptionEnvironmentName(option.key);
    const auto it = environment.find(name);
    if (it == environment.end()) continue;
    RETURN_IF_ERROR(SetOption(option, it->second).WithContext("environment " + name));
    loaded.origins[option.key] = "environment " + name;
  }
  for (const auto& [key, value] : flags) {
    const Option* option = Find(table, key);
    if (option == nullptr) return UnknownKey("flag --" + key, key, Keys(table));
    RETURN_IF_ERROR(SetOption(*option, value).WithContext("flag --" + key));
    loaded.origins[key] = "flag";
  }
  if (loaded.config.model.block_tokens % 16 != 0) {
    return InvalidError("model.block_tokens: {} is not a multiple of 16", loaded.config.model.block_tokens);
  }
  return Result<LoadedConfig>(std::move(loaded));
}

}  // namespace baton
