#include "gateway/json_text.h"

#include <charconv>
#include <vector>

#include "model/tokenizer_utf8.h"

namespace baton {
namespace {

/// One pass over the text, strings skipped: nesting, the number of keys of each open object and of values in all.
Status CheckShape(std::string_view text) {
  std::vector<int> keys;  // one entry an open bracket
  int values = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if ((c == ',' || c == '[' || c == '{') && ++values > kMaxJsonValues) {
      return InvalidError("JSON of more than {} values", kMaxJsonValues);
    }
    if (c == '{' || c == '[') {
      keys.push_back(0);
      if (static_cast<int>(keys.size()) > kMaxJsonDepth) {
        return InvalidError("JSON nested deeper than {} levels at byte {}", kMaxJsonDepth, i);
      }
    } else if ((c == '}' || c == ']') && !keys.empty()) {
      keys.pop_back();
    } else if (c == ':' && !keys.empty() && ++keys.back() > kMaxJsonKeys) {
      return InvalidError("JSON in which an object has more than {} keys at byte {}", kMaxJsonKeys, i);
    }
  }
  return OkStatus();
}

}  // namespace

Result<nlohmann::ordered_json> ParseJson(std::string_view text) {
  // The parser takes a NUL byte for the end of the text, and would not look at what stands behind it.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) return InvalidError("not valid JSON in UTF-8: a NUL byte stands at byte {}", nul);
  RETURN_IF_ERROR(CheckShape(text));
  try {
    return nlohmann::ordered_json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (const size_t end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    return InvalidError("not valid JSON in UTF-8: {}", ValidUtf8(what).substr(0, 300));
  }
}

Result<nlohmann::ordered_json> ParseJsonObject(std::string_view text) {
  if (text.empty()) return InvalidError("the request has no body; send a JSON object");
  auto value = ParseJson(text);
  if (!value.ok()) return InvalidError("the body is {}", value.status().message());
  if (!value->is_object()) return InvalidError("the body is a JSON {}; send a JSON object", value->type_name());
  return value;
}

void AppendJsonEscaped(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<uint8_t>(text[i]);
    if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
      ++i;
      continue;
    }
    const Utf8Step step = NextUtf8(text.substr(i));
    if (c >= 0x80 && step.valid) {
      i += step.length;
      continue;
    }
    out.append(text, begin, i - begin);
    if (c >= 0x80) out += kReplacementCharacter;
    else if (c == '"') out += "\\\"";
    else if (c == '\\') out += "\\\\";
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else (out += "\\u00") += {kHex[c >> 4], kHex[c & 15]};
    begin = i += step.length;
  }
  out.append(text, begin, text.size() - begin);
}

void AppendJsonString(std::string& out, std::string_view text) {
  out += '"';
  AppendJsonEscaped(out, text);
  out += '"';
}

void AppendInteger(std::string& out, int64_t value) {
  char buffer[24];
  out.append(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
}

void AppendLogprob(std::string& out, float logprob) {
  if (!(logprob >= -9999.0f)) {
    out += "-9999.0";
    return;
  }
  char buffer[32];
  const char* end = std::to_chars(buffer, buffer + sizeof buffer, logprob).ptr;
  const std::string_view digits(buffer, static_cast<size_t>(end - buffer));
  out += digits;
  if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";
}

std::string ValidUtf8(std::string_view text) { return SanitizeUtf8(text); }

}  // namespace baton
