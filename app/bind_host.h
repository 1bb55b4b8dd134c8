// The address a rank listens on, from what the configuration says: one configuration serves ranks on many hosts.
#pragma once

#include <string>

#include "base/status.h"

namespace baton {

/// `text` as a numeric address of this host: an address stays as it is; "localhost" is 127.0.0.1; the name of an interface ("eth0")
/// and a network ("10.0.0.0/8") become this host's first address there. Errors: kInvalid, naming the interfaces there are.
Result<std::string> ResolveBindHost(const std::string& text);

/// Whether only processes of this host can reach that address.
bool IsLoopback(const std::string& address);

}  // namespace baton
