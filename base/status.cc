#include "base/status.h"

#include <array>
#include <cstdio>
#include <cstdlib>

namespace baton {

void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "CHECK failed at %s:%d: %s\nThis is a bug in Baton; please report it with the log above.\n", file,
               line, condition);
  std::abort();
}

std::string_view StatusCodeName(StatusCode code) {
  static constexpr std::array<std::string_view, 10> kNames = {"ok",          "invalid",   "not_found", "exhausted", "deadline",
                                                              "unavailable", "data_loss", "cancelled", "aborted",   "internal"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::string Status::ToString() const {
  if (ok()) return "ok";
  return fmt::format("{}: {}", StatusCodeName(code_), message_);
}

Status Status::WithContext(std::string_view context) const {
  if (ok()) return *this;
  return Status(code_, fmt::format("{}: {}", context, message_));
}

}  // namespace baton
