// The two processes of a measurement: a fork of this one, or two ranks of mpirun. Both on this host, joined by two TCP
// connections over loopback.
#pragma once

#include <functional>
#include <string>

#include "app/cli.h"
#include "base/bytes.h"
#include "base/status.h"

namespace baton {

/// What one of the two has. The sockets block and are closed after the body.
struct PairEnd {
  int control = -1, plain = -1;
  int mpi_communicator = 0;  // MPI_Comm_c2f, as a rank of mpirun
};
/// One process's work; gives its exit code.
using PairBody = std::function<int(const PairEnd&)>;

/// `first` here, `second` in a forked child, which dies with this process. Gives the exit code of `first`. Thread: the main
/// one, before there are others. Errors: kUnavailable (no socket or process).
Result<int> RunForked(const PairBody& first, const PairBody& second);

/// `first` as rank 0, `second` as rank 1; gives the exit code of this rank's. Errors: kInvalid (not two ranks), kUnavailable
/// (no MPI or socket, the other rank is on another host).
Result<int> RunAsRanks(const PairBody& first, const PairBody& second);

/// Replaces this process by `mpirun -n 2` of the same command line. Comes back only with kUnavailable: there is no mpirun.
Status RestartUnderMpirun(const CommandLine& line);

/// All bytes or false: the other process has ended.
bool SendAll(int fd, Bytes bytes);
bool ReceiveAll(int fd, MutableBytes bytes);

}  // namespace baton
