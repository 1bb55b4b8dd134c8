// The medium under the real Endpoint, in place of sockets: messages between two lives of two hosts over two paths that take time,
// break and come back, bring a piece twice, or flip a byte of it.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/dst/sim_network.h"
#include "transport/wire.h"

namespace baton::dst {

class SimWire;

struct FabricTraits {
  double duplicate = 0;  // share of pieces that come twice
  double flip = 0;       // share of pieces that come with a byte changed
};

/// What lies between the wires.
class SimFabric {
 public:
  SimFabric(World& world, const NetworkTraits& network) : world_(world), network_(network) {}
  FabricTraits traits;
  uint64_t flipped() const { return flipped_; }
  /// One path between the two breaks; what was on it is lost. The last one takes the connection along.
  void BreakPath(const Host& a, const Host& b);
  /// As SimNetwork's: the peers of a killed process see its connections close; of a dark host they see nothing.
  void Die(const Host& host);

 private:
  friend class SimWire;
  static constexpr uint32_t kPaths = 2;
  struct Link {  // between two wires' lives
    uint64_t epoch = 1;  // grows when the connection is lost
    std::array<bool, kPaths> up{true, true};
    std::array<uint64_t, kPaths> generation{};
    std::map<std::pair<uint64_t, uint32_t>, Instant> last_at;  // by sender's serial and path: each path keeps the order
  };
  Link& LinkOf(const SimWire& a, const SimWire& b);
  SimWire* Find(const std::string& address);

  World& world_;
  const NetworkTraits& network_;
  std::map<std::string, SimWire*> wires_;  // of living processes, by address
  std::map<std::pair<uint64_t, uint64_t>, Link> links_;
  uint64_t serial_ = 0, flipped_ = 0;
};

/// Thread: the world's.
class SimWire final : public Wire {
 public:
  /// `wake` is called when Progress has something to do.
  SimWire(SimFabric& fabric, Host& at, WorkerId self, Incarnation incarnation, WireHost& host, std::function<void()> wake);
  ~SimWire() override;

  std::string_view name() const override { return "simulated"; }
  std::string address() const override { return address_; }
  Status Connect(WorkerId peer, const std::string& address) override;
  void Disconnect(WorkerId peer) override;
  Status Register(const ArenaMemory&) override { return OkStatus(); }
  void Progress() override;
  void Flush(WorkerId peer) override;
  void Wait(Duration) override {}
  void Wake() override { wake_(); }
  bool Detach(TransferId) override { return false; }  // pieces are copied when they are sent

 private:
  friend class SimFabric;
  enum class Kind : uint8_t { kHello, kWelcome, kBye, kPathLost, kFrames, kPiece, kUnreachable };
  struct Message {
    Kind kind{};
    std::string from;  // address
    WorkerId worker;
    Incarnation incarnation;
    uint64_t epoch = 0;
    uint32_t path = 0;
    uint64_t generation = 0;
    std::string bytes;  // kFrames, kPiece
    FrameHeader header;  // kPiece
  };
  struct Peer {
    std::string address;
    Incarnation incarnation;
    uint64_t epoch = 0;
    bool up = false;
    int in_flight = 0;
  };
  /// To the wire at `to`, over `path`. Lost when either is gone, or the path broke on the way.
  void Send(const std::string& to, Message message);
  void Take(Message& message);
  void Greet(const Message& hello);
  void TakeBytes(WorkerId id, Message& message);
  void Dial(WorkerId id, const std::string& address);
  Message Make(Kind kind, uint64_t epoch) const;

  SimFabric& fabric_;
  World& world_;
  Host& at_;
  const uint64_t serial_;
  const WorkerId self_;
  const Incarnation incarnation_;
  const std::string address_;
  WireHost& host_;
  const std::function<void()> wake_;
  std::unordered_map<WorkerId, Peer> peers_;
  std::vector<std::pair<WorkerId, std::string>> dials_;
  std::deque<Message> inbox_;
};

}  // namespace baton::dst
