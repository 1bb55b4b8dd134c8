#include "kvstore/block_record.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

namespace baton {
namespace {

constexpr std::string_view kMagic = "BATONBK1";

template <typename T>
void Store(std::vector<std::byte>& page, size_t offset, const T& value) {
  std::memcpy(page.data() + offset, &value, sizeof value);
}
template <typename T>
T Load(Bytes page, size_t offset) {
  T value;
  std::memcpy(&value, page.data() + offset, sizeof value);
  return value;
}

uint32_t HeaderBytes(const BlockHeader& block, bool sealed) {
  return static_cast<uint32_t>(kRecordFixedBytes + (sealed ? kRecordSealBytes : 0) + 4 * block.token_ids.size() + block.extra.size());
}

/// Token ids and extra of `text`, of which the first 4 * `ids` bytes are ids.
void TakeText(Bytes text, size_t ids, BlockHeader& block) {
  block.token_ids.resize(ids);
  std::ranges::copy(text.first(4 * ids), std::as_writable_bytes(std::span(block.token_ids)).begin());
  block.extra.assign(AsText(text.subspan(4 * ids)));
}

}  // namespace

uint32_t RecordHeaderPages(const BlockHeader& block, bool sealed) { return static_cast<uint32_t>(CeilDiv(HeaderBytes(block, sealed), kPageBytes)); }

Result<std::vector<std::byte>> EncodeRecord(RecordHeader& h, const SealKey* key, MutableBytes payload) {
  const BlockHeader& b = h.block;
  const bool sealed = key != nullptr;
  const uint32_t length = HeaderBytes(b, sealed), text_begin = kRecordFixedBytes + (sealed ? kRecordSealBytes : 0);
  h.header_pages = static_cast<uint16_t>(RecordHeaderPages(b, sealed));
  std::vector<std::byte> out(size_t{h.header_pages} * kPageBytes);
  std::memcpy(out.data(), kMagic.data(), kMagic.size());
  Store(out, 16, length);
  Store(out, 20, h.header_pages);
  Store(out, 22, h.codec);
  Store(out, 23, static_cast<uint8_t>(sealed));
  Store(out, 24, b.key.bytes);
  Store(out, 56, b.parent.bytes);
  Store(out, 88, b.digest.low);
  Store(out, 96, b.digest.high);
  Store(out, 104, h.raw_bytes);
  Store(out, 108, h.stored_bytes);
  Store(out, 112, b.tokens);
  Store(out, 116, b.depth);
  Store(out, 120, h.stored_at_s);
  Store(out, 124, static_cast<uint32_t>(b.token_ids.size()));
  Store(out, 128, static_cast<uint32_t>(b.extra.size()));
  Store(out, 136, h.batch);
  const auto ids_end = std::ranges::copy(std::as_bytes(std::span(b.token_ids)), out.begin() + text_begin).out;
  std::ranges::copy(AsBytes(b.extra), ids_end);
  if (sealed) {
    const std::array<MutableBytes, 2> parts = {MutableBytes(out).subspan(text_begin, length - text_begin), payload};
    ASSIGN_OR_RETURN(const Seal seal, SealParts(*key, Bytes(out).subspan(16, kRecordFixedBytes - 16), parts));
    Store(out, kRecordFixedBytes, seal.key_id);
    Store(out, kRecordFixedBytes + 8, seal.nonce);
    Store(out, kRecordFixedBytes + 20, seal.tag);
  }
  Store(out, 8, Xxh3_64(Bytes(out).subspan(16, length - 16)));
  return out;
}

std::optional<uint32_t> FindRecordHeader(Bytes first_page) {
  if (first_page.size() < kPageBytes || AsText(first_page.first(kMagic.size())) != kMagic) return std::nullopt;
  const uint32_t pages = Load<uint16_t>(first_page, 20);
  if (pages == 0 || pages > kMaxHeaderPages) return std::nullopt;
  return pages;
}

std::optional<RecordHeader> DecodeRecordHeader(Bytes pages) {
  const std::optional<uint32_t> count = FindRecordHeader(pages);
  if (!count || pages.size() < size_t{*count} * kPageBytes) return std::nullopt;
  const auto length = Load<uint32_t>(pages, 16);
  if (length < kRecordFixedBytes || CeilDiv(length, kPageBytes) != *count) return std::nullopt;
  if (Load<uint64_t>(pages, 8) != Xxh3_64(pages.subspan(16, length - 16))) return std::nullopt;
  RecordHeader h;
  h.header_pages = static_cast<uint16_t>(*count);
  h.codec = Load<Codec>(pages, 22);
  BlockHeader& b = h.block;
  b.key.bytes = Load<Digest256>(pages, 24);
  b.parent.bytes = Load<Digest256>(pages, 56);
  b.digest = {Load<uint64_t>(pages, 88), Load<uint64_t>(pages, 96)};
  h.raw_bytes = Load<uint32_t>(pages, 104);
  h.stored_bytes = Load<uint32_t>(pages, 108);
  b.tokens = Load<uint32_t>(pages, 112);
  b.depth = Load<uint32_t>(pages, 116);
  h.stored_at_s = Load<uint32_t>(pages, 120);
  h.batch = Load<uint64_t>(pages, 136);
  const uint64_t ids = Load<uint32_t>(pages, 124), extra = Load<uint32_t>(pages, 128);
  const bool sealed = Load<uint8_t>(pages, 23) == 1;
  const uint64_t text_begin = kRecordFixedBytes + (sealed ? kRecordSealBytes : 0);
  if (ids > BlockHeader::kMaxTokenIds || extra > BlockHeader::kMaxExtraBytes || text_begin + 4 * ids + extra != length) return std::nullopt;
  if (h.raw_bytes == 0 || h.stored_bytes == 0 || h.stored_bytes > h.raw_bytes) return std::nullopt;
  const Bytes text = pages.subspan(text_begin, length - text_begin);
  if (!sealed) {
    TakeText(text, ids, b);
    return h;
  }
  h.seal = Seal{Load<uint64_t>(pages, kRecordFixedBytes), Load<std::array<std::byte, 12>>(pages, kRecordFixedBytes + 8),
                Load<std::array<std::byte, 16>>(pages, kRecordFixedBytes + 20)};
  h.sealed.assign(text.begin(), text.end());
  h.context.assign(pages.begin() + 16, pages.begin() + kRecordFixedBytes);
  h.sealed_ids = static_cast<uint32_t>(ids);
  return h;
}

bool OpenRecord(const SealKey& key, RecordHeader& h, MutableBytes payload) {
  const std::array<MutableBytes, 2> parts = {h.sealed, payload};
  if (!h.seal || !OpenParts(key, *h.seal, h.context, parts)) return false;
  TakeText(h.sealed, h.sealed_ids, h.block);
  return true;
}

}  // namespace baton
