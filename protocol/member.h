// A worker as the rest of the cluster knows it.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/ids.h"
#include "protocol/cluster.capnp.h"
#include "protocol/peers.h"

namespace baton {

/// What two workers must agree on to share KV.
struct ModelIdentity {
  std::string model_name, kv_layout, numerics, kv_dtype;
  Digest256 fingerprint{};
  uint32_t block_tokens = 0, vocab = 0, max_positions = 0;
  uint64_t block_bytes = 0;
  std::vector<TokenId> eos_ids;

  bool empty() const { return kv_layout.empty(); }
  /// One line for people that is equal for equal identities: what a refusal names.
  std::string ToString() const;
  /// The root of a tenant's key chains.
  BlockKey Root(const std::string& tenant_salt) const { return RootKey({fingerprint, kv_layout, numerics, tenant_salt}); }
};
void WriteIdentity(const ModelIdentity& identity, wire::ModelIdentity::Builder out);
Result<ModelIdentity> ReadIdentity(wire::ModelIdentity::Reader in);

/// A change of what a worker holds.
struct HeldChange {
  bool added = false;
  BlockKey key;
};

/// Of the blocks that a worker holds: how many, and their keys' Prefix64 added up.
struct HeldSum {
  uint64_t blocks = 0, sum = 0;
  void Count(const HeldChange& change) {
    blocks += change.added ? 1 : -1;
    sum += change.added ? change.key.Prefix64() : -change.key.Prefix64();
  }
  friend bool operator==(const HeldSum&, const HeldSum&) = default;
};

struct MemberInfo {
  WorkerId id;
  Incarnation incarnation;
  std::string name, hostname;
  std::vector<std::string> roles;
  PeerAddress address;
  std::string transport_kind, transport_address;
  uint32_t pid = 0, kv_blocks = 0;
  ModelIdentity model;
  bool draining = false;

  bool Has(std::string_view role) const { return std::find(roles.begin(), roles.end(), role) != roles.end(); }
};
void WriteInfo(const MemberInfo& member, wire::WorkerInfo::Builder out);
Result<MemberInfo> ReadInfo(wire::WorkerInfo::Reader in);
void WriteMember(const MemberInfo& member, wire::Member::Builder out);
Result<MemberInfo> ReadMember(wire::Member::Reader in);

}  // namespace baton
