// Two ends of transfers for the conformance suite: one in the test's own process, the other there too, or in a process of
// its own that can be killed or stopped. The tests speak to both in the same words.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transport/shared_arena.h"
#include "transport/transport.h"

namespace baton {

/// Where a transport runs; commands are JSON so that they can cross a process's border.
class Side {
 public:
  virtual ~Side() = default;
  virtual nlohmann::json Do(const nlohmann::json& command) = 0;
  virtual pid_t pid() const { return 0; }  // of its own process, 0 if it has none
};

struct Event {
  std::string kind;  // segment, landed, sent, failed
  uint64_t transfer = 0;
  uint32_t index = 0;
  bool receiving = false;
  std::string code, message;
  bool right = true;  // segment: the landing holds the bytes that were pushed
  friend bool operator==(const Event&, const Event&) = default;
};

/// What a test says to a side, and what it has heard from it.
class End {
 public:
  End() = default;
  End(std::unique_ptr<Side> side, uint32_t worker) : side_(std::move(side)), worker_(worker) {}

  WorkerId id() const { return WorkerId(worker_); }
  pid_t pid() const { return side_->pid(); }
  std::string address() { return side_->Do({{"op", "address"}}).at("address"); }
  /// Each gives "ok" or the name of the status's code.
  std::string Connect(uint32_t peer, const std::string& address) { return Code({{"op", "connect"}, {"peer", peer}, {"address", address}}); }
  std::string Disconnect(uint32_t peer) { return Code({{"op", "disconnect"}, {"peer", peer}}); }
  std::string Expect(uint64_t id, uint32_t from, const std::vector<size_t>& sizes, double timeout_s = 30) {
    return Code({{"op", "expect"}, {"id", id}, {"from", from}, {"sizes", sizes}, {"timeout_s", timeout_s}});
  }
  using Segments = std::vector<std::pair<uint32_t, size_t>>;  // index, bytes
  std::string Push(uint64_t id, uint32_t to, const Segments& segments, bool heap = false) {
    return Code({{"op", "push"}, {"id", id}, {"to", to}, {"segments", segments}, {"heap", heap}});
  }
  std::string Cancel(uint64_t id) { return Code({{"op", "cancel"}, {"id", id}}); }
  /// Lets the transport work and gathers its completions into `events`.
  void Poll(double wait_s = 0);
  /// The bytes outside landings are as they were, and so are landings since their transfer ended.
  bool Intact() { return side_->Do({{"op", "intact"}}).at("intact"); }
  nlohmann::json Stats() { return side_->Do({{"op", "stats"}}); }
  size_t Descriptors() { return side_->Do({{"op", "descriptors"}}).at("count"); }

  size_t Count(const std::string& kind, uint64_t transfer) const;
  const Event* Find(const std::string& kind, uint64_t transfer) const;
  std::vector<Event> events;

 private:
  std::string Code(const nlohmann::json& command) { return side_->Do(command).at("code"); }

  std::unique_ptr<Side> side_;
  uint32_t worker_ = 0;
};

/// Executes commands on one transport with its arena. Sources are overwritten as soon as they are the caller's again.
std::unique_ptr<Side> MakeDirectSide(const TransportConfig& config);
/// The same in a child process. Its end closes everything; the destructor kills it.
std::unique_ptr<Side> MakeForkedSide(const TransportConfig& config);

/// A pair of kinds for the suite: "tcp", and whether the other end is another process.
struct Setup {
  std::string kind;
  bool forked = false;
  bool checksum = false;
};
/// Defined by each test binary: what it runs the conformance suite over, and how it makes the far end of a pair.
std::vector<Setup> SetupsUnderTest();
std::unique_ptr<Side> MakeFarSide(const Setup& setup, const TransportConfig& config);
/// Fills in what a kind needs beside its name.
void Complete(const Setup& setup, TransportConfig* config);

inline std::string SetupName(const Setup& s) { return s.kind + (s.forked ? "_forked" : "_same") + (s.checksum ? "_checksum" : ""); }
inline void PrintTo(const Setup& s, std::ostream* os) { *os << SetupName(s); }

/// Byte `at` of segment `index` of a transfer, in words of eight.
void FillPattern(uint64_t transfer, uint32_t index, MutableBytes out);

}  // namespace baton
