#include "gateway/json_text.h"

#include <charconv>
#include <vector>

namespace baton {
namespace {

/// Bytes of the valid UTF-8 character at the front of `text`; 0 if there is none (RFC 3629: no overlong forms, surrogates or
/// values above U+10FFFF).
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto tail = [&](size_t i, uint8_t low = 0x80, uint8_t high = 0xbf) { return byte(i) >= low && byte(i) <= high; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return text.empty() ? 0 : 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) return tail(1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf) && tail(2) ? 3 : 0;
  if (lead >= 0xf0 && lead <= 0xf4) {
    return tail(1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

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
      return InvalidError("the JSON body holds more than {} values", kMaxJsonValues);
    }
    if (c == '{' || c == '[') {
      keys.push_back(0);
      if (static_cast<int>(keys.size()) > kMaxJsonDepth) {
        return InvalidError("the JSON body is nested deeper than {} levels at byte {}", kMaxJsonDepth, i);
      }
    } else if ((c == '}' || c == ']') && !keys.empty()) {
      keys.pop_back();
    } else if (c == ':' && !keys.empty() && ++keys.back() > kMaxJsonKeys) {
      return InvalidError("an object of the JSON body has more than {} keys at byte {}", kMaxJsonKeys, i);
    }
  }
  return OkStatus();
}

}  // namespace

Result<nlohmann::ordered_json> ParseJsonObject(std::string_view text) {
  if (text.empty()) return InvalidError("the request has no body; send a JSON object");
  RETURN_IF_ERROR(CheckShape(text));
  try {
    auto value = nlohmann::ordered_json::parse(text);
    if (!value.is_object()) return InvalidError("the body is a JSON {}; send a JSON object", value.type_name());
    return value;
  } catch (const nlohmann::json::exception& error) {
    std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (const size_t end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    return InvalidError("the body is not valid JSON in UTF-8: {}", ValidUtf8(what));
  }
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
    const size_t length = c >= 0x80 ? Utf8Length(text.substr(i)) : 1;
    if (c >= 0x80 && length > 0) {
      i += length;
      continue;
    }
    out.append(text, begin, i - begin);
    if (c >= 0x80) out += "\xef\xbf\xbd";
    else if (c == '"') out += "\\\"";
    else if (c == '\\') out += "\\\\";
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (c == '\t') out += "\\t";
    else (out += "\\u00") += {kHex[c >> 4], kHex[c & 15]};
    begin = ++i;
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

std::string ValidUtf8(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text.substr(i));
    if (length == 0) out += "\xef\xbf\xbd";
    else out.append(text, i, length);
    i += length == 0 ? 1 : length;
  }
  return out;
}

}  // namespace baton
