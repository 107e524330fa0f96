// BLAKE2b (RFC 7693) without a key: short hashes of names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace pygrade::inline v0_2::detail {
// Writes digest.size() bytes, 1 to 64.
void blake2b(std::string_view data, std::span<std::uint8_t> digest);

// The first 8 bytes as a little-endian number: 64 bits that depend on the text alone.
std::uint64_t digest_bits(std::string_view text);
}  // namespace pygrade::inline v0_2::detail
