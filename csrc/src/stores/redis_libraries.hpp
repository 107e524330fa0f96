// Callers of hiredis and OpenSSL: libraries beside this one, libpygrade_redis and libpygrade_tls, which are loaded when
// the first address of Redis, or of rediss://, is opened. Who opens none needs neither, and meets none of another
// version. Programs of ours that have both anyway link their objects and redis_linked.cpp instead.
#pragma once

#include <hiredis/hiredis.h>

#include <memory>
#include <string>

#include "stores/redis_address.hpp"

// Functions of libpygrade_redis: those of hiredis.
extern "C" struct pygrade_redis_functions {
  const char* version;  // PYGRADE_VERSION: all libraries are of one build
  redisContext* (*connect)(const redisOptions* options);
  void (*free)(redisContext* connection);
  void (*free_reply)(void* reply);
  int (*set_timeout)(redisContext* connection, timeval time);
  int (*append)(redisContext* connection, const char* bytes, size_t size);
  int (*write)(redisContext* connection, int* done);
  int (*read)(redisContext* connection);
  int (*next_reply)(redisContext* connection, void** reply);
};

// Functions of libpygrade_tls, plain C. Faults are texts of at most `capacity` bytes with their 0.
extern "C" struct pygrade_tls_functions {
  const char* version;
  // A context of files in PEM, ca "": those that the system trusts; null: of what `fault` says.
  void* (*make)(const char* ca, const char* cert, const char* key, int verify, char* fault, size_t capacity);
  void (*free)(void* context);
  // Makes the handshake on a blocking connection. 0, or `fault` says what went wrong.
  int (*start)(void* context, redisContext* connection, const char* name, int is_ip, int verify_host, char* fault,
               size_t capacity);
};

namespace pygrade::inline v0_2::detail {
// Set by redis_linked.cpp; null: the library is loaded.
extern const pygrade_redis_functions* linked_redis;
extern const pygrade_tls_functions* linked_tls;

// StoreError, which names `url`, if there is no library.
const pygrade_redis_functions& redis_functions(const std::string& url);

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
