#ifdef BATON_HAVE_MPI

#include "transport/mpi_wire.h"

#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baton {
namespace {

constexpr int kTag = 1;
constexpr size_t kMessageBytes = 256_KiB;        // about; one piece or one grant may make it longer
constexpr size_t kSendsAPeer = 4, kReceives = 16;  // under way at once
constexpr Duration kBriefSleep = std::chrono::microseconds(50), kLongSleep = std::chrono::milliseconds(2);
constexpr Duration kBusy = std::chrono::milliseconds(20);  // after the last message, sleeps are brief

enum class MessageKind : uint32_t { kHello = 1, kBye = 2, kFrames = 3 };
struct Prefix {
  MessageKind kind{};
  uint32_t worker = 0;
  uint64_t incarnation = 0;
};

class MpiWire final : public Wire {
 public:
  MpiWire(const TransportConfig& config, WireHost& host, const Clock& clock, MPI_Comm comm)
      : self_(config.self), incarnation_(config.incarnation), host_(host), clock_(clock), comm_(comm) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &ranks_);
  }

  ~MpiWire() override {
    for (auto& [id, peer] : peers_) Post(peer, MessageKind::kBye, {});
    for (Receive& r : receives_) Abandon(r.request, std::move(r.bytes));
    TestSends();
    for (Sent& s : sends_) Abandon(s.request, std::move(s.bytes));
  }

  std::string_view name() const override { return "mpi"; }
  std::string address() const override { return fmt::format("mpi:{}", rank_); }
  Status Register(const ArenaMemory&) override { return OkStatus(); }
  void Detach(TransferId) override {}  // messages hold copies

  Status Connect(WorkerId id, const std::string& address) override {
    int rank = -1;
    const char* end = address.data() + address.size();
    const bool read = address.rfind("mpi:", 0) == 0 && std::from_chars(address.data() + 4, end, rank).ptr == end;
    if (!read || rank < 0 || rank >= ranks_) return InvalidError("\"{}\" is not an address of the mpi transport with {} ranks", address, ranks_);
    if (peers_.contains(id)) return OkStatus();
    peers_[id].rank = rank;
    Post(peers_[id], MessageKind::kHello, {});
    return OkStatus();
  }

  void Disconnect(WorkerId id) override {
    const auto it = peers_.find(id);
    if (it == peers_.end()) return;
    Post(it->second, MessageKind::kBye, {});
    peers_.erase(it);
  }

  void Progress() override {
    TestSends();
    StartReceives();
    FinishReceives();
    std::vector<WorkerId> ids;
    for (const auto& [id, peer] : peers_) ids.push_back(id);
    for (const WorkerId id : ids) Flush(id);
  }

  void Flush(WorkerId id) override {
    const auto it = peers_.find(id);
    if (it == peers_.end() || !it->second.up) return;
    while (it->second.sending < kSendsAPeer && host_.HasOutput(id)) {
      std::string frames = host_.TakeControl(id);
      while (frames.size() < kMessageBytes) {
        const auto piece = host_.NextPiece(id, 0);
        if (!piece) break;
        AppendNumber(&frames, piece->header);
        frames.append(reinterpret_cast<const char*>(piece->data), piece->header.body_bytes);
      }
      if (frames.empty()) return;
      Post(it->second, MessageKind::kFrames, frames);
    }
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
      if (std::exchange(woken_, false)) return;
      if (!sends_.empty()) return;
    }
  }

  void Wake() override {
    std::lock_guard lock(mutex_);
    woken_ = true;
    ready_.notify_one();
  }
  uint64_t refused_peers() const override { return refused_; }

 private:
  struct Peer {
    int rank = -1;
    bool up = false;
    uint64_t incarnation = 0;
    size_t sending = 0;
  };
  struct Sent {
    MPI_Request request = MPI_REQUEST_NULL;
    std::string bytes;
    int rank = -1;
  };
  struct Receive {
    MPI_Request request = MPI_REQUEST_NULL;
    std::string bytes;
    int rank = -1;
    bool done = false;
  };

  /// MPI still reads or writes these bytes and will until the program ends: they must stay.
  static void Abandon(MPI_Request& request, std::string bytes) {
    if (request == MPI_REQUEST_NULL) return;
    [[maybe_unused]] const auto* kept = new std::string(std::move(bytes));
    MPI_Request_free(&request);
  }

  void Post(Peer& peer, MessageKind kind, const std::string& frames) {
    Sent& sent = sends_.emplace_back();
    AppendNumber(&sent.bytes, Prefix{kind, self_.value, incarnation_.value});
    sent.bytes += frames;
    sent.rank = peer.rank;
    ++peer.sending;
    MPI_Isend(sent.bytes.data(), static_cast<int>(sent.bytes.size()), MPI_BYTE, peer.rank, kTag, comm_, &sent.request);
  }

  void TestSends() {
    for (auto it = sends_.begin(); it != sends_.end();) {
      int done = 0;
      MPI_Test(&it->request, &done, MPI_STATUS_IGNORE);
      if (done == 0) {
        ++it;
        continue;
      }
      for (auto& [id, peer] : peers_) {
        if (peer.rank == it->rank && peer.sending > 0) --peer.sending;
      }
      it = sends_.erase(it);
    }
  }

  void StartReceives() {
    while (receives_.size() < kReceives) {
      int arrived = 0;
      MPI_Message message;
      MPI_Status status;
      MPI_Improbe(MPI_ANY_SOURCE, kTag, comm_, &arrived, &message, &status);
      if (arrived == 0) return;
      int bytes = 0;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      Receive& r = receives_.emplace_back();
      r.rank = status.MPI_SOURCE;
      r.bytes.resize(static_cast<size_t>(bytes));
      MPI_Imrecv(r.bytes.data(), bytes, MPI_BYTE, &message, &r.request);
      last_moved_ = clock_.Now();
    }
  }

  /// Each rank's messages are taken in the order they were sent.
  void FinishReceives() {
    std::vector<int> waiting;
    for (auto it = receives_.begin(); it != receives_.end();) {
      int done = 0;
      if (!it->done) MPI_Test(&it->request, &done, MPI_STATUS_IGNORE);
      it->done = it->done || done != 0;
      if (!it->done || std::find(waiting.begin(), waiting.end(), it->rank) != waiting.end()) {
        waiting.push_back(it->rank);
        ++it;
        continue;
      }
      const Receive r = std::move(*it);
      it = receives_.erase(it);
      Take(r.rank, AsBytes(r.bytes));
    }
  }

  void Take(int rank, Bytes message) {
    Prefix prefix;
    if (!TakeNumber(&message, &prefix) || rank == MPI_PROC_NULL) return;
    const WorkerId id(prefix.worker);
    if (prefix.kind == MessageKind::kHello) return Greet(rank, id, prefix.incarnation);
    const auto it = peers_.find(id);
    if (it == peers_.end() || !it->second.up || it->second.rank != rank || it->second.incarnation != prefix.incarnation) return;
    Status status = prefix.kind == MessageKind::kBye ? UnavailableError("worker {} has closed its transport", id.value) : TakeFrames(id, message);
    if (status.ok()) return;
    if (prefix.kind != MessageKind::kBye) Post(it->second, MessageKind::kBye, {});
    peers_.erase(it);
    host_.OnPeerDown(id, status);
  }

  void Greet(int rank, WorkerId id, uint64_t incarnation) {
    const auto it = peers_.find(id);
    const bool known = it != peers_.end() && it->second.up;
    if (known && it->second.incarnation == incarnation && it->second.rank == rank) return;
    if ((known && incarnation < it->second.incarnation) || !host_.Admit(id).ok()) {
      ++refused_;
      return;
    }
    const bool greeted = it != peers_.end() && !known && it->second.rank == rank;  // our hello is on its way
    if (known) {
      peers_.erase(it);
      host_.OnPeerDown(id, UnavailableError("worker {} was restarted", id.value));
    }
    Peer& peer = peers_[id];
    peer.rank = rank;
    peer.up = true;
    peer.incarnation = incarnation;
    if (!greeted) Post(peer, MessageKind::kHello, {});
    host_.OnPeerUp(id, fmt::format("mpi:{}", rank));
  }

  Status TakeFrames(WorkerId id, Bytes frames) {
    while (!frames.empty()) {
      if (frames.size() < sizeof(FrameHeader)) return InvalidError("worker {} sent half a frame", id.value);
      ASSIGN_OR_RETURN(const FrameHeader h, ParseHeader(frames));
      if (frames.size() - sizeof h < h.body_bytes) return InvalidError("worker {} sent half a frame", id.value);
      const Bytes body = frames.subspan(sizeof h, h.body_bytes);
      frames = frames.subspan(sizeof h + h.body_bytes);
      if (h.type != FrameType::kData) {
        RETURN_IF_ERROR(host_.OnFrame(id, h, body));
        continue;
      }
      std::byte* place = host_.Locate(id, h, body.size());
      if (place == nullptr) {
        host_.Drained(id, h, body.size());
      } else {
        if (!body.empty()) std::memcpy(place, body.data(), body.size());
        host_.Landed(id, h);
      }
    }
    return OkStatus();
  }

  const WorkerId self_;
  const Incarnation incarnation_;
  WireHost& host_;
  const Clock& clock_;
  const MPI_Comm comm_;
  int rank_ = -1, ranks_ = 0;
  std::unordered_map<WorkerId, Peer> peers_;
  std::list<Sent> sends_;
  std::list<Receive> receives_;
  Instant last_moved_{};
  uint64_t refused_ = 0;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool woken_ = false;
};

}  // namespace

Result<std::unique_ptr<Wire>> MakeMpiWire(const TransportConfig& config, WireHost& host, const Clock& clock) {
  int initialised = 0, finalised = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalised);
  if (initialised == 0 || finalised != 0) return InvalidError("the mpi transport needs MPI; start the program with mpirun");
  const MPI_Comm comm = MPI_Comm_f2c(config.mpi_communicator);
  if (comm == MPI_COMM_NULL || config.mpi_communicator == 0) return InvalidError("the mpi transport needs a communicator of its own (TransportConfig::mpi_communicator)");
  return Result<std::unique_ptr<Wire>>(std::make_unique<MpiWire>(config, host, clock, comm));
}

}  // namespace baton

#endif  // BATON_HAVE_MPI
