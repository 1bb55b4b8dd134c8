// A simulation as one web page: figures, plots as inline SVG, nothing from elsewhere.
#pragma once

#include <string>

#include "app/sim/search.h"
#include "app/sim/simulator.h"

namespace baton {

/// `title` names the run; `search` may be null.
std::string HtmlReport(const std::string& title, const SimConfig& config, const SimReport& report, const SimSearchResult* search);

}  // namespace baton
