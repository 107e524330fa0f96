// TLS to a Redis server. The code that calls OpenSSL is a library beside this one, libpygrade_tls, which is loaded when
// the first address of rediss:// is opened: who opens none needs no OpenSSL, and meets none of another version.
// Programs of ours that have OpenSSL anyway link tls.cpp and tls_linked.cpp instead.
#pragma once

#include <memory>
#include <string>

#include "stores/redis_address.hpp"

struct redisContext;

// Functions of libpygrade_tls, plain C. Faults are texts of at most `capacity` bytes with their 0.
extern "C" struct pygrade_tls_functions {
  const char* version;  // PYGRADE_VERSION: both libraries are of one build
  // A context of files in PEM, ca "": those that the system trusts; null: of what `fault` says.
  void* (*make)(const char* ca, const char* cert, const char* key, int verify, char* fault, size_t capacity);
  void (*free)(void* context);
  // Makes the handshake on a blocking connection. 0, or `fault` says what went wrong.
  int (*start)(void* context, redisContext* connection, const char* name, int is_ip, int verify_host, char* fault,
               size_t capacity);
};

namespace pygrade::inline v0_2::detail {

// Set by tls_linked.cpp; null: libpygrade_tls is loaded.
extern const pygrade_tls_functions* linked_tls;

class TlsContext {
 public:
  // StoreError if there is no TLS, std::invalid_argument for a file that cannot be used.
  TlsContext(const RedisTls& options, const std::string& url);

  // Makes the handshake on a blocking connection. What went wrong; empty if nothing did.
  std::string start(redisContext* connection, const std::string& host) const;

 private:
  const RedisTls options_;
  const pygrade_tls_functions& functions_;
  std::unique_ptr<void, void (*)(void*)> context_;
};

}  // namespace pygrade::inline v0_2::detail
