// Starts this process's rank: the only one, or one of those that mpirun started. Commands that need a cluster go through here.
#pragma once

#include <string>

#include "app/config.h"
#include "app/rank.h"
#include "base/status.h"

namespace baton {

Status StartLogging(const Config& config, const std::string& name);
/// False where other machines reach `config`'s ranks: those get a fresh cluster.key if none was given.
bool OnLoopback(const Config& config);
/// cluster.bind_host becomes an address of this host (ResolveBindHost). Errors: kInvalid.
Status ResolveHost(Config* config);

/// Serves with every role in this process, or does `job` (no gateway then).
Status RunAlone(LoadedConfig loaded, RankJob* job = nullptr);
/// The same as one of mpirun's ranks, which gives it its roles. With a job every rank calls this, rank 0 does the job, and
/// whoever prefills or decodes does both, so that each prefix is computed where it was routed.
Status RunUnderMpi(LoadedConfig loaded, RankJob* job = nullptr);

}  // namespace baton
