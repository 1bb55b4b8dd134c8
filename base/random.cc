#include "base/random.h"

#include <sys/random.h>

#include "base/check.h"

namespace baton {

std::array<uint32_t, 4> Philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                               static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1,
         static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

double UniformAt(uint64_t seed, uint64_t position, uint32_t index) {
  const auto block = Philox4x32(seed, position, index);
  const uint64_t bits = (static_cast<uint64_t>(block[0]) << 32) | block[1];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

uint64_t Random::Next64() {
  const auto block = Philox4x32(seed_, counter_++, 0x5eed);
  return (static_cast<uint64_t>(block[0]) << 32) | block[1];
}

uint64_t Random::Below(uint64_t bound) {
  CHECK(bound > 0);
  const uint64_t limit = -bound % bound;  // 2^64 mod bound: the biased low values
  while (true) {
    const uint64_t x = Next64();
    if (x >= limit) return x % bound;
  }
}

uint64_t EntropySeed() {
  uint64_t seed = 0;
  CHECK(getrandom(&seed, sizeof seed, 0) == static_cast<ssize_t>(sizeof seed));
  return seed;
}

}  // namespace baton
