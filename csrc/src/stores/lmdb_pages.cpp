#include "stores/lmdb_pages.hpp"

#include <unistd.h>

#include <vector>

#include "stores/lmdb_layout.hpp"

namespace pygrade::detail {

namespace {

using namespace lmdb;

class Walk {
 public:
  Walk(int file, std::size_t size, std::size_t page) : file_(file), page_(page), pages_(size / page), left_(pages_) {}

  bool tree(const unsigned char* tree) {
    const auto root = at<std::uint64_t>(tree + root_of_tree);
    const std::size_t depth = at<std::uint16_t>(tree + 6);
    return root == no_page || (depth > 0 && depth <= max_depth && visit(root, depth));
  }

 private:
  bool read(std::uint64_t number, unsigned char* into, std::size_t bytes) const {
    return number < pages_ &&
           pread(file_, into, bytes, static_cast<off_t>(number * page_)) == static_cast<ssize_t>(bytes);
  }

  bool visit(std::uint64_t number, std::size_t depth) {
    if (left_-- == 0) return false;  // a tree that contains itself
    std::vector<unsigned char> content(page_);
    const unsigned char* page = content.data();
    if (!read(number, content.data(), page_) || number_of(page) != number) return false;
    const std::size_t end = at<std::uint16_t>(page + 12);
    if (!(kind_of(page) & (depth > 1 ? branch : leaf)) || end < page_head || end > page_) return false;
    for (std::size_t offset = page_head; offset < end; offset += 2) {
      const std::size_t start = at<std::uint16_t>(page + offset);
      if (start < end || start + node_head > page_) return false;
      const unsigned char* node = page + start;
      const std::size_t value = start + node_head + key_size(node);
      if (depth > 1) {
        if (!visit(child_of(node), depth - 1)) return false;
      } else if (flags_of(node) & large_value) {
        if (value + 8 > page_ || !visit_large(at<std::uint64_t>(page + value), value_size(node))) return false;
      } else if (value + value_size(node) > page_) {
        return false;
      }
    }
    return true;
  }

  bool visit_large(std::uint64_t number, std::size_t bytes) const {
    unsigned char page[page_head];
    const std::size_t wanted = pages_of(bytes, page_);
    return read(number, page, page_head) && number_of(page) == number && (kind_of(page) & large) &&
           at<std::uint32_t>(page + 12) >= wanted && wanted <= pages_ - number;
  }

  const int file_;
  const std::size_t page_, pages_;
  std::size_t left_;
};

}  // namespace

bool lmdb_is_whole(int file, std::size_t size, std::uint64_t id) {
  if constexpr (!known) return false;
  unsigned char page[meta_end];
  const auto read_at = [&](std::size_t place) {
    return pread(file, page, meta_end, static_cast<off_t>(place)) == static_cast<ssize_t>(meta_end) && is_meta(page);
  };
  if (!read_at(0)) return false;
  const std::size_t page_size = at<std::uint32_t>(page + free_pages);
  if (page_size < 512 || page_size > max_page || size < 2 * page_size) return false;
  const auto is_of_the_transaction = [&] { return at<std::uint64_t>(page + transaction) == id; };
  if (!is_of_the_transaction() && !(read_at(page_size) && is_of_the_transaction())) return false;
  Walk walk(file, size, page_size);
  return walk.tree(page + free_pages) && walk.tree(page + records);
}

}  // namespace pygrade::detail
