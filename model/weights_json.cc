#include "model/weights_json.h"

#include "model/mapped_file.h"

namespace baton {
namespace {

constexpr int kMaxDepth = 64;

/// The deepest nesting of brackets outside strings; never less than the parser's.
int Depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Result<nlohmann::json> ReadJsonObject(const std::string& path, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const std::string_view text = AsText(file->bytes());
  if (text.size() > max_bytes)
    return InvalidError("{} has {} bytes; at most {} are allowed", path, text.size(), max_bytes);
  if (Depth(text) > kMaxDepth) return InvalidError("{} is nested deeper than {}", path, kMaxDepth);
  nlohmann::json json =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return InvalidError("{} is not valid JSON", path);
  if (!json.is_object()) return InvalidError("{} does not hold a JSON object", path);
  return json;
}

}  // namespace baton
