// The line that binds a store's folder to what made its blocks: model, numerics and KV layout.
#pragma once

#include <string>
#include <string_view>

#include "base/hash.h"
#include "base/status.h"

namespace baton {

struct StoreIdentity {
  Digest256 model_fingerprint{};
  std::string numerics;   // "exact", "fast", "bf16", "f32"
  std::string kv_layout;  // KvLayout::ToString()

  /// "model=<64 hex digits> numerics=exact kv=v1 layers=30 …"
  std::string ToString() const;
  friend bool operator==(const StoreIdentity&, const StoreIdentity&) = default;
};
/// Errors: kInvalid when it is not such a line.
Result<StoreIdentity> ParseStoreIdentity(std::string_view line);

}  // namespace baton
