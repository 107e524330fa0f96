#include "pygrade/store.hpp"

#include "stores/backends.hpp"

namespace pygrade::inline v0_2 {

namespace {

[[noreturn, maybe_unused]] void missing(const std::string& url, const char* library, const char* package,
                                        const char* option) {
  throw StoreError(url + " needs " + library + ", which this build of pygrade lacks: install " + package +
                   " and build with -D" + option + "=ON");
}

constexpr std::string_view libraries[] = {
#if defined(PYGRADE_HAS_LMDB)
    "lmdb",
#endif
#if defined(PYGRADE_HAS_REDIS)
    "redis",
#endif
    ""};

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

std::span<const std::string_view> store_libraries() { return std::span(libraries).first(std::size(libraries) - 1); }

std::shared_ptr<Store> open_store(const std::string& url, const StoreOptions& options) {
  const auto colon = url.find(':');
  const std::string_view scheme = std::string_view(url).substr(0, colon);
  const bool rest = colon != url.npos && colon + 1 < url.size();
  if (url == "memory:") return detail::open_memory();
  if (scheme == "lmdb" && rest) {
#if defined(PYGRADE_HAS_LMDB)
    return detail::open_lmdb(url, options);
#else
    missing(url, "LMDB", "liblmdb-dev", "PYGRADE_LMDB");
#endif
  }
  const std::string_view server = scheme.substr(0, scheme.find("+sentinel"));
  if ((server == "redis" || server == "rediss" || scheme == "unix") && rest) {
#if defined(PYGRADE_HAS_REDIS)
    return detail::open_redis(url, options);
#else
    missing(detail::without_secret(url), "hiredis", "libhiredis-dev", "PYGRADE_REDIS");
#endif
  }
  throw std::invalid_argument("url is '" + detail::without_secret(url) +
                              "'; want lmdb:DIR, redis://HOST:PORT/DB?prefix=NAME or memory:");
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
