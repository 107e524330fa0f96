#include "pygrade/store.hpp"

#include <array>

#include "stores/backends.hpp"

namespace pygrade::inline v0_2 {
namespace {
#if defined(PYGRADE_HAS_LMDB)
constexpr detail::OpenStore* lmdb = &detail::open_lmdb;
#else
constexpr detail::OpenStore* lmdb = nullptr;
#endif
#if defined(PYGRADE_HAS_REDIS)
constexpr detail::OpenStore* redis = &detail::open_redis;
#else
constexpr detail::OpenStore* redis = nullptr;
#endif

constexpr std::string_view lmdb_missing =
    "LMDB, which this build of pygrade lacks: install liblmdb-dev and build with "
    "-DPYGRADE_LMDB=ON";
constexpr std::string_view redis_missing =
    "hiredis, which this build of pygrade lacks: install libhiredis-dev and "
    "build with -DPYGRADE_REDIS=ON";

struct Backend {
  std::string_view scheme, address, help;  // as of StoreKind
  detail::OpenStore* open;                 // null: not in this build
  std::string_view missing;
};

// To add a store, add a row here and its sources to csrc/cmake/stores.cmake.
constexpr Backend backends[] = {
    {"lmdb", "lmdb:DIR", "embedded: one file that all processes of a machine share; `?read_only=1` refuses writes",
     lmdb, lmdb_missing},
    {"redis", "redis://HOST:PORT/DB?prefix=NAME", "a Redis server, for many machines", redis, redis_missing},
    {"rediss", "rediss://HOST:PORT/DB?prefix=NAME", "a Redis server over TLS", redis, redis_missing},
    {"unix", "unix://SOCKET?db=DB&prefix=NAME", "a Redis server of this machine", redis, redis_missing},
    {"memory", "memory:", "this process alone", &detail::open_memory, ""},
};
}  // namespace

Store::~Store() = default;

void Store::put(std::string_view, std::span<const std::int64_t>, std::span<const std::string_view>, const std::string&,
                std::optional<double>) {
  throw StoreError(url() + " cannot be filled");
}
std::size_t Store::sweep() { throw StoreError(url() + " cannot be swept"); }
void Store::begin(const std::string&) { throw StoreError(url() + " cannot be filled"); }
void Store::switch_to(const std::string&) { throw StoreError(url() + " cannot be filled"); }
std::vector<StoreVersion> Store::versions() { throw StoreError(url() + " has one version alone"); }
void Store::drop(const std::string&) { throw StoreError(url() + " has one version alone"); }
std::shared_ptr<Store> Store::at(const std::string&) { throw StoreError(url() + " reads its current version alone"); }

std::span<const StoreKind> store_kinds() {
  static const auto kinds = [] {
    std::array<StoreKind, std::size(backends)> all{};
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i] = {backends[i].scheme, backends[i].address, backends[i].help, backends[i].open != nullptr};
    return all;
  }();
  return kinds;
}

std::shared_ptr<Store> open_store(const std::string& url, const StoreOptions& options) {
  const auto colon = url.find(':');
  const bool rest = colon != url.npos && colon + 1 < url.size();
  std::string wanted;
  for (const Backend& backend : backends) {
    const bool whole = backend.address.ends_with(':');  // the scheme is all there is
    if (colon != url.npos && url.substr(0, colon) == backend.scheme && rest != whole) {
      if (backend.open != nullptr) return backend.open(url, options);
      throw StoreError(detail::without_secret(url) + " needs " + std::string(backend.missing));
    }
    wanted += (wanted.empty() ? "" : &backend == std::end(backends) - 1 ? " or " : ", ");
    wanted += backend.address;
  }
  throw std::invalid_argument("url is '" + detail::without_secret(url) + "'; expected " + wanted);
}

namespace detail {
std::string without_secret(const std::string& url) {
  if (url.starts_with("lmdb:")) return url;  // a path, without any
  const auto slashes = url.find("://");
  auto start = slashes == url.npos ? url.find(':') + 1 : slashes + 3;  // 0 without a colon
  const auto at = url.substr(0, url.find('?', start)).rfind('@');
  if (at == url.npos) return url;
  if (at < start) start = 0;
  return url.substr(0, start) + url.substr(at + 1);
}
}  // namespace detail
}  // namespace pygrade::inline v0_2
