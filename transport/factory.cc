// Which transports this build has, and the one place that makes them.
#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "transport/endpoint.h"
#include "transport/local_wire.h"
#include "transport/message_wire.h"
#include "transport/stream_wire.h"

namespace baton {
namespace {

constexpr auto kKinds = std::to_array<std::string_view>({
    "auto", "local", "shm", "tcp",
#ifdef BATON_HAVE_UCX
    "ucx",
#endif
#ifdef BATON_HAVE_MPI
    "mpi",
#endif
});

/// What receivers ask for. A piece is still in the second-level cache when it is hashed or copied again; over tcp alone, fewer and
/// longer reads matter more.
size_t PieceBytes(const TransportConfig& config) { return config.kind == "tcp" ? kMaxPieceBytes : kMessagePieceBytes; }

const SystemClock kSystemClock;

Result<std::unique_ptr<Wire>> MakeWire(const TransportConfig& config, WireHost& host, const Clock& clock) {
  std::vector<std::unique_ptr<SocketFamily>> families;
  if (config.kind == "auto" || config.kind == "shm") families.push_back(MakeUnixFamily(config));
  if (config.kind == "auto" || config.kind == "tcp") families.push_back(MakeTcpFamily(config));
  if (!families.empty()) return MakeStreamWire(config, std::move(families), host, clock);
#ifdef BATON_HAVE_MPI
  if (config.kind == "mpi") {
    ASSIGN_OR_RETURN(std::unique_ptr<MessageMedium> medium, MakeMpiMedium(config, clock));
    return MakeMessageWire(config, std::move(medium), host);
  }
#endif
#ifdef BATON_HAVE_UCX
  if (config.kind == "ucx") {
    ASSIGN_OR_RETURN(std::unique_ptr<MessageMedium> medium, MakeUcxMedium(config));
    return MakeMessageWire(config, std::move(medium), host);
  }
#endif
  return MakeLocalWire(config, host);
}

Status CheckConfig(const TransportConfig& config) {
  if (std::find(kKinds.begin(), kKinds.end(), config.kind) == kKinds.end()) {
    return InvalidError("transport \"{}\" does not exist in this build; it has {}", config.kind, fmt::join(kKinds, ", "));
  }
  if (config.self.value == 0) return InvalidError("a transport needs its worker's id; 0 is nobody");
  if (config.max_landings == 0 || config.max_landings > (1u << 16)) return InvalidError("max_landings is {}; give 1 to 65536", config.max_landings);
  if (config.paths == 0 || config.paths > 64) return InvalidError("paths is {}; give 1 to 64", config.paths);
  return OkStatus();
}

}  // namespace

std::span<const std::string_view> TransportKinds() { return kKinds; }

Result<std::unique_ptr<Transport>> MakeTransport(const TransportConfig& config) {
  RETURN_IF_ERROR(CheckConfig(config));
  const Clock& clock = config.clock == nullptr ? kSystemClock : *config.clock;
  auto endpoint = std::make_unique<Endpoint>(config, PieceBytes(config), clock);
  ASSIGN_OR_RETURN(std::unique_ptr<Wire> wire, MakeWire(config, endpoint->host(), clock));
  endpoint->Start(std::move(wire));
  return Result<std::unique_ptr<Transport>>(std::move(endpoint));
}

}  // namespace baton
