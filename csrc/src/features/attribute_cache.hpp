// Attributes of users and items in one version of the store, remembered in this process.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "util/row_memory.hpp"

namespace pygrade::inline v0_2::detail {
// Version of the store, as its table "meta" describes it; "": none was seen yet.
struct AttributeVersion {
  std::string description;
  bool other;  // it is not the one that was asked for, which is gone
  RowMemory users, items;
};

class AttributeCache {
 public:
  AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit);

  // One of more places, and without rows yet, if half of them are taken.
  std::shared_ptr<AttributeVersion> version();
  // Another version is current.
  void change_version(std::string_view description, bool other);

 private:
  std::shared_ptr<AttributeVersion> make(std::string_view description, bool other) const;

  const std::size_t user_width_, item_width_, limit_;
  std::mutex mutex_;  // guards the following
  std::size_t rows_;  // that there are places for
  std::shared_ptr<AttributeVersion> version_;
};
}  // namespace pygrade::inline v0_2::detail
