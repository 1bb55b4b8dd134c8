#include "kvstore/block_record.h"

#include <algorithm>
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

uint32_t HeaderBytes(const BlockHeader& block) {
  return static_cast<uint32_t>(kRecordFixedBytes + 4 * block.token_ids.size() + block.extra.size());
}

}  // namespace

uint32_t RecordHeaderPages(const BlockHeader& block) { return static_cast<uint32_t>(CeilDiv(HeaderBytes(block), kPageBytes)); }

std::vector<std::byte> EncodeRecordHeader(RecordHeader& h) {
  const BlockHeader& b = h.block;
  const uint32_t length = HeaderBytes(b);
  h.header_pages = static_cast<uint16_t>(RecordHeaderPages(b));
  std::vector<std::byte> out(size_t{h.header_pages} * kPageBytes);
  std::memcpy(out.data(), kMagic.data(), kMagic.size());
  Store(out, 16, length);
  Store(out, 20, h.header_pages);
  Store(out, 22, h.codec);
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
  const auto ids_end = std::ranges::copy(std::as_bytes(std::span(b.token_ids)), out.begin() + kRecordFixedBytes).out;
  std::ranges::copy(AsBytes(b.extra), ids_end);
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
  if (ids > BlockHeader::kMaxTokenIds || extra > BlockHeader::kMaxExtraBytes || kRecordFixedBytes + 4 * ids + extra != length) return std::nullopt;
  if (h.raw_bytes == 0 || h.stored_bytes == 0 || h.stored_bytes > h.raw_bytes) return std::nullopt;
  b.token_ids.resize(ids);
  std::ranges::copy(pages.subspan(kRecordFixedBytes, 4 * ids), std::as_writable_bytes(std::span(b.token_ids)).begin());
  b.extra.assign(AsText(pages.subspan(kRecordFixedBytes + 4 * ids, extra)));
  return h;
}

}  // namespace baton
