// What a client reads when something is wrong: an HTTP status and OpenAI's error object.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace baton {

struct ApiError {
  int http_status = 400;
  std::string message;
  std::string param;  // the field at fault; empty: null
  std::string code;   // for programs, for example "model_not_found"; empty: null
  double retry_after_s = 0;  // > 0: sent as Retry-After, in whole seconds rounded up

  /// {"error":{"message","type","param","code"}}; the type follows from the HTTP status.
  std::string Json() const;
};

/// 400 about one field; an empty `param` means the body as a whole.
ApiError BadRequest(std::string param, std::string message);
/// The error about the field `from`, or a part of it, becomes one about `to`: where a field is read by the rules of another.
void RenameParam(ApiError& error, std::string_view from, std::string_view to);
/// How a failed generation or call is told: kInvalid 400, kNotFound 404, kExhausted 429, kUnavailable, kDeadline, kAborted and
/// kCancelled 503, others 500.
ApiError FromStatus(const Status& status, double retry_after_s = 0);
/// "Bad Request" for 400.
const char* HttpReason(int http_status);

}  // namespace baton
