// Files of gateway/web, built into the program.
#pragma once

#include <string>

namespace baton {
const std::string& WebPageHtml();
const std::string& OpenApiJson();
}  // namespace baton
