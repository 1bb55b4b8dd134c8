// A block on disk: one record of whole 4 KiB pages in an extent file, the header's pages and then the payload's. The
// record names itself, so that a wrong, old or torn one cannot pass for the block that was asked. Little-endian.
//
//   offset  bytes  field
//        0      8  "BATONBK1"
//        8      8  XXH3-64 of bytes 16 to the header's end
//       16      4  length of the header in bytes, token ids and extra included
//       20      2  pages of the header
//       22      1  codec of the payload: 0 none, 1 zstd, 2 lz4, 3 planes
//       23      1  1: sealed by AES-256-GCM, else 0
//       24     32  key
//       56     32  parent's key
//       88     16  digest: XXH3-128 of the block's bytes (uncompressed), low half first
//      104      4  length of the block in bytes
//      108      4  length of the payload as stored
//      112      4  tokens in the block
//      116      4  depth in its chain
//      120      4  seconds since 1970 when it was put
//      124      4  number of token ids
//      128      4  length of extra
//      132      4  0
//      136      8  number of the write batch
//      144         if sealed: id of the key (8 bytes), nonce (12), tag (16)
//                  token ids (4 bytes each), then extra, then zeros to the page's end
//
// Sealed are token ids, extra and payload, as one text bound to bytes 16 to 144. The
// checksum at 8 is over what is stored.
#pragma once

#include <optional>
#include <vector>

#include "kvstore/block_index.h"
#include "kvstore/block_store.h"
#include "kvstore/codec.h"
#include "kvstore/key_ring.h"

namespace baton {

inline constexpr uint32_t kPageBytes = 4096;
inline constexpr uint32_t kRecordFixedBytes = 144, kRecordSealBytes = 36;
/// Room for kMaxTokenIds and kMaxExtraBytes.
inline constexpr uint32_t kMaxHeaderPages = (kRecordFixedBytes + kRecordSealBytes + 4 * BlockHeader::kMaxTokenIds + BlockHeader::kMaxExtraBytes + kPageBytes - 1) / kPageBytes;

struct RecordHeader {
  BlockHeader block;
  Codec codec = Codec::kNone;
  uint16_t header_pages = 0;
  uint32_t raw_bytes = 0, stored_bytes = 0, stored_at_s = 0;
  uint64_t batch = 0;
  std::optional<Seal> seal;  // then `sealed` are the stored token ids and extra, which `block` lacks until OpenRecord
  std::vector<std::byte> sealed, context;
  uint32_t sealed_ids = 0;
};

uint32_t RecordHeaderPages(const BlockHeader& block, bool sealed);
/// The header's pages; sets `header_pages`. With a key also encrypts `payload`, in place; it is not touched otherwise.
/// kInternal when it cannot be sealed.
Result<std::vector<std::byte>> EncodeRecord(RecordHeader& header, const SealKey* key, MutableBytes payload);
/// How many pages the header that begins with this page has; nothing when the page begins no header.
std::optional<uint32_t> FindRecordHeader(Bytes first_page);
/// The header of these pages; nothing unless its checksum and every length agree.
std::optional<RecordHeader> DecodeRecordHeader(Bytes pages);
/// Decrypts a sealed record's token ids and extra into `header.block`, and the payload in place. False when it is not what
/// was sealed.
[[nodiscard]] bool OpenRecord(const SealKey& key, RecordHeader& header, MutableBytes payload);

}  // namespace baton
