// BLAKE2b (RFC 7693) without a key: short hashes of names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace pygrade::inline v0_2::detail {

// Writes digest.size() bytes, 1 to 64.
void blake2b(std::string_view data, std::span<std::uint8_t> digest);

}  // namespace pygrade::inline v0_2::detail
