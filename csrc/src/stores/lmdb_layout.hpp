// The pages of LMDB 0.9 on a 64-bit little-endian machine.
//
//     page       [0, 8) its number   [10, 12) kind   [12, 14) end of the offsets, or [12, 16) pages of a large value
//                [16, …) offsets of the nodes, 2 bytes each
//     node       [0, 4) size of the value; in a branch [0, 6) number of a page   [4, 6) flags   [6, 8) size of the key
//                key   value, or the number of the first page of a large one
//     pages 0, 1 [16, 20) magic   [20, 24) version   [40, 88) free pages   [88, 136) records   [144, 152) transaction
//     tree       [0, 4) page size, of the free pages   [6, 8) depth   [40, 48) number of the root
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pygrade::detail::lmdb {

inline constexpr bool known = std::endian::native == std::endian::little && sizeof(std::size_t) == 8;

inline constexpr std::uint32_t magic = 0xbeefc0de, data_version = 1;
inline constexpr unsigned branch = 1, leaf = 2, large = 4, meta = 8;  // kinds of a page
inline constexpr unsigned large_value = 1, special_value = 2 | 4;     // flags of a node
inline constexpr std::uint64_t no_page = ~std::uint64_t{0};
inline constexpr std::size_t page_head = 16, node_head = 8, max_page = 1 << 16, max_depth = 32;
inline constexpr std::size_t free_pages = 40, records = 88, root_of_tree = 40, transaction = 144, meta_end = 152;

template <class Number>
Number at(const unsigned char* place) {
  Number number;
  std::memcpy(&number, place, sizeof number);
  return number;
}

inline std::uint64_t number_of(const unsigned char* page) { return at<std::uint64_t>(page); }
inline unsigned kind_of(const unsigned char* page) { return at<std::uint16_t>(page + 10); }
inline std::uint64_t child_of(const unsigned char* node) {
  return at<std::uint32_t>(node) | std::uint64_t{at<std::uint16_t>(node + 4)} << 32;
}
inline unsigned flags_of(const unsigned char* node) { return at<std::uint16_t>(node + 4); }
inline std::size_t key_size(const unsigned char* node) { return at<std::uint16_t>(node + 6); }
inline std::size_t value_size(const unsigned char* node) { return at<std::uint32_t>(node); }
inline std::size_t pages_of(std::size_t value, std::size_t page) { return (page_head - 1 + value) / page + 1; }

inline bool is_meta(const unsigned char* page) {
  return (kind_of(page) & meta) && at<std::uint32_t>(page + 16) == magic &&
         at<std::uint32_t>(page + 20) == data_version;
}

}  // namespace pygrade::detail::lmdb
