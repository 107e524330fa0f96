#include <string>

#include "check.hpp"
#include "util/crc32.hpp"

using pygrade::detail::crc32;
using pygrade::detail::crc32_by_tables;
using pygrade::detail::crc32_whole;

namespace {

std::uint32_t bit_by_bit(std::string_view data, std::uint32_t crc) {
  crc = ~crc;
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

std::string noise(std::size_t size, std::uint32_t seed) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return text;
}

}  // namespace

TEST(the_value_of_the_standard) {
  CHECK_EQUAL(crc32("123456789"), 0xcbf43926u);
  CHECK_EQUAL(crc32(""), 0u);
}

TEST(every_size_and_alignment_gives_what_single_bits_give) {
  const std::string data = noise(1400, 1);
  int wrong = 0;
  for (std::size_t size = 0; size <= 1300; size += size < 600 ? 1 : 17)
    for (const std::size_t start : {0, 1, 7, 15, 63}) {
      const auto part = std::string_view(data).substr(start, size);
      const std::uint32_t before = start == 0 ? 0 : 0x9e3779b9u * static_cast<std::uint32_t>(start);
      wrong += crc32(part, before) != bit_by_bit(part, before);
      wrong += crc32_by_tables(part, before) != bit_by_bit(part, before);
    }
  CHECK_EQUAL(wrong, 0);
}

TEST(it_is_continued) {
  const std::string data = noise(900, 2);
  for (const std::size_t cut : {0, 1, 16, 100, 300, 899, 900})
    CHECK_EQUAL(crc32(std::string_view(data).substr(cut), crc32(std::string_view(data).substr(0, cut))), crc32(data));
}

TEST(bytes_followed_by_their_crc_have_one_crc) {
  for (const std::size_t size : {1, 5, 60, 700}) {
    std::string data = noise(size, 3);
    const std::uint32_t crc = crc32(data);
    for (int i = 0; i < 4; ++i) data += static_cast<char>(crc >> 8 * i);
    CHECK_EQUAL(crc32(data), crc32_whole);
  }
}
