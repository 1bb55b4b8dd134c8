#include "gateway/field_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace baton {

std::optional<int64_t> JsonInteger(const nlohmann::ordered_json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number <= INT64_MAX ? std::optional<int64_t>(static_cast<int64_t>(number)) : std::nullopt;
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (number != std::floor(number) || std::abs(number) > 0x1p53) return std::nullopt;
  return static_cast<int64_t>(number);
}

const nlohmann::ordered_json* FieldReader::Find(const char* name) const {
  const auto it = body_.find(name);
  return it == body_.end() || it->is_null() ? nullptr : &*it;
}

void FieldReader::Fail(std::string param, std::string message) {
  if (!error_) error_ = BadRequest(std::move(param), std::move(message));
}

void FieldReader::WrongType(const char* name, const char* wanted, const nlohmann::ordered_json& value) {
  Fail(name, fmt::format("'{}' must be {}, not {}", name, wanted, value.type_name()));
}

bool FieldReader::Number(const char* name, double min, double max, double& out) {
  const auto* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    WrongType(name, "a number", *value);
    return false;
  }
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    Fail(name, fmt::format("'{}' is {}; it must be from {} to {}", name, number, min, max));
    return false;
  }
  out = number;
  return true;
}

bool FieldReader::Integer(const char* name, int64_t min, int64_t max, int64_t& out) {
  const auto* value = Find(name);
  if (value == nullptr) return false;
  const auto number = JsonInteger(*value);
  if (!number && value->is_number()) {
    Fail(name, fmt::format("'{}' is {}; it must be an integer of 64 bits", name, value->dump()));
    return false;
  }
  if (!number) {
    WrongType(name, "an integer", *value);
    return false;
  }
  if (*number < min || *number > max) {
    Fail(name, max == INT64_MAX ? fmt::format("'{}' is {}; it must be at least {}", name, *number, min)
                                : fmt::format("'{}' is {}; it must be from {} to {}", name, *number, min, max));
    return false;
  }
  out = *number;
  return true;
}

bool FieldReader::Boolean(const char* name, bool& out) {
  const auto* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    WrongType(name, "true or false", *value);
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool FieldReader::String(const char* name, std::string& out) {
  const auto* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    WrongType(name, "a string", *value);
    return false;
  }
  out = value->get_ref<const std::string&>();
  return true;
}

bool FieldReader::Tokens(const char* name, uint32_t vocab, std::vector<TokenId>& out) {
  const auto* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_array()) {
    WrongType(name, "a list of token ids", *value);
    return false;
  }
  std::vector<TokenId> tokens;
  tokens.reserve(value->size());
  for (const auto& item : *value) {
    const auto id = JsonInteger(item);
    if (!id || *id < 0 || *id >= vocab) {
      Fail(name, fmt::format("'{}' must hold token ids from 0 to {}", name, vocab - 1));
      return false;
    }
    tokens.push_back(static_cast<TokenId>(*id));
  }
  out = std::move(tokens);
  return true;
}

}  // namespace baton
