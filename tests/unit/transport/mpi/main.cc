// The conformance suite over MPI: rank 0 runs the tests, every other rank lends itself as their far end.
#define OMPI_SKIP_MPICXX 1  // the C interface only
#include <mpi.h>

#include <set>

#include "../side_support.h"

namespace baton {
namespace {

constexpr int kCommand = 10, kAnswer = 11;
MPI_Comm g_data = MPI_COMM_NULL;  // the transports'; orders go over MPI_COMM_WORLD
std::set<int> g_free_ranks;

std::string ReceiveText(int rank, int tag) {
  MPI_Status status;
  int bytes = 0;
  MPI_Probe(rank, tag, MPI_COMM_WORLD, &status);
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  MPI_Recv(text.data(), bytes, MPI_BYTE, rank, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  return text;
}
void SendText(int rank, int tag, const std::string& text) { MPI_Send(text.data(), static_cast<int>(text.size()), MPI_BYTE, rank, tag, MPI_COMM_WORLD); }

/// A rank that has been given a transport to run.
class RankSide final : public Side {
 public:
  explicit RankSide(const TransportConfig& config) {
    CHECK(!g_free_ranks.empty());
    rank_ = *g_free_ranks.begin();
    g_free_ranks.erase(rank_);
    Do({{"op", "make"}, {"self", config.self.value}, {"incarnation", config.incarnation.value}, {"checksum", config.checksum}});
  }
  ~RankSide() override {
    Do({{"op", "drop"}});
    g_free_ranks.insert(rank_);
  }
  nlohmann::json Do(const nlohmann::json& command) override {
    SendText(rank_, kCommand, command.dump());
    return nlohmann::json::parse(ReceiveText(rank_, kAnswer));
  }

 private:
  int rank_ = -1;
};

/// The life of the other ranks.
void Serve() {
  std::unique_ptr<Side> side;
  nlohmann::json events = nlohmann::json::array();
  while (true) {
    int arrived = 0;
    MPI_Iprobe(0, kCommand, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE);
    if (side != nullptr) {
      const nlohmann::json polled = side->Do({{"op", "poll"}, {"wait_s", arrived == 0 ? 0.0002 : 0.0}});
      for (const nlohmann::json& event : polled.at("events")) events.push_back(event);
    }
    if (arrived == 0 && side != nullptr) continue;
    const nlohmann::json command = nlohmann::json::parse(ReceiveText(0, kCommand));
    const std::string op = command.at("op");
    nlohmann::json answer = nlohmann::json::object();
    if (op == "end") return;
    if (op == "make") {
      TransportConfig config;
      config.kind = "mpi";
      config.self = WorkerId(command.at("self"));
      config.incarnation = Incarnation(command.at("incarnation"));
      config.checksum = command.at("checksum");
      config.mpi_communicator = MPI_Comm_c2f(g_data);
      side = MakeDirectSide(config);
    } else if (op == "drop") {
      side.reset();
      events = nlohmann::json::array();
    } else if (op == "poll") {
      answer = {{"events", std::exchange(events, nlohmann::json::array())}};
    } else {
      answer = side->Do(command);
    }
    SendText(0, kAnswer, answer.dump());
  }
}

}  // namespace

std::vector<Setup> SetupsUnderTest() { return {{"mpi", false, false}, {"mpi", false, true}}; }
std::unique_ptr<Side> MakeFarSide(const Setup&, const TransportConfig& config) { return std::make_unique<RankSide>(config); }
/// Every transport of this run is a new start of its worker.
void Complete(const Setup&, TransportConfig* config) {
  static uint64_t starts = 0;
  config->incarnation = Incarnation(++starts);
  config->mpi_communicator = MPI_Comm_c2f(g_data);
}

}  // namespace baton

int main(int argc, char** argv) {
  int provided = 0, rank = 0, ranks = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  MPI_Comm_dup(MPI_COMM_WORLD, &baton::g_data);
  ::testing::InitGoogleTest(&argc, argv);
  int result = 0;
  if (rank == 0) {
    for (int r = 1; r < ranks; ++r) baton::g_free_ranks.insert(r);
    result = RUN_ALL_TESTS();
    for (int r = 1; r < ranks; ++r) baton::SendText(r, baton::kCommand, R"({"op":"end"})");
  } else {
    baton::Serve();
  }
  MPI_Bcast(&result, 1, MPI_INT, 0, MPI_COMM_WORLD);
  MPI_Finalize();
  return result;
}
