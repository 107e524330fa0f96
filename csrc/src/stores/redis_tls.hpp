// TLS to a Redis server, by hiredis_ssl and OpenSSL, if the build has them.
#pragma once

#include <memory>
#include <string>

#include "stores/redis_address.hpp"

struct redisContext;

namespace pygrade::inline v0_2::detail {

class TlsContext {
 public:
  // StoreError if the build has no TLS, std::invalid_argument for a file that cannot be used.
  TlsContext(const RedisTls& options, const std::string& url);
  ~TlsContext();

  // Makes the handshake on a blocking connection. What went wrong; empty if nothing did.
  std::string start(redisContext* context, const std::string& host) const;

 private:
  const RedisTls options_;
  std::shared_ptr<void> context_;
};

}  // namespace pygrade::inline v0_2::detail
