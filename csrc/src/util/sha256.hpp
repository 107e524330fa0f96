// SHA-256 (FIPS 180-4), to check that a file is the one that another file names. Not for secrets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace pygrade::inline v0_2::detail {
class Sha256 {
 public:
  // By the processor's instructions if it has them (SHA-NI); `plain`: without, for tests.
  explicit Sha256(bool plain = false);
  void update(std::span<const std::byte> data);
  std::string hex();  // 64 lower-case digits; call once, after the last update

 private:
  using Blocks = void (*)(std::array<std::uint32_t, 8>& state, const std::byte* data, std::size_t count);

  Blocks blocks_;
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t length_ = 0;  // bytes so far
};

std::string sha256_hex(std::span<const std::byte> data);
}  // namespace pygrade::inline v0_2::detail
