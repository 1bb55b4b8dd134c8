#include "app/sim/failure.h"

#include <cstdlib>

namespace baton {

Result<SimFailure> ParseSimFailure(const std::string& text) {
  const auto bad = [&text] {
    return InvalidError("--fail '{}' is not WORKER@SECONDS[+DOWN_SECONDS][:kill|stop|slow], for example prefill0@100+30:stop", text);
  };
  SimFailure failure;
  std::string rest = text;
  if (const size_t colon = rest.rfind(':'); colon != std::string::npos) {
    const std::string kind = rest.substr(colon + 1);
    if (kind == "stop") failure.kind = SimFailure::Kind::kStop;
    else if (kind == "slow") failure.kind = SimFailure::Kind::kSlow;
    else if (kind != "kill") return bad();
    rest.resize(colon);
  }
  const size_t at = rest.find('@');
  if (at == std::string::npos) return bad();
  failure.worker = rest.substr(0, at);
  const char* begin = rest.c_str() + at + 1;
  char* end = nullptr;
  failure.at_s = std::strtod(begin, &end);
  if (end == begin || !(failure.at_s >= 0)) return bad();
  if (*end == '+') {
    begin = end + 1;
    failure.down_s = std::strtod(begin, &end);
    if (end == begin || !(failure.down_s >= 0)) return bad();
  }
  if (*end != '\0') return bad();
  return Result<SimFailure>(std::move(failure));
}

}  // namespace baton
