#include "util/blake2b.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pygrade::inline v0_2::detail {
namespace {
static_assert(std::endian::native == std::endian::little, "a block is copied into words");

constexpr std::size_t block_size = 128;
constexpr std::uint64_t initial[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                      0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr std::uint8_t message_order[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

// `end`: bytes of the message up to the end of this block.
void compress(std::uint64_t (&h)[8], const std::uint8_t* block, std::uint64_t end, bool last) {
  std::uint64_t m[16];
  std::memcpy(m, block, block_size);
  std::uint64_t v[16];
  std::copy_n(h, 8, v);
  std::copy_n(initial, 8, v + 8);
  v[12] ^= end;
  if (last) v[14] = ~v[14];
  const auto mix = [&](int a, int b, int c, int d, std::uint64_t x, std::uint64_t y) {
    v[a] += v[b] + x;
    v[d] = std::rotr(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = std::rotr(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = std::rotr(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = std::rotr(v[b] ^ v[c], 63);
  };
#pragma GCC unroll 12  // v stays in registers: less than half of the time
  for (int round = 0; round < 12; ++round) {
    const auto& s = message_order[round % 10];
    for (int i = 0; i < 4; ++i) mix(i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
    for (int i = 0; i < 4; ++i)
      mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
  }
  for (int i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[8 + i];
}
}  // namespace

void blake2b(std::string_view data, std::span<std::uint8_t> digest) {
  std::uint64_t h[8];
  std::copy_n(initial, 8, h);
  h[0] ^= 0x01010000 ^ digest.size();
  const std::size_t size = data.size();
  std::size_t done = 0;
  for (; size - done > block_size; done += block_size)
    compress(h, reinterpret_cast<const std::uint8_t*>(data.data()) + done, done + block_size, false);
  std::uint8_t rest[block_size] = {};
  std::copy(data.begin() + static_cast<std::ptrdiff_t>(done), data.end(), rest);
  compress(h, rest, size, true);
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::uint8_t>(h[i / 8] >> 8 * (i % 8));
}

std::uint64_t digest_bits(std::string_view text) {
  std::uint8_t digest[8];
  blake2b(text, digest);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < sizeof digest; ++i) bits |= std::uint64_t{digest[i]} << 8 * i;
  return bits;
}
}  // namespace pygrade::inline v0_2::detail
