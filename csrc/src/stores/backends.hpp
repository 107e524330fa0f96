// The stores that a build may have.
#pragma once

#include <memory>
#include <string>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::detail {
using OpenStore = std::shared_ptr<Store>(const std::string& url, const StoreOptions& options);
OpenStore open_memory, open_lmdb, open_redis;

// A store's address without user and password.
std::string without_secret(const std::string& url);
}  // namespace pygrade::inline v0_2::detail
