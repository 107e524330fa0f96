#include "util/crc32.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define PYGRADE_CLMUL 1
#include <immintrin.h>
#endif

// Carry-less multiplication belongs to no x86-64 level, so the processor is asked for it. It takes 16 or 64 bytes at a
// time as polynomials and folds each 16 bytes onto those that lie `distance` bits further, which leaves the remainder
// by the polynomial of the CRC as it was (Gopal et al., "Fast CRC Computation Using PCLMULQDQ", 2009): a fourth of the
// time of tables for a record of 200 bytes, of which a page reads hundreds.
namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::uint32_t polynomial = 0xedb88320;

struct Tables {
  std::uint32_t of[8][256];  // of[j][b]: the crc of byte b followed by j zeros
};

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
    tables.of[0][byte] = crc;
  }
  for (int j = 1; j < 8; ++j)
    for (int byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables.of[j - 1][byte];
      tables.of[j][byte] = before >> 8 ^ tables.of[0][before & 255];
    }
  return tables;
}

constexpr Tables tables = make_tables();

// Eight bytes at a time; `crc` is inverted before and after by the caller.
std::uint32_t by_tables(std::uint32_t crc, const unsigned char* data, std::size_t size) {
  const auto& t = tables.of;
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
  return crc;
}

#if defined(PYGRADE_CLMUL)

#define PYGRADE_TARGET __attribute__((target("pclmul,sse4.1")))

// x^power modulo the polynomial, in the bit order of the CRC, as a factor of a carry-less multiplication.
constexpr long long factor(int power) {
  std::uint32_t value = 0x80000000;
  for (int i = 0; i < power; ++i) value = value >> 1 ^ (value & 1 ? polynomial : 0);
  return static_cast<long long>(std::uint64_t{value} << 1);
}

PYGRADE_TARGET inline __m128i load(const unsigned char* data) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
}

// The factors of a fold over `distance` bits: of the first and of the last eight bytes.
PYGRADE_TARGET inline __m128i factors(long long first, long long last) { return _mm_set_epi64x(last, first); }

PYGRADE_TARGET inline __m128i fold(__m128i value, __m128i by) {
  return _mm_xor_si128(_mm_clmulepi64_si128(value, by, 0x00), _mm_clmulepi64_si128(value, by, 0x11));
}

constexpr long long near_first = factor(128 + 32), near_last = factor(128 - 32);
constexpr long long far_first = factor(512 + 32), far_last = factor(512 - 32);

// Orders of _mm_shuffle_epi8: `shifts + n` moves the first n bytes to the end, `shifts + 16 + n` all others to the
// front; zeros fill the rest.
alignas(64) constexpr unsigned char shifts[48] = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80};

// The inverted crc of what was folded and the `size` bytes after it. At least 16 bytes can be read before them.
PYGRADE_TARGET inline std::uint32_t finish(__m128i folded, const unsigned char* data, std::size_t size) {
  const __m128i near = factors(near_first, near_last);
  for (; size >= 16; data += 16, size -= 16) folded = _mm_xor_si128(fold(folded, near), load(data));
  if (size > 0) {  // the first `size` bytes are folded onto the 16 that remain
    const __m128i down = load(shifts + 16 + size);
    const __m128i first = _mm_shuffle_epi8(folded, load(shifts + size));
    const __m128i tail = load(data + size - 16);
    const __m128i rest = _mm_blendv_epi8(_mm_shuffle_epi8(folded, down), tail, down);
    folded = _mm_xor_si128(fold(first, near), rest);
  }
  // 128 bits to 96, to 64, and the remainder by Barrett's method.
  const __m128i low = _mm_set_epi64x(0, 0xffffffff);
  __m128i value = _mm_xor_si128(_mm_srli_si128(folded, 8), _mm_clmulepi64_si128(folded, near, 0x10));
  value = _mm_xor_si128(_mm_srli_si128(value, 4),
                        _mm_clmulepi64_si128(_mm_and_si128(value, low), _mm_set_epi64x(0, factor(64)), 0x00));
  const __m128i barrett = _mm_set_epi64x(0x1f7011641, 0x1db710641);  // quotient of x^64, and the polynomial
  __m128i quotient = _mm_clmulepi64_si128(_mm_and_si128(value, low), barrett, 0x10);
  quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low), barrett, 0x00);
  return static_cast<std::uint32_t>(_mm_extract_epi32(_mm_xor_si128(value, quotient), 1));
}

// size ≥ 64
PYGRADE_TARGET std::uint32_t by_products(std::uint32_t crc, const unsigned char* data, std::size_t size) {
  __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
  __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
  const __m128i far = factors(far_first, far_last);
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
    a = _mm_xor_si128(fold(a, far), load(data));
    b = _mm_xor_si128(fold(b, far), load(data + 16));
    c = _mm_xor_si128(fold(c, far), load(data + 32));
    d = _mm_xor_si128(fold(d, far), load(data + 48));
  }
  const __m128i near = factors(near_first, near_last);
  b = _mm_xor_si128(fold(a, near), b);
  c = _mm_xor_si128(fold(b, near), c);
  d = _mm_xor_si128(fold(c, near), d);
  return finish(d, data, size);
}

// size ≥ 16
PYGRADE_TARGET std::uint32_t by_few_products(std::uint32_t crc, const unsigned char* data, std::size_t size) {
  const __m128i first = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
  return finish(first, data + 16, size - 16);
}

bool has_products() {
  static const bool found = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return found;
}

#endif

}  // namespace

std::uint32_t crc32(std::string_view text, std::uint32_t crc) {
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
#if defined(PYGRADE_CLMUL)
  if (text.size() >= 16 && has_products())
    return ~(text.size() >= 64 ? by_products(~crc, data, text.size()) : by_few_products(~crc, data, text.size()));
#endif
  return ~by_tables(~crc, data, text.size());
}

std::uint32_t crc32_by_tables(std::string_view text, std::uint32_t crc) {
  return ~by_tables(~crc, reinterpret_cast<const unsigned char*>(text.data()), text.size());
}

}  // namespace pygrade::inline v0_2::detail
