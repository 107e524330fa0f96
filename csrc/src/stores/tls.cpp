// TLS to a Redis server, by hiredis_ssl and OpenSSL.
#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <cstdio>

#include "pygrade/version.hpp"
#include "stores/redis_libraries.hpp"

namespace {
void* make(const char* ca, const char* cert, const char* key, int verify, char* fault, size_t capacity) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  if (context == nullptr) {
    std::snprintf(fault, capacity, "OpenSSL can't make a context");
    return nullptr;
  }
  const char *name = nullptr, *value = nullptr;
  const auto demand = [&](bool good, const char* of, const char* file) {
    if (!good && name == nullptr) name = of, value = file;
  };
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  if (*ca == '\0')
    SSL_CTX_set_default_verify_paths(context);
  else
    demand(SSL_CTX_load_verify_locations(context, ca, nullptr) == 1, "ca", ca);
  if (*cert != '\0') {
    demand(SSL_CTX_use_certificate_chain_file(context, cert) == 1, "cert", cert);
    demand(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1, "key", key);
  }
  SSL_CTX_set_verify(context, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
  if (name == nullptr) return context;
  ERR_clear_error();
  std::snprintf(fault, capacity, "url has %s='%s', which cannot be read as PEM%s", name, value,
                name[0] == 'k' ? ", or does not fit cert" : "");
  SSL_CTX_free(context);
  return nullptr;
}

void release(void* context) { SSL_CTX_free(static_cast<SSL_CTX*>(context)); }

int start(void* context, redisContext* connection, const char* name, int is_ip, int verify_host, char* fault,
          size_t capacity) {
  SSL* ssl = SSL_new(static_cast<SSL_CTX*>(context));
  if (ssl == nullptr) {
    std::snprintf(fault, capacity, "OpenSSL can't make a connection");
    return -1;
  }
  if (!is_ip) SSL_set_tlsext_host_name(ssl, name);
  if (verify_host) {
    if (is_ip)
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name);
    else
      SSL_set1_host(ssl, name);
  }
  if (redisInitiateSSL(connection, ssl) == REDIS_OK) return 0;
  const long verified = SSL_get_verify_result(ssl);
  const char* why = verified == X509_V_OK ? "" : X509_verify_cert_error_string(verified);
  std::snprintf(fault, capacity, "TLS to %s: %s%s%s", name, connection->errstr, *why == '\0' ? "" : ": ", why);
  SSL_free(ssl);
  return -1;
}
}  // namespace

extern "C" __attribute__((visibility("default"))) const pygrade_tls_functions pygrade_tls;
const pygrade_tls_functions pygrade_tls{PYGRADE_VERSION, make, release, start};
