// Strings on the wire with all their bytes: kj takes a std::string only up to its first NUL.
#pragma once

#include <capnp/common.h>

#include <string>

namespace baton {

/// `text` lives until the message was written.
inline capnp::Text::Reader ToText(const std::string& text) { return {text.data(), text.size()}; }

}  // namespace baton
