// What mpirun gives: a rank, a size and a broadcast at the start. MPI is never the control plane: a dead rank must be an
// event, not the end of the job. Unless it is the transport too, it is left again before the rank begins to serve.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"

namespace baton {

/// True in a process started by mpirun.
bool StartedByMpirun();

/// Thread: the main one for all methods; the transport's thread may use the communicator once Launch is over.
class MpiLaunch {
 public:
  /// Errors: kUnavailable (this build has no MPI, or MPI gives fewer threads than needed).
  static Result<std::unique_ptr<MpiLaunch>> Begin();
  virtual ~MpiLaunch() = default;
  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;
  /// Rank 0's text, on every rank. Collective. Errors: kInvalid (longer than 64 KiB), kUnavailable.
  virtual Result<std::string> Share(const std::string& of_rank_0) = 0;
  /// Whether every rank says so. Collective: a rank that cannot go on says it here, or the others wait for it.
  virtual bool AllAgree(bool mine) = 0;
  /// MPI_Comm_c2f of a communicator for the transport.
  virtual int communicator() const = 0;
  /// Leaves MPI. Collective: call it only while every rank lives.
  virtual void End() = 0;
};

}  // namespace baton
