#include "app/mpi_launch.h"

#include <cstdlib>

#if BATON_HAVE_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>
#endif

namespace baton {

bool StartedByMpirun() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

#if BATON_HAVE_MPI

namespace {

constexpr int kMaxShared = 64 << 10;

class OpenMpiLaunch final : public MpiLaunch {
 public:
  OpenMpiLaunch() {
    int value = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &value);
    rank_ = static_cast<uint32_t>(value);
    MPI_Comm_size(MPI_COMM_WORLD, &value);
    size_ = static_cast<uint32_t>(value);
    MPI_Comm_dup(MPI_COMM_WORLD, &transport_);
    MPI_Comm_set_errhandler(transport_, MPI_ERRORS_RETURN);
  }
  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }
  Result<std::string> Share(const std::string& of_rank_0) override {
    int bytes = static_cast<int>(of_rank_0.size());
    if (MPI_Bcast(&bytes, 1, MPI_INT, 0, MPI_COMM_WORLD) != MPI_SUCCESS || bytes > kMaxShared) return UnavailableError("MPI_Bcast failed");
    std::string text = rank_ == 0 ? of_rank_0 : std::string(static_cast<size_t>(bytes), '\0');
    if (MPI_Bcast(text.data(), bytes, MPI_CHAR, 0, MPI_COMM_WORLD) != MPI_SUCCESS) return UnavailableError("MPI_Bcast failed");
    return Result<std::string>(std::move(text));
  }
  bool AllAgree(bool mine) override {
    int own = mine ? 1 : 0, all = 0;
    return MPI_Allreduce(&own, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD) == MPI_SUCCESS && all == 1;
  }
  int communicator() const override { return MPI_Comm_c2f(transport_); }
  void End() override {
    MPI_Comm_free(&transport_);
    MPI_Finalize();
  }

 private:
  uint32_t rank_ = 0, size_ = 0;
  MPI_Comm transport_ = MPI_COMM_NULL;
};

}  // namespace

Result<std::unique_ptr<MpiLaunch>> MpiLaunch::Begin() {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) return UnavailableError("MPI_Init_thread failed");
  if (provided < MPI_THREAD_SERIALIZED) return UnavailableError("this MPI serves one thread only; Baton needs MPI_THREAD_SERIALIZED");
  return std::unique_ptr<MpiLaunch>(std::make_unique<OpenMpiLaunch>());
}

#else

Result<std::unique_ptr<MpiLaunch>> MpiLaunch::Begin() {
  return UnavailableError("this build has no MPI: install libopenmpi-dev and build again, or use `baton serve` or `baton cluster --join`");
}

#endif

}  // namespace baton
