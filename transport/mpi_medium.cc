#ifdef BATON_HAVE_MPI

#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <list>
#include <mutex>
#include <utility>

#include "transport/message_wire.h"

namespace baton {
namespace {

constexpr int kTag = 1;
constexpr size_t kReceives = 16;  // under way at once
constexpr Duration kBriefSleep = std::chrono::microseconds(50), kLongSleep = std::chrono::milliseconds(2);
constexpr Duration kBusy = std::chrono::milliseconds(20);  // after the last message, sleeps are brief

class MpiMedium final : public MessageMedium {
 public:
  MpiMedium(MPI_Comm comm, const Clock& clock) : comm_(comm), clock_(clock) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &ranks_);
    under_way_.resize(static_cast<size_t>(ranks_));
  }
  ~MpiMedium() override {
    TestSends();
    for (Message& m : sends_) Abandon(m);
    for (Message& m : receives_) Abandon(m);
  }

  std::string_view name() const override { return "mpi"; }
  std::string address() const override { return fmt::format("mpi:{}", rank_); }

  Result<Link> Reach(const std::string& address) override {
    int rank = -1;
    const char* end = address.data() + address.size();
    const bool read = address.rfind("mpi:", 0) == 0 && std::from_chars(address.data() + 4, end, rank).ptr == end;
    if (!read || rank < 0 || rank >= ranks_) return InvalidError("\"{}\" is not an address of the mpi transport with {} ranks", address, ranks_);
    return static_cast<Link>(rank);
  }

  void Send(Link link, MessageBuffer bytes) override {
    Message& m = sends_.emplace_back();
    m.bytes = std::move(bytes);
    m.rank = static_cast<int>(link);
    ++under_way_[link];
    MPI_Isend(m.bytes.data(), static_cast<int>(m.bytes.size()), MPI_BYTE, m.rank, kTag, comm_, &m.request);
  }

  size_t Sending(Link link) const override { return under_way_[link]; }
  std::vector<Link> TakeBroken() override { return {}; }

  /// Each rank's messages are given in the order they were sent: a long one may arrive after a short one behind it.
  std::optional<MessageBuffer> Receive() override {
    TestSends();
    StartReceives();
    std::vector<int> waiting;
    for (auto it = receives_.begin(); it != receives_.end(); ++it) {
      if (std::find(waiting.begin(), waiting.end(), it->rank) != waiting.end()) continue;
      int done = 0;
      MPI_Test(&it->request, &done, MPI_STATUS_IGNORE);
      if (done != 0) {
        MessageBuffer bytes = std::move(it->bytes);
        receives_.erase(it);
        return bytes;
      }
      waiting.push_back(it->rank);
    }
    return std::nullopt;
  }

  /// MPI has no way to sleep for a message: looks again after short sleeps, longer ones when nothing has moved for a while.
  void Wait(Duration timeout) override {
    const Instant end = clock_.Now() + timeout;
    while (true) {
      int arrived = 0;
      MPI_Iprobe(MPI_ANY_SOURCE, kTag, comm_, &arrived, MPI_STATUS_IGNORE);
      const Instant now = clock_.Now();
      if (arrived != 0) last_moved_ = now;
      if (arrived != 0 || !receives_.empty() || now >= end) return;
      std::unique_lock lock(mutex_);
      const Duration nap = now - last_moved_ < kBusy || !sends_.empty() ? kBriefSleep : kLongSleep;
      ready_.wait_for(lock, std::min(nap, end - now), [this] { return woken_; });
      if (std::exchange(woken_, false) || !sends_.empty()) return;
    }
  }

  void Wake() override {
    std::lock_guard lock(mutex_);
    woken_ = true;
    ready_.notify_one();
  }

 private:
  struct Message {
    MPI_Request request = MPI_REQUEST_NULL;
    MessageBuffer bytes;
    int rank = -1;
  };

  /// MPI still reads or writes these bytes, and will until the program ends: they have to stay.
  static void Abandon(Message& m) {
    if (m.request == MPI_REQUEST_NULL) return;
    [[maybe_unused]] const auto* kept = new MessageBuffer(std::move(m.bytes));
    MPI_Request_free(&m.request);
  }

  void TestSends() {
    for (auto it = sends_.begin(); it != sends_.end();) {
      int done = 0;
      MPI_Test(&it->request, &done, MPI_STATUS_IGNORE);
      if (done != 0) {
        --under_way_[static_cast<size_t>(it->rank)];
        buffers.Give(std::move(it->bytes));
      }
      it = done != 0 ? sends_.erase(it) : std::next(it);
    }
  }

  void StartReceives() {
    while (receives_.size() < kReceives) {
      int arrived = 0, bytes = 0;
      MPI_Message message;
      MPI_Status status;
      MPI_Improbe(MPI_ANY_SOURCE, kTag, comm_, &arrived, &message, &status);
      if (arrived == 0) return;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      Message& m = receives_.emplace_back();
      m.rank = status.MPI_SOURCE;
      m.bytes = buffers.Take(static_cast<size_t>(bytes));
      m.bytes.Resize(static_cast<size_t>(bytes));
      MPI_Imrecv(m.bytes.data(), bytes, MPI_BYTE, &message, &m.request);
      last_moved_ = clock_.Now();
    }
  }

  const MPI_Comm comm_;
  const Clock& clock_;
  int rank_ = -1, ranks_ = 0;
  std::list<Message> sends_, receives_;
  std::vector<size_t> under_way_;  // sends to each rank
  Instant last_moved_{};
  std::mutex mutex_;
  std::condition_variable ready_;
  bool woken_ = false;
};

}  // namespace

Result<std::unique_ptr<MessageMedium>> MakeMpiMedium(const TransportConfig& config, const Clock& clock) {
  int initialised = 0, finalised = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalised);
  if (initialised == 0 || finalised != 0) return InvalidError("the mpi transport needs MPI; start the program with mpirun");
  const MPI_Comm comm = MPI_Comm_f2c(config.mpi_communicator);
  if (comm == MPI_COMM_NULL || config.mpi_communicator == 0) return InvalidError("the mpi transport needs a communicator of its own (TransportConfig::mpi_communicator)");
  return Result<std::unique_ptr<MessageMedium>>(std::make_unique<MpiMedium>(comm, clock));
}

}  // namespace baton

#endif  // BATON_HAVE_MPI
