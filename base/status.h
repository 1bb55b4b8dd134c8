// The one error type of the program. A Status is either ok or a code with a message that says what happened, to
// which object, and what to do about it. Result<T> is a Status or a T. Nothing in Baton throws across a function
// that returns one of these; CHECK (base/check.h) is for bugs only.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace baton {

enum class StatusCode : int {
  kOk = 0,
  kInvalid = 1,      // the caller's input is wrong; retrying the same call cannot help
  kNotFound = 2,     // the named thing does not exist
  kExhausted = 3,    // a bound was reached (blocks, queue, quota, disk); retry later
  kDeadline = 4,     // the time allowed ran out
  kUnavailable = 5,  // the peer or service is not reachable now; retry elsewhere or later
  kDataLoss = 6,     // bytes exist but do not verify
  kCancelled = 7,    // the caller asked to stop
  kAborted = 8,      // a concurrent event (restart, new incarnation) made the operation stale
  kInternal = 9,     // a bug or an unclassified failure
};

/// The code's lower-case name, for example "not_found". Total: unknown values give "unknown".
std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  /// "ok", or "not_found: no model at /x".
  std::string ToString() const;
  /// The same error with `context` and ": " before its message; ok stays ok.
  Status WithContext(std::string_view context) const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return {}; }

#define BATON_DEFINE_ERROR(Name, Code)                                            \
  template <typename... Args>                                                     \
  Status Name(fmt::format_string<Args...> format, Args&&... args) {               \
    return Status(StatusCode::Code, fmt::format(format, std::forward<Args>(args)...)); \
  }
BATON_DEFINE_ERROR(InvalidError, kInvalid)
BATON_DEFINE_ERROR(NotFoundError, kNotFound)
BATON_DEFINE_ERROR(ExhaustedError, kExhausted)
BATON_DEFINE_ERROR(DeadlineError, kDeadline)
BATON_DEFINE_ERROR(UnavailableError, kUnavailable)
BATON_DEFINE_ERROR(DataLossError, kDataLoss)
BATON_DEFINE_ERROR(CancelledError, kCancelled)
BATON_DEFINE_ERROR(AbortedError, kAborted)
BATON_DEFINE_ERROR(InternalError, kInternal)
#undef BATON_DEFINE_ERROR

template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    CHECK(!status_.ok());
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  /// The value; the caller has checked ok().
  T& value() & { CHECK(ok()); return *value_; }
  const T& value() const& { CHECK(ok()); return *value_; }
  T&& value() && { CHECK(ok()); return std::move(*value_); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

#define BATON_CONCAT_INNER(a, b) a##b
#define BATON_CONCAT(a, b) BATON_CONCAT_INNER(a, b)
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    if (::baton::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_INNER(BATON_CONCAT(result_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) return tmp.status();          \
  lhs = std::move(tmp).value()

}  // namespace baton
