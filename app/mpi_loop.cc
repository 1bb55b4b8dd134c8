#include "app/mpi_loop.h"

#ifdef BATON_HAVE_MPI

#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

namespace baton {
namespace {

constexpr int kTag = 7;  // the transport's is another

/// Starts each message, waits for all.
template <typename Message, typename Start>
Status Window(int communicator, const std::vector<Message>& messages, Start start) {
  const MPI_Comm comm = MPI_Comm_f2c(communicator);
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  std::vector<MPI_Request> requests(messages.size());
  bool good = true;
  for (size_t i = 0; i < messages.size(); ++i) good = start(messages[i], 1 - rank, comm, &requests[i]) == MPI_SUCCESS && good;
  good = MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE) == MPI_SUCCESS && good;
  return good ? OkStatus() : UnavailableError("MPI could not move a message");
}

}  // namespace

Status SendWindow(int communicator, const std::vector<Bytes>& messages) {
  return Window(communicator, messages, [](Bytes m, int to, MPI_Comm comm, MPI_Request* request) {
    return MPI_Isend(m.data(), static_cast<int>(m.size()), MPI_BYTE, to, kTag, comm, request);
  });
}

Status ReceiveWindow(int communicator, const std::vector<MutableBytes>& messages) {
  return Window(communicator, messages, [](MutableBytes m, int from, MPI_Comm comm, MPI_Request* request) {
    return MPI_Irecv(m.data(), static_cast<int>(m.size()), MPI_BYTE, from, kTag, comm, request);
  });
}

}  // namespace baton

#else

namespace baton {

Status SendWindow(int, const std::vector<Bytes>&) { return UnavailableError("this build has no MPI"); }
Status ReceiveWindow(int, const std::vector<MutableBytes>&) { return UnavailableError("this build has no MPI"); }

}  // namespace baton

#endif
