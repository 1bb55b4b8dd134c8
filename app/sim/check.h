// Whether a simulation can be run, and will end.
#pragma once

#include <vector>

#include "app/sim/simulator.h"

namespace baton {

/// Of virtual time, three weeks: beyond, heartbeats alone take minutes.
inline constexpr double kLongestSimulationS = 2e6;

/// `trace` has a request. Errors: kInvalid says which value, failure or trace cannot be.
Status CheckSimulation(const SimConfig& config, const std::vector<TraceRequest>& trace);

}  // namespace baton
