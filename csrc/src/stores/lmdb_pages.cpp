// LMDB 0.9 on a 64-bit little-endian machine.
//
//     page       [0, 8) its number   [10, 12) kind   [12, 14) end of the offsets, or [12, 16) pages of an overflow
//                [16, …) offsets of the nodes, 2 bytes each
//     node       [0, 4) size of the data; in a branch [0, 6) number of a page   [4, 6) flags   [6, 8) size of the key
//                key   data, or the number of its first overflow page
//     pages 0, 1 [16, 20) magic   [20, 24) version   [40, 88) free pages   [88, 136) records   [144, 152) transaction
//     tree       [0, 4) page size, of the free pages   [6, 8) depth   [40, 48) number of the root
#include "stores/lmdb_pages.hpp"

#include <unistd.h>

#include <bit>
#include <cstring>
#include <vector>

namespace pygrade::detail {

namespace {

constexpr std::uint32_t magic = 0xbeefc0de, data_version = 1;
constexpr std::uint16_t branch = 1, leaf = 2, overflow = 4, meta = 8;
constexpr std::uint16_t big_data = 1;
constexpr std::uint64_t no_page = ~std::uint64_t{0};
constexpr std::size_t head = 16, node_head = 8, largest_page = 1 << 16;

template <class Number>
Number at(const unsigned char* place) {
  Number number;
  std::memcpy(&number, place, sizeof number);
  return number;
}

class Walk {
 public:
  Walk(int file, std::size_t size, std::size_t page) : file_(file), page_(page), pages_(size / page), left_(pages_) {}

  bool tree(const unsigned char* root) { return at<std::uint64_t>(root + 40) == no_page || subtree(root); }

 private:
  bool subtree(const unsigned char* tree) {
    const std::size_t depth = at<std::uint16_t>(tree + 6);
    return depth > 0 && depth <= 32 && visit(at<std::uint64_t>(tree + 40), depth);
  }

  bool read(std::uint64_t number, unsigned char* into, std::size_t bytes) const {
    return number < pages_ &&
           pread(file_, into, bytes, static_cast<off_t>(number * page_)) == static_cast<ssize_t>(bytes);
  }

  bool visit(std::uint64_t number, std::size_t depth) {
    if (left_-- == 0) return false;  // a tree that contains itself
    std::vector<unsigned char> content(page_);
    const unsigned char* page = content.data();
    if (!read(number, content.data(), page_) || at<std::uint64_t>(page) != number) return false;
    const auto kind = at<std::uint16_t>(page + 10) & (branch | leaf);
    const std::size_t end = at<std::uint16_t>(page + 12);
    if (kind != (depth > 1 ? branch : leaf) || end < head || end > page_) return false;
    for (std::size_t offset = head; offset < end; offset += 2) {
      const std::size_t start = at<std::uint16_t>(page + offset);
      if (start < end || start + node_head > page_) return false;
      const unsigned char* node = page + start;
      if (kind == branch) {
        const std::uint64_t child = at<std::uint32_t>(node) | std::uint64_t{at<std::uint16_t>(node + 4)} << 32;
        if (!visit(child, depth - 1)) return false;
      } else if (at<std::uint16_t>(node + 4) & big_data) {
        const std::size_t key = at<std::uint16_t>(node + 6);
        if (start + node_head + key + 8 > page_) return false;
        if (!large(at<std::uint64_t>(node + node_head + key), at<std::uint32_t>(node))) return false;
      } else if (start + node_head + at<std::uint16_t>(node + 6) + at<std::uint32_t>(node) > page_) {
        return false;
      }
    }
    return true;
  }

  bool large(std::uint64_t number, std::size_t bytes) const {
    unsigned char page[head];
    const std::size_t wanted = (head - 1 + bytes) / page_ + 1;
    return read(number, page, head) && at<std::uint64_t>(page) == number && (at<std::uint16_t>(page + 10) & overflow) &&
           at<std::uint32_t>(page + 12) >= wanted && wanted <= pages_ - number;
  }

  const int file_;
  const std::size_t page_, pages_;
  std::size_t left_;
};

}  // namespace

bool lmdb_is_whole(int file, std::size_t size, std::uint64_t id) {
  if constexpr (std::endian::native != std::endian::little || sizeof(std::size_t) != 8) return false;
  unsigned char page[160];
  const auto read_at = [&](std::size_t place) {
    return pread(file, page, sizeof page, static_cast<off_t>(place)) == static_cast<ssize_t>(sizeof page) &&
           (at<std::uint16_t>(page + 10) & meta) && at<std::uint32_t>(page + 16) == magic &&
           at<std::uint32_t>(page + 20) == data_version;
  };
  if (!read_at(0)) return false;
  const std::size_t page_size = at<std::uint32_t>(page + 40);
  if (page_size < 512 || page_size > largest_page || size < 2 * page_size) return false;
  if (at<std::uint64_t>(page + 144) != id && !(read_at(page_size) && at<std::uint64_t>(page + 144) == id)) return false;
  Walk walk(file, size, page_size);
  return walk.tree(page + 40) && walk.tree(page + 88);
}

}  // namespace pygrade::detail
