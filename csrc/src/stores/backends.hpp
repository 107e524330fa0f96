// The stores that a build may have.
#pragma once

#include <memory>
#include <string>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::detail {

std::shared_ptr<Store> open_memory();
std::shared_ptr<Store> open_lmdb(const std::string& url, const StoreOptions& options);
std::shared_ptr<Store> open_redis(const std::string& url, const StoreOptions& options);

// A store's address without user and password.
std::string without_secret(const std::string& url);

}  // namespace pygrade::inline v0_2::detail
