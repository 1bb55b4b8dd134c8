// A simulation's costs from what was measured: lines of `baton bench engine --json`, or a live cluster's /metrics.
#pragma once

#include <string>
#include <string_view>

#include "app/sim/simulator.h"

namespace baton {

/// Sets config.worker.cost and the rates that `text` tells. A step's time is a line through the measured batches (least squares); with one batch
/// it is all base. Errors: kInvalid (nothing in it says how fast an engine is).
Status FitText(std::string_view text, SimConfig& config);
/// Errors: as above; kNotFound, kUnavailable (the file).
Status FitFile(const std::string& path, SimConfig& config);

}  // namespace baton
