#include "kvstore/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <array>
#include <cstring>

namespace baton {
namespace {
constexpr std::array<std::string_view, 3> kNames = {"none", "zstd", "lz4"};
constexpr int kZstdLevel = 1;  // KV bytes are nearly random: higher levels cost time and save nothing
constexpr size_t kPage = 4096;
}  // namespace

std::string_view CodecName(Codec codec) {
  const auto i = static_cast<size_t>(codec);
  return i < kNames.size() ? kNames[i] : "unknown";
}

Result<Codec> ParseCodec(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Codec>(i);
  }
  return InvalidError("compression '{}' is unknown; use none, zstd or lz4", name);
}

std::vector<std::byte> Compress(Codec codec, Bytes bytes) {
  if (codec == Codec::kNone || bytes.size() <= kPage) return {};
  std::vector<std::byte> out(bytes.size() - kPage);
  size_t size = 0;
  if (codec == Codec::kZstd) {
    size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kZstdLevel);
    if (ZSTD_isError(size)) size = 0;  // also when it does not fit
  } else if (bytes.size() <= LZ4_MAX_INPUT_SIZE) {
    size = static_cast<size_t>(LZ4_compress_default(reinterpret_cast<const char*>(bytes.data()), reinterpret_cast<char*>(out.data()),
                                                    static_cast<int>(bytes.size()), static_cast<int>(out.size())));
  }
  out.resize(size);
  return out;
}

bool Decompress(Codec codec, Bytes stored, MutableBytes out) {
  switch (codec) {
    case Codec::kNone:
      if (stored.size() != out.size()) return false;
      std::memcpy(out.data(), stored.data(), out.size());
      return true;
    case Codec::kZstd:
      return ZSTD_decompress(out.data(), out.size(), stored.data(), stored.size()) == out.size();
    case Codec::kLz4:
      if (stored.size() > LZ4_MAX_INPUT_SIZE || out.size() > LZ4_MAX_INPUT_SIZE) return false;
      return LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()), reinterpret_cast<char*>(out.data()),
                                 static_cast<int>(stored.size()), static_cast<int>(out.size())) == static_cast<int>(out.size());
  }
  return false;
}

}  // namespace baton
