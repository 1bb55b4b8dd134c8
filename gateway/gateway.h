// The HTTP front: OpenAI's API, the web page, administration and metrics over one Backend. Thread: one, that of the kj loop
// it is built on; every call and every callback happens there.
#pragma once

#include <kj/async-io.h>
#include <kj/timer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "gateway/backend.h"
#include "gateway/text_codec.h"

namespace baton {

struct TenantKey {
  std::string tenant, key;
};
/// "NAME:KEY". Errors: kInvalid; a name has 1 to 64 letters, digits, '-', '_' and '.'. The key is never in the message.
Result<TenantKey> ParseTenantKey(const std::string& text);

struct GatewayConfig {
  std::string host = "127.0.0.1";
  uint16_t port = 0;                  // 0: any free one
  std::vector<std::string> api_keys;  // each a tenant of its own
  std::vector<TenantKey> tenants;     // keys of named tenants; with none here and above no key is asked
  std::string admin_key;              // for /admin and /debug; empty: they answer loopback only
  uint32_t max_connections = 4096;
  uint64_t max_body_bytes = 16ull << 20;
  double drain_timeout_s = 20;
  double header_timeout_s = 15;  // from the first byte of a request to the end of its headers
  double body_timeout_s = 60;    // from there to the end of its body
  double idle_timeout_s = 75;    // between two requests of a connection
  double write_timeout_s = 30;   // a client that takes nothing for so long is gone
  double cache_ttl_s = 3600;     // of a cache handle whose request names none
  uint32_t max_caches = 1024;    // handles of one tenant
  double stall_timeout_s = 600;  // an answer that gets no token for so long ends with an error
  std::string version;           // `GET /version`
  uint64_t seed = 0;             // of request ids and of the sampling of requests that name no seed: EntropySeed() in production
};

class Gateway {
 public:
  /// Everything passed by reference outlives the gateway.
  Gateway(kj::Network& network, kj::Timer& timer, const Clock& clock, Backend& backend, const TextCodec& codec,
          GatewayConfig config);
  /// Closes every connection and cancels every running generation.
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  /// Binds and begins to serve; resolves once connections are accepted. kUnavailable: the address is taken or not ours.
  kj::Promise<Status> Listen();
  /// The port bound by Listen.
  uint16_t port() const;

  /// `/health` says 503 and new requests get 503 from now on; running ones go on. Calling it again changes nothing.
  void StartDrain();
  /// Resolves when no answer is running, at the latest drain_timeout_s after StartDrain, when those left end with an
  /// error. Call StartDrain first.
  kj::Promise<void> Drained();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton
