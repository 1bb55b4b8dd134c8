// Reads the typed fields of a JSON object. A field that is absent or null keeps its default; the first wrong type or value
// is remembered as a 400 that names the field, and the rest is read on.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "gateway/api_error.h"

namespace baton {

class FieldReader {
 public:
  explicit FieldReader(const nlohmann::ordered_json& body) : body_(body) {}

  /// The field, or null when it is absent or JSON's null.
  const nlohmann::ordered_json* Find(const char* name) const;
  /// Each gives whether the field was there with a right value, and only then writes it.
  bool Number(const char* name, double min, double max, double& out);
  bool Integer(const char* name, int64_t min, int64_t max, int64_t& out);  // 5.0 counts as 5
  bool Boolean(const char* name, bool& out);
  bool String(const char* name, std::string& out);
  /// A list of token ids in [0, vocab).
  bool Tokens(const char* name, uint32_t vocab, std::vector<TokenId>& out);

  void Fail(std::string param, std::string message);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  void WrongType(const char* name, const char* wanted, const nlohmann::ordered_json& value);

  const nlohmann::ordered_json& body_;
  std::optional<ApiError> error_;
};

/// The integer that a JSON number stands for, if it is one and fits.
std::optional<int64_t> JsonInteger(const nlohmann::ordered_json& value);

}  // namespace baton
