// One line an option: the whole list of settings.
#include "app/config.h"

namespace baton {

std::vector<Option> OptionTable(Config& c) {
  return {
      {"model.path", &c.model.path, "", "GGUF file or folder of safetensors to serve"},
      {"model.name", &c.model.name, "", "name clients use; empty: the file's name without its ending"},
      {"model.numerics", &c.model.numerics, "", "arithmetic; empty: exact for quantised files, else the checkpoint's own", 0, 0, {"", "exact", "fast", "bf16", "f32"}},
      {"model.kv_dtype", &c.model.kv_dtype, "", "element type of the KV cache", 0, 0, {"f32", "f16", "bf16", "int8"}},
      {"model.device", &c.model.device, "", "where the model runs", 0, 0, {"auto", "cpu", "cuda"}},
      {"model.isa", &c.model.isa, "", "instruction set of the CPU kernels", 0, 0, {"auto", "scalar", "avx2", "avx512"}},
      {"model.threads", &c.model.threads, "threads", "compute threads of a worker; 0: one a physical core", 0, 1024},
      {"model.block_tokens", &c.model.block_tokens, "tokens", "tokens of one KV block; a multiple of 16", 16, 1024},
      {"cluster.roles", &c.cluster.roles, "", "roles of rank 0, 1, …; a rank may have several joined by +; the last entry repeats"},
      {"cluster.bind_host", &c.cluster.bind_host, "", "address the control plane listens on"},
      {"cluster.name", &c.cluster.name, "", "this worker's name in the cluster; empty: made of host and rank. A worker that comes back under its name replaces its former self"},
      {"cluster.key", &c.cluster.key, "", "secret that every rank must know; empty: none on loopback, elsewhere mpirun's ranks get a fresh one", 0, 0, {}, true},
      {"cluster.join", &c.cluster.join, "", "HOST:PORT of a running cluster's coordinator to join without MPI"},
      {"cluster.heartbeat_s", &c.cluster.heartbeat_s, "seconds", "time between a worker's heartbeats", 0.01, 60},
      {"cluster.dead_after_s", &c.cluster.dead_after_s, "seconds", "silence after which a worker counts as dead", 0.05, 600},
      {"cluster.connect_timeout_s", &c.cluster.connect_timeout_s, "seconds", "how long to wait for a peer to answer", 0.1, 600},
      {"gateway.host", &c.gateway.host, "", "address the HTTP server listens on"},
      {"gateway.port", &c.gateway.port, "", "port of the HTTP server; 0: any free one, printed at start", 0, 65535},
      {"gateway.api_keys", &c.gateway.api_keys, "", "keys clients must send; empty: no key is asked", 0, 0, {}, true},
      {"gateway.admin_key", &c.gateway.admin_key, "", "key for /admin and /debug; empty: they answer loopback only", 0, 0, {}, true},
      {"gateway.max_connections", &c.gateway.max_connections, "connections", "open HTTP connections; more are refused with 503", 1, 1e6},
      {"gateway.max_body_bytes", &c.gateway.max_body_bytes, "bytes", "longest request body; longer ones get 413", 1024, 1e10},
      {"gateway.drain_timeout_s", &c.gateway.drain_timeout_s, "seconds", "time running answers have to end after SIGTERM", 0, 3600},
      {"engine.max_running", &c.engine.max_running, "sequences", "sequences in the batch of one worker", 1, 4096},
      {"engine.max_waiting", &c.engine.max_waiting, "requests", "requests that may wait at one worker", 1, 1e6},
      {"engine.step_token_budget", &c.engine.step_token_budget, "tokens", "tokens of one step: decode rows first, the rest for prefill", 1, 65536},
      {"engine.prefill_chunk_tokens", &c.engine.prefill_chunk_tokens, "tokens", "tokens of one prompt in one step", 1, 65536},
      {"engine.kv_bytes", &c.engine.kv_bytes, "bytes", "memory for KV blocks of one worker", 1 << 20, 1e15},
      {"store.path", &c.store.path, "", "folder of the RocksDB tier; empty: memory only"},
      {"store.memory_bytes", &c.store.memory_bytes, "bytes", "size of the store's memory tier", 0, 1e15},
      {"store.disk_bytes", &c.store.disk_bytes, "bytes", "quota of the store's disk tier", 0, 1e18},
      {"store.compression", &c.store.compression, "", "compression of blocks on disk", 0, 0, {"none", "zstd", "lz4", "planes"}},
      {"store.key_file", &c.store.key_file, "", "seals blocks on disk (AES-256-GCM); a line a tenant: name, 64 hex digits; needs `default`; empty: not sealed"},
      {"store.scrub_bytes_per_s", &c.store.scrub_bytes_per_s, "bytes/s", "rate at which blocks on disk are read and checked in the background; 0: never", 0, 1e12},
      {"store.policy", &c.store.policy, "", "which blocks leave a full tier first", 0, 0, {"lru", "s3fifo", "cost"}},
      {"store.ttl_s", &c.store.ttl_s, "seconds", "age at which a block is dropped; 0: never", 0, 1e9},
      {"transport.kind", &c.transport.kind, "", "how KV moves between workers; auto: for each pair shm on one host, else tcp", 0, 0, {"auto", "local", "shm", "tcp", "mpi", "ucx"}},
      {"transport.transfer_timeout_s", &c.transport.transfer_timeout_s, "seconds", "deadline of one hand-off", 0.1, 3600},
      {"router.local_prefill_tokens", &c.router.local_prefill_tokens, "tokens", "prompts with fewer uncached tokens prefill on the decode worker", 0, 1e6},
      {"router.policy", &c.router.policy, "", "how workers are chosen", 0, 0, {"cost", "round_robin", "least_loaded", "prefix_only"}},
      {"log.level", &c.log.level, "", "least severe line that is logged", 0, 0, {"trace", "debug", "info", "warn", "error", "off"}},
      {"log.json", &c.log.json, "", "one JSON object a line instead of text"},
  };
}

}  // namespace baton
