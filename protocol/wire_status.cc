#include "protocol/wire_status.h"

#include "protocol/wire_text.h"

namespace baton {
namespace {

constexpr std::string_view kTimedOut = "operation timed out";  // what kj::Timer's timeouts say; they are of the type OVERLOADED

}  // namespace

void WriteStatus(const Status& status, wire::WireStatus::Builder out) {
  out.setCode(static_cast<uint16_t>(status.code()));
  if (!status.ok()) out.setMessage(ToText(status.message()));
}

Status ReadStatus(wire::WireStatus::Reader in) {
  if (in.getCode() == 0) return OkStatus();
  const bool known = in.getCode() <= static_cast<uint16_t>(StatusCode::kInternal);
  const kj::StringPtr message = in.getMessage();
  return Status(known ? static_cast<StatusCode>(in.getCode()) : StatusCode::kInternal, std::string(message.begin(), message.size()));
}

Status StatusFromException(const kj::Exception& exception) {
  const std::string text(exception.getDescription().begin(), exception.getDescription().size());
  switch (exception.getType()) {
    case kj::Exception::Type::DISCONNECTED: return UnavailableError("the peer is gone: {}", text);
    case kj::Exception::Type::OVERLOADED:
      if (text == kTimedOut) return UnavailableError("no answer in the time allowed");
      return UnavailableError("the peer is overloaded: {}", text);
    case kj::Exception::Type::UNIMPLEMENTED: return UnavailableError("the peer speaks another version: {}", text);
    case kj::Exception::Type::FAILED: break;
  }
  return InternalError("{}", text);
}

}  // namespace baton
