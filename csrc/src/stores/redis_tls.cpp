#include "stores/redis_tls.hpp"

#include <array>

#include "pygrade/store.hpp"
#include "pygrade/version.hpp"

#if defined(PYGRADE_TLS_LIBRARY)
#include <dlfcn.h>
#endif

namespace pygrade::inline v0_2::detail {

const pygrade_tls_functions* linked_tls = nullptr;

namespace {

// The functions of libpygrade_tls, which lies beside this library or where the system finds libraries; or the fault.
const pygrade_tls_functions* load_tls(std::string& fault) {
#if defined(PYGRADE_TLS_LIBRARY)
  std::string path = PYGRADE_TLS_LIBRARY;
  Dl_info own;
  if (dladdr(reinterpret_cast<const void*>(&linked_tls), &own) != 0 && own.dli_fname != nullptr) {
    const std::string file = own.dli_fname;
    path = file.substr(0, file.rfind('/') + 1) + path;  // a file without folder: as the system finds it
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen(PYGRADE_TLS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fault = std::string(PYGRADE_TLS_LIBRARY) + ", which is not beside this library or can't be loaded: " + dlerror();
    return nullptr;
  }
  const auto* functions = static_cast<const pygrade_tls_functions*>(dlsym(library, "pygrade_tls"));
  if (functions != nullptr && std::string_view(functions->version) == PYGRADE_VERSION) return functions;
  fault = std::string(PYGRADE_TLS_LIBRARY) + " of version " PYGRADE_VERSION + "; there is one of " +
          (functions == nullptr ? "none" : functions->version);
#else
  fault = "TLS, which this build of pygrade lacks: install libssl-dev, and build again";
#endif
  return nullptr;
}

const pygrade_tls_functions& find_tls(const std::string& url) {
  if (linked_tls != nullptr) return *linked_tls;
  std::string fault;
  if (const auto* functions = load_tls(fault)) return *functions;
  throw StoreError(url + " needs " + fault);
}

using Fault = std::array<char, 512>;

void* make_context(const pygrade_tls_functions& functions, const RedisTls& options) {
  if (options.cert.empty() != options.key.empty())
    throw std::invalid_argument("url has cert without key, or key without cert; want both or none");
  Fault fault{};
  void* context = functions.make(options.ca.c_str(), options.cert.c_str(), options.key.c_str(),
                                 options.verify != RedisTls::none, fault.data(), fault.size());
  if (context == nullptr) throw std::invalid_argument(fault.data());
  return context;
}

}  // namespace

TlsContext::TlsContext(const RedisTls& options, const std::string& url)
    : options_(options), functions_(find_tls(url)), context_(make_context(functions_, options), functions_.free) {}

std::string TlsContext::start(redisContext* connection, const std::string& host) const {
  const std::string& name = options_.sni.empty() ? host : options_.sni;
  Fault fault{};
  functions_.start(context_.get(), connection, name.c_str(), is_ip(name), options_.verify == RedisTls::host,
                   fault.data(), fault.size());
  return fault.data();
}

}  // namespace pygrade::inline v0_2::detail
