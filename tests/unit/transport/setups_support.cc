// What this binary runs the conformance suite over: everything that needs no launcher.
#include "side_support.h"

namespace baton {

std::vector<Setup> SetupsUnderTest() {
  std::vector<Setup> setups;
  for (const std::string_view kind : TransportKinds()) {
    if (kind == "mpi") continue;  // its own binary, under mpirun
    setups.push_back({std::string(kind), false, false});
    // UCX does not survive a fork in a process that has used it, which a forked far end is in a test that makes a second one.
    if (kind != "local" && kind != "ucx") setups.push_back({std::string(kind), true, false});
    if (kind == "auto" || kind == "tcp" || kind == "shm") setups.push_back({std::string(kind), true, true});
  }
  return setups;
}

std::unique_ptr<Side> MakeFarSide(const Setup& setup, const TransportConfig& config) {
  return setup.forked ? MakeForkedSide(config) : MakeDirectSide(config);
}

void Complete(const Setup&, TransportConfig*) {}

}  // namespace baton
