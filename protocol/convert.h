// Plain values to wire structs and back. Readers check what a peer sent: sizes of keys, counts, enums.
#pragma once

#include <capnp/common.h>

#include <span>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/cache_record.h"
#include "base/generation.h"
#include "base/hash.h"
#include "protocol/cluster.capnp.h"

namespace baton {

inline std::string ToString(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
inline capnp::Data::Reader ToData(const Digest256& bytes) { return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()}; }
inline capnp::Data::Reader ToData(const BlockKey& key) { return ToData(key.bytes); }
/// kInvalid unless it is 32 bytes.
Result<BlockKey> ReadKey(capnp::Data::Reader data);
Result<std::vector<BlockKey>> ReadKeys(capnp::List<capnp::Data>::Reader list);
void WriteKeys(std::span<const BlockKey> keys, capnp::List<capnp::Data>::Builder out);

void WriteTokens(std::span<const TokenId> tokens, capnp::List<int32_t>::Builder out);
std::vector<TokenId> ReadTokens(capnp::List<int32_t>::Reader list);

void WriteDigest(const Digest128& digest, wire::Digest::Builder out);
Digest128 ReadDigest(wire::Digest::Reader in);

/// A request with the root of its key chain.
void WriteRequest(const GenerateRequest& request, const BlockKey& root, wire::GenerateRequest::Builder out);
struct ReceivedRequest {
  GenerateRequest request;
  BlockKey root;
};
Result<ReceivedRequest> ReadRequest(wire::GenerateRequest::Reader in);

void WriteToken(const TokenEvent& event, wire::TokenEvent::Builder out);
TokenEvent ReadToken(wire::TokenEvent::Reader in);

void WriteStats(const RequestStats& stats, wire::Stats::Builder out);
RequestStats ReadStats(wire::Stats::Reader in);
/// kError for an unknown value.
FinishReason ReadReason(uint8_t reason);

/// Nothing of a record is checked here.
void WriteCacheRecord(const CacheRecord& record, wire::CacheRecord::Builder out);
CacheRecord ReadCacheRecord(wire::CacheRecord::Reader in);
void WriteHeldBlocks(const HeldBlocks& blocks, wire::HeldBlocks::Builder out);
HeldBlocks ReadHeldBlocks(wire::HeldBlocks::Reader in);

}  // namespace baton
