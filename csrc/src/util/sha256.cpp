#include "util/sha256.hpp"

#include <algorithm>
#include <bit>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t load_big_endian(const std::byte* p) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | std::to_integer<std::uint32_t>(p[i]);
  return value;
}

using State = std::array<std::uint32_t, 8>;

void add_blocks(State& state, const std::byte* data, std::size_t count) {
  for (; count > 0; --count, data += 64) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = load_big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
      const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += added[i];
  }
}

#if defined(__x86_64__)
// Adds blocks by SHA-NI, four rounds at a time. The instructions want the state as (F, E, B, A) and (H, G, D, C).
__attribute__((target("sha,sse4.1"))) void add_blocks_sha_ni(State& state, const std::byte* data, std::size_t count) {
  const auto load = [](const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); };
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i badc = _mm_shuffle_epi32(load(state.data()), 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(load(state.data() + 4), 0x1b);
  __m128i feba = _mm_alignr_epi8(badc, hgfe, 8), hgdc = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; count > 0; --count, data += 64) {
    const __m128i feba_before = feba, hgdc_before = hgdc;
    __m128i w[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(data + 16 * i), big_endian);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const __m128i now = _mm_add_epi32(w[i & 3], load(round_constants + 4 * i));
      hgdc = _mm_sha256rnds2_epu32(hgdc, feba, now);
      feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(now, 0x0e));
      if (i >= 12) continue;
      const __m128i last = w[(i + 3) & 3], between = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);
      const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), between);
      w[i & 3] = _mm_sha256msg2_epu32(sum, last);
    }
    feba = _mm_add_epi32(feba, feba_before);
    hgdc = _mm_add_epi32(hgdc, hgdc_before);
  }
  const __m128i abef = _mm_shuffle_epi32(feba, 0x1b), cdgh = _mm_shuffle_epi32(hgdc, 0x1b);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data()), _mm_unpacklo_epi64(abef, cdgh));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data() + 4), _mm_unpackhi_epi64(abef, cdgh));
}

bool has_sha_ni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned ssse3 = 1u << 9, sse41 = 1u << 19, sha = 1u << 29;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & ssse3) == 0 || (c & sse41) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & sha) != 0;
}
#endif
}  // namespace

Sha256::Sha256(bool plain) : blocks_(&add_blocks) {
#if defined(__x86_64__)
  static const bool available = has_sha_ni();
  if (available && !plain) blocks_ = &add_blocks_sha_ni;
#else
  (void)plain;
#endif
}

void Sha256::update(std::span<const std::byte> data) {
  std::size_t filled = length_ % 64;
  length_ += data.size();
  if (filled > 0) {
    const std::size_t take = std::min(64 - filled, data.size());
    std::copy_n(data.begin(), take, pending_.begin() + static_cast<std::ptrdiff_t>(filled));
    data = data.subspan(take);
    filled += take;
    if (filled < 64) return;
    blocks_(state_, pending_.data(), 1);
  }
  blocks_(state_, data.data(), data.size() / 64);
  std::ranges::copy(data.subspan(data.size() / 64 * 64), pending_.begin());
}

std::string Sha256::hex() {
  const std::uint64_t bits = length_ * 8;
  const std::byte one{0x80};
  update({&one, 1});
  const std::byte zeros[64]{};
  update({zeros, (120 - length_ % 64) % 64});
  std::byte size[8];
  for (int i = 0; i < 8; ++i) size[i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  update(size);
  std::string result;
  for (const std::uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) result += "0123456789abcdef"[word >> shift & 15];
  return result;
}

std::string sha256_hex(std::span<const std::byte> data) {
  Sha256 digest;
  digest.update(data);
  return digest.hex();
}
}  // namespace pygrade::inline v0_2::detail
