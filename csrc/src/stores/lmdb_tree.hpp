// Many keys of an LMDB file at once, read from its memory map without LMDB.
//
// LMDB finds one key at a time and waits for the memory at each step, some 150 ns for a record of a store that is not
// in the cache. Here all keys go down the tree side by side, and what the next step reads is fetched meanwhile. Every
// page and node is checked before it is read, so that a damaged file is an answer and not a crash.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace pygrade::detail {

using LmdbName = std::array<char, 20>;

class LmdbTree {
 public:
  // The records that an open read transaction sees, or those of a later commit, whose pages are kept as long: pages
  // freed by commits after the oldest reader's are not used again. So what is read belongs to one commit. Nothing if
  // the layout is not the one known here.
  static std::optional<LmdbTree> open(std::span<const unsigned char> file, std::size_t page_size,
                                      std::uint64_t transaction);

  // The same of a file that has grown.
  void extend(std::span<const unsigned char> file);

  // Values of the names, data() null where there is none. False if a page is damaged, or beyond the end of the file.
  bool find(std::span<const LmdbName> names, std::span<std::string_view> values, std::vector<const void*>& work) const;
  bool find(std::string_view name, std::string_view& value) const;

 private:
  explicit LmdbTree(std::size_t page_size) : page_size_(page_size) {}

  const unsigned char* page(std::uint64_t number) const;
  template <class Key>
  const unsigned char* node(const unsigned char* page, const Key& key) const;
  template <class Key>
  const unsigned char* child(const unsigned char* page, const Key& key) const;
  template <class Key>
  bool value(const unsigned char* page, const Key& key, std::string_view& value) const;

  const unsigned char* base_ = nullptr;
  std::size_t page_size_, pages_ = 0;
  std::uint64_t root_ = 0;
};

}  // namespace pygrade::detail
