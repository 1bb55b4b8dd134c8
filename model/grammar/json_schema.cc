// JSON schema as GBNF: one rule a subschema, in the spirit of what OpenAI calls structured outputs.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "model/grammar/grammar_text.h"
#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 100;
constexpr size_t kMaxRules = 20'000;

/// Rules every schema may use. White space is bounded, so that a model cannot fill its answer with it.
constexpr const char* kCommonRules = R"(ws ::= "" | " " | "\n" [ \t]{0,40}
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})
string ::= "\"" char* "\""
boolean ::= "true" | "false"
null ::= "null"
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}"
array ::= "[" ws (value ("," ws value)* ws)? "]"
value ::= object | array | string | number | boolean | null
)";

constexpr const char* kDate = R"([0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]))";
constexpr const char* kTime = R"(([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]))";

/// Keywords that only describe, or that are read together with another one.
const std::set<std::string, std::less<>> kKnown{
    "$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "minLength",
    "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "anyOf", "oneOf", "allOf", "$ref", "nullable",
    "discriminator", "strict", "name"};

bool IsDescription(const std::string& key) {
  return key.starts_with("$") || key == "title" || key == "description" || key == "default" || key == "examples" || key == "definitions" ||
         key == "deprecated" || key == "readOnly" || key == "writeOnly";
}

class SchemaWriter {
 public:
  explicit SchemaWriter(const Json& root) : root_(root) {}

  Result<std::string> Write() {
    ASSIGN_OR_RETURN(const std::string expression, Visit(root_, "#", 0));
    return "root ::= " + expression + "\n" + rules_ + kCommonRules;
  }

 private:
  static Status Wrong(const std::string& path, std::string_view what) { return InvalidError("JSON schema at {}: {}", path, what); }

  /// The name of a new rule with `body`.
  std::string Rule(const std::string& body) {
    std::string name = fmt::format("r{}", next_rule_++);
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  /// An expression for the values that `schema` allows.
  Result<std::string> Visit(const Json& schema, const std::string& path, int depth) {
    if (depth > kMaxDepth) return Wrong(path, fmt::format("nested deeper than {}", kMaxDepth));
    if (next_rule_ > kMaxRules || rules_.size() > kMaxGrammarBytes) return Wrong(path, "the schema is too large");
    if (schema.is_boolean()) return schema.get<bool>() ? Result<std::string>("value") : Wrong(path, "\"false\" allows no value at all");
    if (!schema.is_object()) return Wrong(path, "a schema must be an object, true or false");
    for (const auto& [key, unused] : schema.items()) {
      if (!kKnown.contains(key)) return Wrong(path, fmt::format("the keyword \"{}\" is not supported", key));
    }
    if (schema.value("nullable", Json(false)) == true) {
      Json rest = schema;
      rest.erase("nullable");
      ASSIGN_OR_RETURN(const std::string expression, Visit(rest, path, depth + 1));
      return "(" + expression + " | null)";
    }
    if (schema.contains("$ref")) return VisitReference(schema, path, depth);
    if (schema.contains("const")) return Constants(Json::array({schema["const"]}), path);
    if (schema.contains("enum")) return Constants(schema["enum"], path);
    if (schema.contains("allOf")) return VisitAllOf(schema, path, depth);
    for (const char* key : {"anyOf", "oneOf"}) {
      if (schema.contains(key)) return VisitAnyOf(schema, key, path, depth);
    }
    return VisitTypes(schema, path, depth);
  }

  Result<std::string> Constants(const Json& values, const std::string& path) {
    if (!values.is_array() || values.empty()) return Wrong(path, "\"enum\" must be a list with at least one value");
    std::string out;
    for (const Json& value : values) out += (out.empty() ? "" : " | ") + LiteralExpression(value.dump(-1, ' ', false, Json::error_handler_t::replace));
    return "(" + out + ")";
  }

  Result<const Json*> Resolve(const std::string& reference, const std::string& path) const {
    if (!reference.starts_with("#")) return Wrong(path, fmt::format("\"$ref\": \"{}\" leads out of the schema; only \"#/…\" is supported", reference));
    const Json* at = &root_;
    for (size_t begin = 1; begin < reference.size();) {
      const size_t end = std::min(reference.find('/', begin + 1), reference.size());
      std::string name = reference.substr(begin + 1, end - begin - 1);
      for (const auto& [escape, meaning] : {std::pair{"~1", "/"}, std::pair{"~0", "~"}}) {
        for (size_t i = 0; (i = name.find(escape, i)) != std::string::npos; ++i) name.replace(i, 2, meaning);
      }
      const bool index = at->is_array() && !name.empty() && name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos;
      if (at->is_object() && at->contains(name)) at = &(*at)[name];
      else if (index && std::stoul(name) < at->size()) at = &(*at)[std::stoul(name)];
      else return Wrong(path, fmt::format("\"$ref\": \"{}\" names nothing in the schema", reference));
      begin = end;
    }
    return at;
  }

  Result<std::string> VisitReference(const Json& schema, const std::string& path, int depth) {
    const Json& reference = schema["$ref"];
    if (!reference.is_string()) return Wrong(path, "\"$ref\" must be a string");
    for (const auto& [key, unused] : schema.items()) {
      if (!IsDescription(key)) return Wrong(path, fmt::format("\"{}\" beside \"$ref\" is not supported; put both into \"allOf\"", key));
    }
    const auto known = references_.find(reference.get<std::string>());
    if (known != references_.end()) return known->second;
    ASSIGN_OR_RETURN(const Json* target, Resolve(reference.get<std::string>(), path));
    const std::string name = fmt::format("ref{}", references_.size());
    references_.emplace(reference.get<std::string>(), name);  // before the visit: the target may refer to itself
    ASSIGN_OR_RETURN(const std::string body, Visit(*target, reference.get<std::string>(), depth + 1));
    if (body == name) return Wrong(path, "\"$ref\" leads back to itself without anything between");
    rules_ += name + " ::= " + body + "\n";
    return name;
  }

  /// `base` and `more` as one schema. What both say must be the same, but for properties and required, which add up.
  Result<Json> Merge(Json base, const Json& more, const std::string& path) const {
    const Json* addition = &more;
    for (int hops = 0; addition->is_object() && addition->contains("$ref") && (*addition)["$ref"].is_string(); ++hops) {
      if (hops > kMaxDepth) return Wrong(path, "\"$ref\" leads in a circle");
      ASSIGN_OR_RETURN(addition, Resolve((*addition)["$ref"].get<std::string>(), path));
    }
    if (addition->is_boolean() && addition->get<bool>()) return base;
    if (!addition->is_object()) return Wrong(path, "a schema must be an object, true or false");
    for (const auto& [key, value] : addition->items()) {
      if (IsDescription(key)) continue;
      if (!base.contains(key) || base[key] == value) {
        base[key] = value;
      } else if (key == "properties" && value.is_object() && base[key].is_object()) {
        for (const auto& [name, property] : value.items()) {
          if (base[key].contains(name) && base[key][name] != property) return Wrong(path, fmt::format("property \"{}\" is described twice, differently", name));
          base[key][name] = property;
        }
      } else if (key == "required" && value.is_array() && base[key].is_array()) {
        for (const Json& name : value) base[key].push_back(name);
      } else {
        return Wrong(path, fmt::format("\"{}\" is given twice, differently; the two cannot be joined", key));
      }
    }
    return base;
  }

  Result<std::string> VisitAllOf(const Json& schema, const std::string& path, int depth) {
    const Json& parts = schema["allOf"];
    if (!parts.is_array() || parts.empty()) return Wrong(path, "\"allOf\" must be a list of schemas");
    Json joined = schema;
    joined.erase("allOf");
    for (const Json& part : parts) {
      ASSIGN_OR_RETURN(joined, Merge(std::move(joined), part, path + "/allOf"));
    }
    return Visit(joined, path, depth + 1);
  }

  Result<std::string> VisitAnyOf(const Json& schema, const char* key, const std::string& path, int depth) {
    const Json& parts = schema[key];
    if (!parts.is_array() || parts.empty()) return Wrong(path, fmt::format("\"{}\" must be a list of schemas", key));
    Json base = schema;
    base.erase(key);
    base.erase("discriminator");
    const bool alone = std::all_of(base.items().begin(), base.items().end(), [](const auto& item) { return IsDescription(item.key()); });
    std::string out;
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string here = fmt::format("{}/{}/{}", path, key, i);
      Json part = parts[i];
      if (!alone) {
        ASSIGN_OR_RETURN(part, Merge(base, parts[i], here));
      }
      ASSIGN_OR_RETURN(const std::string expression, Visit(part, here, depth + 1));
      out += (i == 0 ? "" : " | ") + expression;
    }
    return "(" + out + ")";
  }

  Result<std::string> VisitTypes(const Json& schema, const std::string& path, int depth) {
    if (!schema.contains("type")) {
      const char* type = nullptr;
      for (const auto& [key, implied] : std::initializer_list<std::pair<const char*, const char*>>{
               {"properties", "object"}, {"required", "object"}, {"additionalProperties", "object"}, {"items", "array"}, {"prefixItems", "array"},
               {"minItems", "array"}, {"maxItems", "array"}, {"pattern", "string"}, {"minLength", "string"}, {"maxLength", "string"}, {"format", "string"},
               {"minimum", "number"}, {"maximum", "number"}, {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}}) {
        if (schema.contains(key)) {
          type = implied;
          break;
        }
      }
      return type == nullptr ? Result<std::string>("value") : VisitType(type, schema, path, depth);
    }
    const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    std::string out;
    for (const Json& type : types) {
      if (!type.is_string()) return Wrong(path, "\"type\" must be the name of a type or a list of such");
      ASSIGN_OR_RETURN(const std::string expression, VisitType(type.get<std::string>(), schema, path, depth));
      out += (out.empty() ? "" : " | ") + expression;
    }
    if (out.empty()) return Wrong(path, "\"type\" must be the name of a type or a list of such");
    return types.size() == 1 ? out : "(" + out + ")";
  }

  Result<std::string> VisitType(const std::string& type, const Json& schema, const std::string& path, int depth) {
    if (type == "object") return VisitObject(schema, path, depth);
    if (type == "array") return VisitArray(schema, path, depth);
    if (type == "string") return VisitString(schema, path);
    if (type == "integer" || type == "number") return VisitNumber(type, schema, path);
    if (type == "boolean" || type == "null") return type;
    return Wrong(path, fmt::format("there is no type \"{}\"; types are object, array, string, number, integer, boolean, null", type));
  }

  Result<std::string> VisitNumber(const std::string& type, const Json& schema, const std::string& path) {
    NumberBounds bounds;
    for (const auto& [key, bound, exclusive] : {std::tuple{"minimum", &bounds.least, &bounds.above}, std::tuple{"maximum", &bounds.most, &bounds.below}}) {
      const std::string strict = std::string("exclusive") + (key == std::string("minimum") ? "Minimum" : "Maximum");
      for (const std::string& name : {std::string(key), strict}) {
        if (!schema.contains(name)) continue;
        if (!schema[name].is_number()) return Wrong(path, fmt::format("\"{}\" must be a number", name));
        const double value = schema[name].get<double>();
        const bool tighter = !*bound || (bound == &bounds.least ? value >= **bound : value <= **bound);
        if (!tighter) continue;
        *bound = value;
        *exclusive = name == strict;
      }
    }
    if (!bounds.any()) return type;
    auto expression = type == "integer" ? IntegerExpression(bounds) : NumberExpression(bounds);
    if (!expression.ok()) return expression.status().WithContext("JSON schema at " + path);
    return Rule(*expression);
  }

  Result<std::string> Counts(const Json& schema, const char* least_name, const char* most_name, const std::string& path) const {
    uint64_t counts[2] = {0, UINT64_MAX};
    for (int i = 0; i < 2; ++i) {
      const char* name = i == 0 ? least_name : most_name;
      if (!schema.contains(name)) continue;
      if (!schema[name].is_number_unsigned()) return Wrong(path, fmt::format("\"{}\" must be a whole number, not negative", name));
      counts[i] = schema[name].get<uint64_t>();
      if (counts[i] > kMaxGrammarSymbols) return Wrong(path, fmt::format("\"{}\" of {} is more than can be kept", name, counts[i]));
    }
    if (counts[0] > counts[1]) return Wrong(path, fmt::format("\"{}\" is more than \"{}\"", least_name, most_name));
    return counts[1] == UINT64_MAX ? fmt::format("{{{},}}", counts[0]) : fmt::format("{{{},{}}}", counts[0], counts[1]);
  }

  Result<std::string> VisitString(const Json& schema, const std::string& path) {
    const bool lengths = schema.contains("minLength") || schema.contains("maxLength");
    if (schema.contains("pattern")) {
      if (!schema["pattern"].is_string()) return Wrong(path, "\"pattern\" must be a string");
      if (lengths) return Wrong(path, "\"pattern\" together with a length is not supported; put the length into the pattern");
      auto expression = RegexExpression(schema["pattern"].get<std::string>(), Spelling::kJsonString);
      if (!expression.ok()) return expression.status().WithContext("JSON schema at " + path);
      return Rule("\"\\\"\" " + *expression + " \"\\\"\"");
    }
    if (schema.contains("format") && schema["format"].is_string()) {
      const std::string format = schema["format"].get<std::string>();
      const auto quoted = [this](const std::string& body) { return Rule("\"\\\"\" " + body + " \"\\\"\""); };
      if (format == "date") return quoted(kDate);
      if (format == "time") return quoted(kTime);
      if (format == "date-time") return quoted(fmt::format("{} \"T\" {}", kDate, kTime));
      if (format == "uuid") return quoted("[0-9a-f]{8} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{12}");
      // Other formats are annotations, as the JSON schema standard has it.
    }
    if (!lengths) return std::string("string");
    ASSIGN_OR_RETURN(const std::string counts, Counts(schema, "minLength", "maxLength", path));
    return Rule("\"\\\"\" char" + counts + " \"\\\"\"");
  }

  Result<std::string> VisitArray(const Json& schema, const std::string& path, int depth) {
    ASSIGN_OR_RETURN(std::string counts, Counts(schema, "minItems", "maxItems", path));
    const Json none = Json::array();
    const Json& prefix = schema.contains("prefixItems") ? schema["prefixItems"] : schema.contains("items") && schema["items"].is_array() ? schema["items"] : none;
    if (!prefix.is_array()) return Wrong(path, "\"prefixItems\" must be a list of schemas");
    if (!prefix.empty()) {
      if (schema.contains("minItems") || schema.contains("maxItems")) {
        return Wrong(path, "\"prefixItems\" together with \"minItems\" or \"maxItems\" is not supported");
      }
      std::string body = "\"[\" ws ";
      for (size_t i = 0; i < prefix.size(); ++i) {
        ASSIGN_OR_RETURN(const std::string item, Visit(prefix[i], fmt::format("{}/prefixItems/{}", path, i), depth + 1));
        body += (i == 0 ? "" : "\",\" ws ") + item + " ";
      }
      return Rule(body + "ws \"]\"");
    }
    std::string item = "value";
    if (schema.contains("items")) {
      if (schema["items"] == false) return Rule("\"[\" ws \"]\"");
      ASSIGN_OR_RETURN(item, Visit(schema["items"], path + "/items", depth + 1));
    }
    if (item == "value" && counts == "{0,}") return std::string("array");
    const uint64_t least = schema.value("minItems", uint64_t{0});
    const uint64_t most = schema.value("maxItems", UINT64_MAX);
    if (most == 0) return Rule("\"[\" ws \"]\"");
    item = Rule(item);
    const std::string more = fmt::format("(\",\" ws {}){{{},{}}}", item, least > 0 ? least - 1 : 0, most == UINT64_MAX ? "" : fmt::format("{}", most - 1));
    return Rule(fmt::format("\"[\" ws ({} {} ws){} \"]\"", item, more, least == 0 ? "?" : ""));
  }

  /// A name that is none of `names`, quoted: differs from each at some character, or stops early.
  std::string OtherName(const std::set<std::string>& names) {
    std::string body;
    std::map<char32_t, std::set<std::string>> by_first;
    for (const std::string& name : names) {
      if (name.empty()) continue;
      const Utf8Step step = NextUtf8(name);
      by_first[step.code].insert(name.substr(step.length));
    }
    std::vector<CodeRange> taken{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}, {0x7F, 0x7F}};
    for (const auto& [first, rest] : by_first) {
      taken.emplace_back(first, first);
      if (first >= 0x20 && first != '"' && first != '\\') body += ClassExpression({{first, first}}, Spelling::kPlain) + " " + OtherName(rest) + " | ";
    }
    body += ClassExpression(NormalizeRanges(taken, true), Spelling::kPlain) + " char*";
    if (!names.contains("")) body += " | \"\"";
    return Rule(body);
  }

  Result<std::string> VisitObject(const Json& schema, const std::string& path, int depth) {
    const Json none = Json::object();
    const Json& properties = schema.contains("properties") ? schema["properties"] : none;
    if (!properties.is_object()) return Wrong(path, "\"properties\" must be an object");
    std::set<std::string> required;
    for (const Json& name : schema.value("required", Json::array())) {
      if (!name.is_string()) return Wrong(path, "\"required\" must be a list of names");
      required.insert(name.get<std::string>());
    }
    for (const std::string& name : required) {
      if (!properties.contains(name)) return Wrong(path, fmt::format("\"{}\" is required but not among the properties", name));
    }
    const Json additional = schema.value("additionalProperties", Json(properties.empty()));
    if (properties.empty() && additional == true) return std::string("object");
    std::string other;
    if (additional != false) {
      ASSIGN_OR_RETURN(const std::string value, Visit(additional, path + "/additionalProperties", depth + 1));
      std::set<std::string> names;
      for (const auto& [name, unused] : properties.items()) names.insert(name);
      other = Rule(fmt::format("\"\\\"\" {} \"\\\"\" \":\" ws {}", names.empty() ? "char*" : OtherName(names), value));
    }
    return WriteMembers(properties, required, other, path, depth);
  }

  /// Two chains of rules, from the last property to the first: with a member written before (so a comma comes first), and
  /// without. Optional properties may be passed over; the order is that of the schema.
  Result<std::string> WriteMembers(const Json& properties, const std::set<std::string>& required, const std::string& other, const std::string& path, int depth) {
    std::string after = "ws \"}\"", first = "\"}\"";
    if (!other.empty()) {
      first = Rule(fmt::format("({} (\",\" ws {})* ws)? \"}}\"", other, other));
      after = Rule(fmt::format("(\",\" ws {})* ws \"}}\"", other));
    }
    std::vector<std::pair<std::string, const Json*>> members;
    for (const auto& [name, property] : properties.items()) members.emplace_back(name, &property);
    for (auto it = members.rbegin(); it != members.rend(); ++it) {
      ASSIGN_OR_RETURN(const std::string value, Visit(*it->second, path + "/properties/" + it->first, depth + 1));
      const std::string key = LiteralExpression(Json(it->first).dump(-1, ' ', false, Json::error_handler_t::replace));
      const std::string member = Rule(fmt::format("{} \":\" ws {}", key, value));
      const bool optional = !required.contains(it->first);
      first = Rule(fmt::format("{} {}{}", member, after, optional ? " | " + first : ""));
      after = Rule(fmt::format("\",\" ws {} {}{}", member, after, optional ? " | " + after : ""));
    }
    return Rule("\"{\" ws " + first);
  }

  const Json& root_;
  std::string rules_;
  size_t next_rule_ = 0;
  std::map<std::string, std::string> references_;
};

}  // namespace

Result<std::string> JsonSchemaToGbnf(const nlohmann::ordered_json& schema) { return SchemaWriter(schema).Write(); }

std::string JsonObjectGbnf() { return std::string("root ::= object\n") + kCommonRules; }

}  // namespace baton
