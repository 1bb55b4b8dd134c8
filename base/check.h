// CHECK stays on in release builds and means a bug in Baton: input, peers and disks never reach one.
#pragma once

namespace baton {
/// Prints the failed condition with its place to stderr and aborts.
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace baton

#define CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::baton::CheckFailed(#condition, __FILE__, __LINE__))
