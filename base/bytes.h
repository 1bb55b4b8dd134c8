// Spans of bytes, sizes and checked arithmetic. Sizes are in bytes unless a name says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace baton {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

constexpr uint64_t operator""_KiB(unsigned long long n) { return n << 10; }
constexpr uint64_t operator""_MiB(unsigned long long n) { return n << 20; }
constexpr uint64_t operator""_GiB(unsigned long long n) { return n << 30; }

inline Bytes AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view AsText(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// a + b or a * b into *out; false (and *out unspecified) where it does not fit. Use on every size read from a file or peer.
template <typename T>
[[nodiscard]] bool CheckedAdd(T a, T b, T* out) { return !__builtin_add_overflow(a, b, out); }
template <typename T>
[[nodiscard]] bool CheckedMul(T a, T b, T* out) { return !__builtin_mul_overflow(a, b, out); }

/// The value of a hexadecimal digit of either case, or -1.
constexpr int HexDigit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

constexpr uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr uint64_t CeilDiv(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }  // of any two: no sum that could wrap

/// Lower-case hex of `bytes`, two characters a byte.
std::string HexEncode(Bytes bytes);
/// "1.5 MiB": for people, never parsed.
std::string HumanBytes(uint64_t bytes);

}  // namespace baton
