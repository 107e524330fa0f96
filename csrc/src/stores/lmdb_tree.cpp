#include "stores/lmdb_tree.hpp"

#include <algorithm>

#include "stores/lmdb_layout.hpp"

namespace pygrade::detail {

namespace {

using namespace lmdb;

template <class Number>
Number big_endian_at(const void* place) {
  const auto number = at<Number>(static_cast<const unsigned char*>(place));
  if constexpr (sizeof(Number) == 8)
    return __builtin_bswap64(number);
  else
    return __builtin_bswap32(number);
}

// Keys compare by bytes, and a shorter one comes before those that it starts.
struct TextKey {
  std::string_view text;

  bool before(const unsigned char* key, std::size_t size) const { return text < view(key, size); }
  bool equal(const unsigned char* key, std::size_t size) const { return text == view(key, size); }
  static std::string_view view(const unsigned char* key, std::size_t size) {
    return {reinterpret_cast<const char*>(key), size};
  }
};

struct NameKey {
  explicit NameKey(const LmdbName& name)
      : first(big_endian_at<std::uint64_t>(name.data())),
        second(big_endian_at<std::uint64_t>(name.data() + 8)),
        third(big_endian_at<std::uint32_t>(name.data() + 16)),
        text(name.data(), name.size()) {}

  // Branch-free: the outcome is unpredictable.
  bool before(const unsigned char* key, std::size_t size) const {
    if (size != sizeof(LmdbName)) return TextKey{text}.before(key, size);
    const auto a = big_endian_at<std::uint64_t>(key);
    const auto b = big_endian_at<std::uint64_t>(key + 8);
    const auto c = big_endian_at<std::uint32_t>(key + 16);
    const unsigned last = (second < b) | (unsigned{second == b} & unsigned{third < c});
    return (first < a) | (unsigned{first == a} & last);
  }
  bool equal(const unsigned char* key, std::size_t size) const {
    return size == sizeof(LmdbName) && std::memcmp(key, text.data(), sizeof(LmdbName)) == 0;
  }

  std::uint64_t first, second;
  std::uint32_t third;
  std::string_view text;
};

// The nodes of a page, whose offsets end in it.
struct Nodes {
  explicit Nodes(const unsigned char* start) : page(start), count((at<std::uint16_t>(start + 12) - page_head) / 2) {}

  const unsigned char* page;
  std::size_t count;

  // Null if it does not lie in the page.
  const unsigned char* at_place(std::size_t i, std::size_t page_size) const {
    const std::size_t start = at<std::uint16_t>(page + page_head + 2 * i);
    if (start < page_head || start + node_head > page_size) return nullptr;
    const unsigned char* node = page + start;
    return start + node_head + key_size(node) <= page_size ? node : nullptr;
  }
};

}  // namespace

std::optional<LmdbTree> LmdbTree::open(std::span<const unsigned char> file, std::size_t page_size, std::uint64_t id) {
  if (!known || page_size < 512 || page_size > max_page || file.size() < 2 * page_size) return {};
  const unsigned char* head = file.data() + (id & 1) * page_size;
  if (!is_meta(head)) return {};
  LmdbTree tree(file.data(), page_size, file.size() / page_size);
  // Another process may write here. It writes all of a number or nothing.
  tree.root_ = __atomic_load_n(reinterpret_cast<const std::uint64_t*>(head + records + root_of_tree), __ATOMIC_ACQUIRE);
  return tree;
}

// Null if it can't be read, or is another one.
const unsigned char* LmdbTree::page(std::uint64_t number) const {
  if (number >= pages_) return nullptr;
  const unsigned char* page = base_ + number * page_size_;
  const std::size_t end = at<std::uint16_t>(page + 12);
  return number_of(page) == number && end > page_head && end <= page_size_ ? page : nullptr;
}

// The last node of a page at or before the key, or the first one, which in a branch stands for all before the second;
// null if the page is damaged.
template <class Key>
const unsigned char* LmdbTree::node(const unsigned char* page, const Key& key) const {
  const Nodes nodes(page);
  std::size_t low = 0;
  for (std::size_t left = nodes.count; left > 1;) {
    const std::size_t half = left / 2;
    const unsigned char* middle = nodes.at_place(low + half, page_size_);
    if (middle == nullptr) return nullptr;
    low += half * std::size_t{!key.before(middle + node_head, key_size(middle))};
    left -= half;
  }
  return nodes.at_place(low, page_size_);
}

// The first byte of the page below a branch that may hold the key, unread; null if the branch is damaged.
template <class Key>
const unsigned char* LmdbTree::child(const unsigned char* page, const Key& key) const {
  const unsigned char* node = this->node(page, key);
  return node == nullptr || child_of(node) >= pages_ ? nullptr : base_ + child_of(node) * page_size_;
}

// False if the leaf is damaged.
template <class Key>
bool LmdbTree::value(const unsigned char* page, const Key& key, std::string_view& value) const {
  const unsigned char* node = this->node(page, key);
  value = {};
  if (node == nullptr) return false;
  const std::size_t size = value_size(node);
  const unsigned char* content = node + node_head + key_size(node);
  if (!key.equal(node + node_head, key_size(node))) return true;
  if (flags_of(node) & special_value) return false;
  const auto place = static_cast<std::size_t>(content - page);
  if (flags_of(node) & large_value) {
    if (place + 8 > page_size_) return false;
    const auto first = at<std::uint64_t>(content);
    if (first >= pages_ || pages_of(size, page_size_) > pages_ - first) return false;
    const unsigned char* start = base_ + first * page_size_;
    if (number_of(start) != first || !(kind_of(start) & large)) return false;
    content = start + page_head;
  } else if (place + size > page_size_) {
    return false;
  }
  value = {reinterpret_cast<const char*>(content), size};
  return true;
}

bool LmdbTree::find(std::string_view name, std::string_view& value) const {
  const TextKey key{name};
  const unsigned char* at = page(root_);
  for (std::size_t depth = 1; at != nullptr && (kind_of(at) & branch); ++depth) {
    const unsigned char* below = depth < max_depth ? child(at, key) : nullptr;
    at = below == nullptr ? nullptr : page(static_cast<std::size_t>(below - base_) / page_size_);
  }
  return at != nullptr && (kind_of(at) & leaf) && this->value(at, key, value);
}

bool LmdbTree::find(std::span<const LmdbName> names, std::span<std::string_view> values,
                    std::vector<const void*>& work) const {
  const unsigned char* root = page(root_);
  if (root == nullptr) return false;
  work.assign(names.size(), root);
  // All leaves are at one depth.
  for (std::size_t depth = 1; !names.empty(); ++depth) {
    std::size_t leaves = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto* at = static_cast<const unsigned char*>(work[i]);
      if (page(static_cast<std::size_t>(at - base_) / page_size_) == nullptr) return false;
      if (kind_of(at) & leaf) {
        ++leaves;
        continue;
      }
      const unsigned char* below = (kind_of(at) & branch) && depth < max_depth ? child(at, NameKey(names[i])) : nullptr;
      if (below == nullptr) return false;
      __builtin_prefetch(below);
      work[i] = below;
    }
    if (leaves == names.size()) break;
    if (leaves > 0) return false;
  }
  constexpr std::size_t ahead = 8;  // names whose nodes are fetched before they are compared
  constexpr std::size_t most = 8;   // nodes of a leaf that are fetched
  for (std::size_t i = 0; i < names.size() + ahead; ++i) {
    if (i < names.size()) {
      const Nodes nodes(static_cast<const unsigned char*>(work[i]));
      for (std::size_t n = 0; n < std::min(nodes.count, most); ++n)
        __builtin_prefetch(nodes.page + at<std::uint16_t>(nodes.page + page_head + 2 * n));
    }
    if (i >= ahead) {
      const std::size_t j = i - ahead;
      if (!value(static_cast<const unsigned char*>(work[j]), NameKey(names[j]), values[j])) return false;
    }
  }
  return true;
}

}  // namespace pygrade::detail
