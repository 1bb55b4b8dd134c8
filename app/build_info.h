// What was compiled and what this CPU offers.
#pragma once

#include <string>
#include <vector>

namespace baton {

struct BuildInfo {
  std::string version, compiler;
  std::string isa;                    // the best kernels this CPU runs: "avx512", "avx2" or "scalar"
  std::vector<std::string> features;  // "mpi", "ucx", …
};
BuildInfo GetBuildInfo();

}  // namespace baton
