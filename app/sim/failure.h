// What goes wrong in a simulation, and when.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace baton {

/// What befalls a worker at `at_s` and is over `down_s` later.
struct SimFailure {
  enum class Kind : uint8_t {
    kKill,  // the process is gone and comes back with what it had on disk; everybody sees its connections break
    kStop,  // it hangs: found out by its silence; then as above, else it goes on
    kSlow,  // its steps take four times as long
  };
  std::string worker;  // "prefill0", "decode1", "mixed0", "store0"
  double at_s = 0, down_s = 30;
  Kind kind = Kind::kKill;
};
/// "WORKER@SECONDS[+DOWN_SECONDS][:kill|stop|slow]". Errors: kInvalid.
Result<SimFailure> ParseSimFailure(const std::string& text);

}  // namespace baton
