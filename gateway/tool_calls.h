// Function calls in an answer: written by the model as <tool_call>{"name": …, "arguments": {…}}</tool_call> (Hermes, Qwen; what
// a forced call is held to by its grammar) or, by Llama 3, as a bare object in place of the answer.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace baton {

struct ToolCall {
  std::string name, arguments;  // arguments as JSON text
};

/// Cuts an answer that comes in pieces into text and calls. Never loses a byte: what is no call after all is text. Thread: one.
class ToolCallReader {
 public:
  struct Piece {
    std::string text;
    std::vector<ToolCall> calls;
  };
  /// `names` of the functions there are; empty: everything is text.
  explicit ToolCallReader(const std::vector<std::string>& names) : names_(names), state_(names.empty() ? State::kOff : State::kStart) {}

  Piece Push(std::string_view text);
  /// The answer ended: what was held back.
  Piece Finish();
  /// The answer's end: Push and Finish in one.
  Piece PushLast(std::string_view text);
  /// Calls given so far.
  uint32_t calls() const { return calls_; }

 private:
  enum class State : uint8_t { kOff, kStart, kText, kCall, kBare };
  void ReadStart();
  bool ReadText(Piece& out);
  bool ReadCall(Piece& out);
  bool AddCall(std::string_view json, Piece& out);

  const std::vector<std::string>& names_;
  State state_;
  std::string held_;
  std::string lead_;  // white space before the call being read: text, if that is no call
  uint32_t calls_ = 0;
};

/// A grammar that lets the answer be nothing but one call of one of `tools`, each {"function": {"name": …, "parameters":
/// schema}}; of the one called `only` unless that is empty. Errors: kInvalid (no such tool, a schema that cannot be kept).
Result<std::string> ToolCallGbnf(const nlohmann::ordered_json& tools, const std::string& only);

}  // namespace baton
