// The CRC-32 of zlib (reflected polynomial 0xedb88320), which ends every record of a store.
#pragma once

#include <cstdint>
#include <string_view>

namespace pygrade::inline v0_2::detail {
// The crc32 of any bytes followed by their own crc32, 4 bytes little endian.
inline constexpr std::uint32_t crc32_whole = 0x2144df1c;

std::uint32_t crc32(std::string_view text);
}  // namespace pygrade::inline v0_2::detail
