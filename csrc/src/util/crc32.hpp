// The CRC-32 of zlib (reflected polynomial 0xedb88320), which ends every record of a store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "isa.hpp"

namespace pygrade::inline v0_2::detail {

// The crc32 of any bytes followed by their own crc32, 4 bytes little endian.
inline constexpr std::uint32_t crc32_whole = 0x2144df1c;

struct Crc32Kernels {
  using Update = std::uint32_t (*)(std::uint32_t crc, const unsigned char* data, std::size_t size);
  Update update;
  // What `update` chooses from, for tests: inverted crc in and out; null if it is not compiled. The processor must have
  // PCLMULQDQ, and for the wide one VPCLMULQDQ; the sizes are at least 64 and 256.
  Update by_tables, by_products, by_wide_products;
};

PYGRADE_DECLARE_KERNELS(Crc32Kernels, crc32_kernels)

// The crc32 of the bytes that `crc` is of, followed by `data`.
std::uint32_t crc32(std::string_view data, std::uint32_t crc = 0);

}  // namespace pygrade::inline v0_2::detail
