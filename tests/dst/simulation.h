// One run of the whole cluster under a seed: topology, requests and faults are drawn from it, invariants are checked after each step
// and once more when all is quiet.
//
// Real: ClusterBackend (the gateway's failover), Coordinator and its service, MemberSession, PeerTable, Cap'n Proto's RPC, DecodeService,
// PrefillService, StoreService, StoreClient, EngineHost, Engine, Scheduler, Sampler, BlockPool, TransferPump, Endpoint and its two tables,
// LocalStore's books. Simulated, at the seam below each: sockets (SimNetwork under RPC, SimWire under Endpoint), disks (SimStore), threads
// (the world's events), time, the model (fake). HTTP and templates are not in it: Backend is the gateway's door.
// A stream of TCP cannot lose or swap bytes: a lost packet is a later one, a lost connection loses what was under way. Duplicates and
// reordering happen where the product has them: between connections and paths, in calls made again, in pieces sent again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/dst/clients.h"
#include "tests/dst/process.h"

namespace baton::dst {

struct Outcome {
  std::vector<std::string> violations;
  uint64_t trace = 0, steps = 0, tokens = 0, faults = 0, refused = 0, left = 0, moves = 0, requests = 0;
  double virtual_s = 0;
};

struct RunOptions {
  /// Called with each ask before it starts: a test plants a bug with it.
  std::function<void(Ask&)> tamper;
};

/// Deterministic: equal seeds give equal traces.
Outcome RunSeed(uint64_t seed, const RunOptions& options = {});

class Simulation {
 public:
  Simulation(uint64_t seed, kj::WaitScope& scope);
  ~Simulation();
  Outcome Run(const RunOptions& options);

 private:
  friend class Storm;
  struct Machine {
    Host* host = nullptr;
    std::vector<std::string> roles;
    std::unique_ptr<Disk> disk = std::make_unique<Disk>();
    std::unique_ptr<Process> process;
    bool Has(std::string_view role) const { return std::find(roles.begin(), roles.end(), role) != roles.end(); }
  };
  void DrawCluster();
  void AddMachine(const std::string& name, std::vector<std::string> roles);
  void Boot(Machine& machine);
  void Kill(Machine& machine, bool power);
  void DrawClients(const RunOptions& options);
  void StartAsk(Ask& ask, double delay_s);
  void CheckStep();
  bool AllReady() const;
  bool AllOver() const;
  std::string Busy() const;
  std::string IndexGap() const;
  void CheckQuiet();
  void Violate(const std::string& what);

  World world_;
  SimNetwork network_;
  SimFabric fabric_;
  ClusterSetup setup_;
  std::vector<std::unique_ptr<Machine>> machines_;
  std::vector<std::unique_ptr<Ask>> asks_;
  std::unique_ptr<class Storm> storm_;
  Outcome outcome_;
};

}  // namespace baton::dst
