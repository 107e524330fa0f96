#include "features/attribute_cache.hpp"

#include <algorithm>

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::size_t first_rows = 1 << 12;
constexpr std::size_t first_words = 1 << 23;  // 64 MiB: rows of long embeddings begin with fewer
}  // namespace

AttributeCache::AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit)
    : user_width_(user_width),
      item_width_(item_width),
      limit_(limit),
      rows_(std::min({limit, first_rows, first_words / (1 + std::max(user_width, item_width))})),
      version_(make("", false)) {}

std::shared_ptr<AttributeVersion> AttributeCache::version() {
  const std::lock_guard lock(mutex_);
  if (rows_ < limit_ && (version_->users.crowded() || version_->items.crowded())) {
    rows_ = std::min(limit_, 4 * rows_);
    version_ = make(version_->description, version_->other);
  }
  return version_;
}

void AttributeCache::change_version(std::string_view description, bool other) {
  const std::lock_guard lock(mutex_);
  if (version_->description != description) version_ = make(description, other);
}

std::shared_ptr<AttributeVersion> AttributeCache::make(std::string_view description, bool other) const {
  return std::shared_ptr<AttributeVersion>(
      new AttributeVersion{std::string(description), other, {user_width_, rows_}, {item_width_, rows_}});
}
}  // namespace pygrade::inline v0_2::detail
