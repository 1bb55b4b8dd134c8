// Every setting of the program as plain structs, and the one table that turns them into YAML, flags, environment
// variables, help, a JSON schema and docs/config.md. A name ends in its unit.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"

namespace baton {

struct ModelOptions {
  std::string path, name, numerics, kv_dtype = "f16", device = "auto", isa = "auto";
  uint32_t threads = 0, block_tokens = 64;
};
struct ClusterOptions {
  std::vector<std::string> roles = {"coordinator+gateway", "store", "prefill", "decode"};
  std::string bind_host = "127.0.0.1", join, name, key;
  double heartbeat_s = 0.2, dead_after_s = 1.2, stuck_after_s = 30, connect_timeout_s = 10;
};
struct GatewayOptions {
  std::string host = "127.0.0.1", admin_key, tenant_secret;
  std::vector<std::string> api_keys, tenants;
  uint32_t port = 8000, max_connections = 4096;
  uint64_t max_body_bytes = 16ull << 20;
  double drain_timeout_s = 20, cache_ttl_s = 3600, wait_for_cluster_s = 30;
};
struct EngineOptions {
  uint32_t max_running = 64, max_waiting = 1024, step_token_budget = 512, prefill_chunk_tokens = 256, speculative_tokens = 8;
  double prefill_slowdown = 2.5;
  uint64_t kv_bytes = 512ull << 20;
};
struct StoreOptions {
  std::string path, compression = "none", policy = "cost", key_file;
  uint64_t memory_bytes = 256ull << 20, disk_bytes = 8ull << 30, tenant_bytes = 0, tenant_hold_bytes = 0;
  double ttl_s = 0;
  uint64_t scrub_bytes_per_s = 8ull << 20;
};
struct TransportOptions {
  std::string kind = "auto";
  double transfer_timeout_s = 20;
};
struct RouterOptions {
  uint32_t local_prefill_tokens = 64, tenant_in_flight = 0;
  double max_wait_s = 20, hold_above_s = 0.1;
  std::string policy = "cost";
};
struct LogOptions {
  std::string level = "info";
  bool json = false;
};
struct Config {
  ModelOptions model;
  ClusterOptions cluster;
  GatewayOptions gateway;
  EngineOptions engine;
  StoreOptions store;
  TransportOptions transport;
  RouterOptions router;
  LogOptions log;
};

/// One line of the table. `target` points into the Config the table was made for.
struct Option {
  std::string key;  // "gateway.port"
  std::variant<bool*, uint32_t*, uint64_t*, double*, std::string*, std::vector<std::string>*> target;
  std::string unit, doc;
  double min = 0, max = 0;           // numbers; both 0 = any that is not negative
  std::vector<std::string> choices;  // strings and the items of lists; empty = any
  bool secret = false;               // never printed
};
/// The table over `config`, in the order it is documented.
std::vector<Option> OptionTable(Config& config);

/// A value as YAML and flags write it; lists are comma-separated.
std::string OptionText(const Option& option);
const char* OptionTypeName(const Option& option);  // "boolean", "integer", "number", "string", "list"
/// Sets an option from text. kInvalid names the key, the value and what is allowed.
Status SetOption(const Option& option, const std::string& text);
/// "BATON_GATEWAY_PORT" for "gateway.port".
std::string OptionEnvironmentName(const std::string& key);
/// The known name nearest to `name` by edits, or "" where none is near.
std::string NearestName(const std::string& name, const std::vector<std::string>& known);

/// Where a setting came from: "default", "file F:LINE", "environment NAME" or "flag". Later ones win in this order.
using ConfigOrigins = std::map<std::string, std::string>;
struct LoadedConfig {
  Config config;
  ConfigOrigins origins;
};
/// Reads defaults, then the YAML file (empty: none), then BATON_* of `environment`, then `flags` ("gateway.port" → "8001").
/// Errors: kNotFound for a missing file; kInvalid names the file and line, flag or variable, the nearest key and the fix.
Result<LoadedConfig> LoadConfig(const std::string& file, const std::map<std::string, std::string>& environment,
                                const std::map<std::string, std::string>& flags);

/// Every key with its value, unit, doc and origin as comments, to be read as a file again. Secrets that are set are comments, too.
std::string ConfigYaml(LoadedConfig& loaded);
std::string ConfigMarkdown();                  // docs/config.md
std::string ConfigSchema();                    // JSON schema of the YAML file

}  // namespace baton
