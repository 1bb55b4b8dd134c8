// One process of a cluster: builds the roles it plays, joins, serves until it is told to stop, and leaves in an order that
// loses nothing: streams end, then what they computed is written, then the store flushes, then the coordinator goes.
#pragma once

#include <kj/async-io.h>

#include <memory>
#include <string>
#include <vector>

#include "app/config.h"
#include "base/status.h"
#include "protocol/peers.h"

namespace baton {

class ClusterBackend;
struct RankContext;

/// What a cluster does in place of serving: it ends when the job has. Of the coordinator's rank.
class RankJob {
 public:
  virtual ~RankJob() = default;
  /// Reads what there is to do. Before anything of the cluster is started, so it may take its time.
  virtual Status Prepare(const Config& config) = 0;
  /// Does it, once all ranks are there. Thread: the loop's. The promise is dropped when the job is told to stop.
  virtual kj::Promise<Status> Run(RankContext& context, ClusterBackend& backend) = 0;
};

struct RankSetup {
  Config config;
  std::vector<std::string> roles;
  std::string name;          // unique in the cluster
  int mpi_communicator = 0;  // MPI_Comm_c2f, where the transport is mpi
  uint32_t ranks = 1;        // started together: the gateway waits for them before it says it is ready
  bool launched_by_mpirun = false;
  uint16_t listen_port = 0;  // of the control port; 0: any free one
  double settle_s = 0;       // of a coordinator: see MembershipConfig
  RankJob* job = nullptr;    // done by this rank; the others leave with it
  bool announce_url = true;  // print the gateway's URL on stdout once it is ready
};

/// Thread: the main one, which runs the loop.
class Rank {
 public:
  explicit Rank(RankSetup setup);
  ~Rank();
  /// Opens the control port: other ranks reach this one there. Errors: kInvalid (address).
  Result<PeerAddress> Listen();
  /// Builds the roles, joins the cluster of `coordinator` (this rank's own address where it plays that role) and serves until
  /// SIGINT or SIGTERM or the job's end, then drains. Ok after an orderly end; else the job's error.
  Status Run(const PeerAddress& coordinator);
  /// On the coordinator's rank: true when a member vanished without having said that it leaves.
  bool lost_a_member() const;
  /// On another rank: true when the coordinator was gone at some time.
  bool lost_the_coordinator() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton
