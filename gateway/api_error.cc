#include "gateway/api_error.h"

#include <utility>

#include "gateway/json_text.h"

namespace baton {
namespace {

const char* ErrorType(int http_status) {
  switch (http_status) {
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return http_status >= 500 ? "server_error" : "invalid_request_error";
  }
}

void AppendNullable(std::string& out, const std::string& text) {
  if (text.empty()) {
    out += "null";
  } else {
    AppendJsonString(out, text);
  }
}

}  // namespace

std::string ApiError::Json() const {
  std::string out = "{\"error\":{\"message\":";
  AppendJsonString(out, message);
  out += ",\"type\":\"";
  out += ErrorType(http_status);
  out += "\",\"param\":";
  AppendNullable(out, param);
  out += ",\"code\":";
  AppendNullable(out, code);
  out += "}}";
  return out;
}

ApiError BadRequest(std::string param, std::string message) { return {400, std::move(message), std::move(param), "", 0}; }

void RenameParam(ApiError& error, std::string_view from, std::string_view to) {
  const std::string_view param = error.param;
  if (!param.starts_with(from) || (param.size() > from.size() && param[from.size()] != '.')) return;
  error.param.replace(0, from.size(), to);
  const std::string quoted = "'" + std::string(from) + "'";
  if (const size_t at = error.message.find(quoted); at != std::string::npos) error.message.replace(at + 1, from.size(), to);
}

ApiError FromStatus(const Status& status, double retry_after_s) {
  ApiError error{500, status.message(), "", std::string(StatusCodeName(status.code())), retry_after_s};
  switch (status.code()) {
    case StatusCode::kInvalid: error.http_status = 400; break;
    case StatusCode::kNotFound: error.http_status = 404; break;
    case StatusCode::kExhausted:
      error.http_status = 429;
      error.code = "rate_limit_exceeded";
      break;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadline:
    case StatusCode::kAborted:
    case StatusCode::kCancelled: error.http_status = 503; break;
    default: break;
  }
  if ((error.http_status == 429 || error.http_status == 503) && error.retry_after_s <= 0) error.retry_after_s = 1;
  return error;
}

const char* HttpReason(int http_status) {
  switch (http_status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 503: return "Service Unavailable";
    default: return http_status >= 500 ? "Internal Server Error" : "Error";
  }
}

}  // namespace baton
