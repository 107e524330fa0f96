#include "stores/redis_libraries.hpp"

#include <array>

#include "pygrade/store.hpp"
#include "pygrade/version.hpp"

#if defined(PYGRADE_LOADS_LIBRARIES)
#include <dlfcn.h>
#endif

namespace pygrade::inline v0_2::detail {
const pygrade_redis_functions* linked_redis = nullptr;
const pygrade_tls_functions* linked_tls = nullptr;

namespace {
// The functions that are linked, or those of libpygrade_NAME, which lies beside this library or program or where the
// system finds libraries.
template <class Functions>
const Functions& functions_of(const std::string& name, const Functions* linked, const std::string& url) {
  if (linked != nullptr) return *linked;
#if !defined(PYGRADE_HAS_TLS)
  if (name == "tls")
    throw StoreError(url + " needs TLS, which this build of pygrade lacks: install libssl-dev, and build again");
#endif
  const std::string file = "libpygrade_" + name + ".so";
#if defined(PYGRADE_LOADS_LIBRARIES)
  std::string path = file;
  Dl_info own;
  if (dladdr(reinterpret_cast<const void*>(&linked_redis), &own) != 0 && own.dli_fname != nullptr) {
    const std::string here = own.dli_fname;
    path = here.substr(0, here.rfind('/') + 1) + file;  // a file without folder: as the system finds it
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw StoreError(url + " needs " + file + " of pygrade " PYGRADE_VERSION ", which can't be loaded: install it in " +
                     path.substr(0, path.rfind('/') + 1) + " or where the system finds libraries: " + dlerror());
  const auto* functions = static_cast<const Functions*>(dlsym(library, ("pygrade_" + name).c_str()));
  if (functions != nullptr && std::string_view(functions->version) == PYGRADE_VERSION) return *functions;
  throw StoreError(url + " needs " + file + " of pygrade " PYGRADE_VERSION "; there is one of " +
                   (functions == nullptr ? "none" : functions->version));
#else
  throw StoreError(url + " needs " + file + ", which this build of pygrade does not load");
#endif
}

using Fault = std::array<char, 512>;

void* make_context(const pygrade_tls_functions& functions, const RedisTls& options) {
  if (options.cert.empty() != options.key.empty())
    throw std::invalid_argument("url has cert without key, or key without cert; expected both or none");
  Fault fault{};
  void* context = functions.make(options.ca.c_str(), options.cert.c_str(), options.key.c_str(),
                                 options.verify != RedisTls::none, fault.data(), fault.size());
  if (context == nullptr) throw std::invalid_argument(fault.data());
  return context;
}
}  // namespace

const pygrade_redis_functions& redis_functions(const std::string& url) {
  return functions_of("redis", linked_redis, url);
}

TlsContext::TlsContext(const RedisTls& options, const std::string& url)
    : options_(options),
      functions_(functions_of("tls", linked_tls, url)),
      context_(make_context(functions_, options), functions_.free) {}

std::string TlsContext::start(redisContext* connection, const std::string& host) const {
  const std::string& name = options_.sni.empty() ? host : options_.sni;
  Fault fault{};
  functions_.start(context_.get(), connection, name.c_str(), is_ip(name), options_.verify == RedisTls::host,
                   fault.data(), fault.size());
  return fault.data();
}
}  // namespace pygrade::inline v0_2::detail
