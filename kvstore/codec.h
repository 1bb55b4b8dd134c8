// How a block's bytes are stored: as they are, or compressed when that makes them shorter.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"

namespace baton {

/// kPlanes: zstd of all even bytes and then all odd ones, which puts the exponents of 16-bit floats together.
enum class Codec : uint8_t { kNone = 0, kZstd = 1, kLz4 = 2, kPlanes = 3 };
std::string_view CodecName(Codec codec);              // "none", "zstd", "lz4", "planes"
Result<Codec> ParseCodec(std::string_view name);      // kInvalid names the choices

/// The bytes compressed, or nothing when that would save no page (or the codec is kNone).
std::vector<std::byte> Compress(Codec codec, Bytes bytes);
/// Fills all of `out`; false when `stored` does not decode to exactly that many bytes. Safe on hostile input.
[[nodiscard]] bool Decompress(Codec codec, Bytes stored, MutableBytes out);

}  // namespace baton
