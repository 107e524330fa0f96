#include "util/crc32.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::uint32_t polynomial = 0xedb88320;

struct Tables {
  std::uint32_t of[8][256];  // of[j][b]: the crc of byte b followed by j zeros
};

constexpr Tables tables = [] {
  Tables made{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
    made.of[0][byte] = crc;
  }
  for (int j = 1; j < 8; ++j)
    for (int byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = made.of[j - 1][byte];
      made.of[j][byte] = before >> 8 ^ made.of[0][before & 255];
    }
  return made;
}();
}  // namespace

// Eight bytes at a time.
std::uint32_t crc32(std::string_view text) {
  const auto& t = tables.of;
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  std::size_t size = text.size();
  std::uint32_t crc = ~std::uint32_t{0};
  for (; size >= 8; data += 8, size -= 8) {
    std::uint32_t low = crc, high = 0;
    for (int i = 0; i < 4; ++i) {
      low ^= std::uint32_t{data[i]} << 8 * i;
      high |= std::uint32_t{data[4 + i]} << 8 * i;
    }
    crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^ t[3][high & 255] ^
          t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
  }
  for (; size > 0; ++data, --size) crc = crc >> 8 ^ t[0][(crc ^ *data) & 255];
  return ~crc;
}
}  // namespace pygrade::inline v0_2::detail
