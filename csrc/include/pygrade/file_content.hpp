// The bytes of a file: owned, or borrowed from the caller.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
// Immutable; copies share the bytes. What is read from it may keep it and point into it, unless it is borrowed.
class PYGRADE_API FileContent {
 public:
  FileContent() = default;
  FileContent(std::vector<std::byte> bytes);  // owned
  // Borrowed: the bytes must live as long as this and its copies.
  FileContent(std::span<const std::byte> bytes);
  // Memory that lives as long as `owner`, such as a part of a bundle.
  FileContent(std::shared_ptr<const void> owner, std::span<const std::byte> bytes);

  operator std::span<const std::byte>() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }

  // Object that keeps the bytes alive; null: they are borrowed, or there are none.
  const std::shared_ptr<const void>& owner() const { return owner_; }

  // 64 lower-case digits, computed by the first call for all copies. Any number of threads may call it.
  const std::string& sha256() const;

 private:
  struct Digest;
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<Digest> digest_;
};
}  // namespace pygrade::inline v0_2
