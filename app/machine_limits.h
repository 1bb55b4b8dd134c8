// What the machine could do at best, measured: the yardsticks beside which `bench engine` puts the engine. Rates are per
// second of CPU time, so that other work on the machine does not lower them.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "model/kernels/kernels.h"

namespace baton {

/// Bytes a thread reads from memory a CPU second, `threads` of them at once, of 256 MiB in large pages; the best of some passes.
Result<double> MeasureReadRate(unsigned threads);
/// Products of one-digit integers a thread adds up a CPU second, `threads` of them at once, with the instructions of `kernels`.
double MeasureDotRate(const Kernels& kernels, unsigned threads);

}  // namespace baton
