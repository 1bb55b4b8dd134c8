#include "kvstore/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <array>
#include <cstring>

namespace baton {
namespace {
constexpr std::array<std::string_view, 4> kNames = {"none", "zstd", "lz4", "planes"};
constexpr int kZstdLevel = 1;  // KV bytes are nearly random: higher levels cost time and save nothing
constexpr size_t kPage = 4096;

size_t Zstd(Bytes bytes, MutableBytes out) {
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), kZstdLevel);
  return ZSTD_isError(size) ? 0 : size;  // also when it does not fit
}

/// The even bytes, then the odd ones.
std::vector<std::byte> Split(Bytes bytes) {
  std::vector<std::byte> out(bytes.size());
  const size_t half = (bytes.size() + 1) / 2;
  for (size_t i = 0; i < bytes.size() / 2; ++i) {
    out[i] = bytes[2 * i];
    out[half + i] = bytes[2 * i + 1];
  }
  if (bytes.size() % 2 == 1) out[half - 1] = bytes.back();
  return out;
}
void Join(Bytes planes, MutableBytes out) {
  const size_t half = (out.size() + 1) / 2;
  for (size_t i = 0; i < out.size() / 2; ++i) {
    out[2 * i] = planes[i];
    out[2 * i + 1] = planes[half + i];
  }
  if (out.size() % 2 == 1) out.back() = planes[half - 1];
}
}  // namespace

std::string_view CodecName(Codec codec) {
  const auto i = static_cast<size_t>(codec);
  return i < kNames.size() ? kNames[i] : "unknown";
}

Result<Codec> ParseCodec(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Codec>(i);
  }
  return InvalidError("compression '{}' is unknown; use none, zstd, lz4 or planes", name);
}

std::vector<std::byte> Compress(Codec codec, Bytes bytes) {
  if (codec == Codec::kNone || bytes.size() <= kPage) return {};
  std::vector<std::byte> out(bytes.size() - kPage);
  size_t size = 0;
  if (codec == Codec::kZstd) {
    size = Zstd(bytes, out);
  } else if (codec == Codec::kPlanes) {
    size = Zstd(Split(bytes), out);
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
    case Codec::kPlanes: {
      std::vector<std::byte> planes(out.size());
      if (ZSTD_decompress(planes.data(), planes.size(), stored.data(), stored.size()) != out.size()) return false;
      Join(planes, out);
      return true;
    }
    case Codec::kLz4:
      if (stored.size() > LZ4_MAX_INPUT_SIZE || out.size() > LZ4_MAX_INPUT_SIZE) return false;
      return LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()), reinterpret_cast<char*>(out.data()),
                                 static_cast<int>(stored.size()), static_cast<int>(out.size())) == static_cast<int>(out.size());
  }
  return false;
}

}  // namespace baton
