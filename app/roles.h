// Which roles a rank plays.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace baton {

/// The roles of each of `ranks` ranks. `configured`: the entries of cluster.roles, the last one repeating; where they are the
/// defaults (`is_default`), fewer ranks share what the defaults give to four, and more alternate prefill and decode.
/// Errors: kInvalid (an unknown or missing role, too few ranks, a coordinator elsewhere than on rank 0): says how to start it.
Result<std::vector<std::vector<std::string>>> AssignRoles(const std::vector<std::string>& configured, bool is_default, uint32_t ranks);

/// The roles joined by '+', taken apart. kInvalid names an unknown one.
Result<std::vector<std::string>> ParseRoles(const std::string& text);

}  // namespace baton
