// The flags of every command that loads a model.
#pragma once

#include <CLI/CLI.hpp>

#include "model/model.h"

namespace baton {

/// Adds --model (required), --numerics, --kv-dtype, --threads, --isa and --device, which fill `options`.
void AddModelFlags(CLI::App& command, LoadOptions& options);

}  // namespace baton
