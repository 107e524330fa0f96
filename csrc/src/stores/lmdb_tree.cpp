#include "stores/lmdb_tree.hpp"

#include <algorithm>

#include "stores/lmdb_layout.hpp"

namespace pygrade::detail {

namespace {

using namespace lmdb;

std::uint64_t big_endian_at(const void* place) {
  return __builtin_bswap64(at<std::uint64_t>(static_cast<const unsigned char*>(place)));
}

std::string_view key_of(const unsigned char* node) {
  return {reinterpret_cast<const char*>(node) + node_head, key_size(node)};
}

const unsigned char* bytes_of(const LmdbName& name) { return reinterpret_cast<const unsigned char*>(name.data()); }

// Keys compare by bytes, and a shorter one comes before those that it starts.
struct TextKey {
  explicit TextKey(std::string_view name) : text(name) {}

  bool starts_like(const unsigned char*) const { return false; }
  bool before_tail(const unsigned char*) const { return false; }
  bool before(std::string_view key) const { return text < key; }
  bool same(const unsigned char* node) const { return text == key_of(node); }

  std::string_view text;
};

struct NameKey : TextKey {
  explicit NameKey(const LmdbName& name)
      : TextKey({name.data(), name.size()}),
        first(at<std::uint64_t>(bytes_of(name))),
        tail(big_endian_at(name.data() + head_size)),
        second(at<std::uint32_t>(bytes_of(name) + 8)) {}

  // Whether the name differs from another one in its tail alone, and then whether it comes before.
  bool starts_like(const unsigned char* name) const {
    return at<std::uint64_t>(name) == first && at<std::uint32_t>(name + 8) == second;
  }
  bool before_tail(const unsigned char* name) const { return tail < big_endian_at(name + head_size); }

  bool same(const unsigned char* node) const {
    const unsigned char* name = node + node_head;
    return key_size(node) == sizeof(LmdbName) && starts_like(name) && big_endian_at(name + head_size) == tail;
  }

  static constexpr std::size_t head_size = sizeof(LmdbName) - sizeof(std::uint64_t);  // version and table
  std::uint64_t first, tail;
  std::uint32_t second;
};

// The nodes of a page, whose offsets end in it.
struct Nodes {
  Nodes(const unsigned char* start, std::size_t size)
      : page(start), page_size(size), count((at<std::uint16_t>(start + 12) - page_head) / 2) {}

  const unsigned char* page;
  std::size_t page_size, count;

  std::size_t offset(std::size_t i) const { return at<std::uint16_t>(page + page_head + 2 * i); }
  // Null if it does not lie in the page.
  const unsigned char* operator[](std::size_t i) const {
    const std::size_t start = offset(i);
    if (start < page_head || start + node_head > page_size) return nullptr;
    const unsigned char* node = page + start;
    return start + node_head + key_size(node) <= page_size ? node : nullptr;
  }
  bool is_name(std::size_t i) const {
    const unsigned char* node = (*this)[i];
    return node != nullptr && key_size(node) == sizeof(LmdbName);
  }
};

}  // namespace

std::optional<LmdbTree> LmdbTree::open(std::span<const unsigned char> file, std::size_t page_size, std::uint64_t id) {
  if (!known || page_size < 512 || page_size > max_page || file.size() < 2 * page_size) return {};
  const unsigned char* head = file.data() + (id & 1) * page_size;
  if (!is_meta(head)) return {};
  LmdbTree tree(page_size);
  tree.extend(file);
  // Another process may write here. It writes all of a number or nothing.
  tree.root_ = __atomic_load_n(reinterpret_cast<const std::uint64_t*>(head + records + root_of_tree), __ATOMIC_ACQUIRE);
  return tree;
}

void LmdbTree::extend(std::span<const unsigned char> file) {
  base_ = file.data();
  pages_ = file.size() / page_size_;
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
  const Nodes nodes(page, page_size_);
  std::size_t low = 0, left = nodes.count;
  // Keys are in order: if the second and the last one start like this one, so do all between them. The search is
  // branch-free, because its outcome is unpredictable.
  const std::size_t last = nodes.count - 1;
  if (left > 1 && nodes.is_name(1) && nodes.is_name(last) && key.starts_like(nodes[1] + node_head) &&
      key.starts_like(nodes[last] + node_head)) {
    while (left > 1) {
      const std::size_t half = left / 2;
      const std::size_t start = nodes.offset(low + half);
      if (start + node_head + sizeof(LmdbName) > page_size_) return nullptr;
      low += half * std::size_t{!key.before_tail(page + start + node_head)};
      left -= half;
    }
  }
  while (left > 1) {
    const std::size_t half = left / 2;
    const unsigned char* middle = nodes[low + half];
    if (middle == nullptr) return nullptr;
    low += half * std::size_t{!key.before(key_of(middle))};
    left -= half;
  }
  return nodes[low];
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
  if (!key.same(node)) return true;
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
  const TextKey key(name);
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
      const Nodes nodes(static_cast<const unsigned char*>(work[i]), page_size_);
      for (std::size_t n = 0; n < std::min(nodes.count, most); ++n) __builtin_prefetch(nodes.page + nodes.offset(n));
    }
    if (i >= ahead) {
      const std::size_t j = i - ahead;
      if (!value(static_cast<const unsigned char*>(work[j]), NameKey(names[j]), values[j])) return false;
    }
  }
  return true;
}

}  // namespace pygrade::detail
