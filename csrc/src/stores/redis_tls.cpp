#include "stores/redis_tls.hpp"

#include "pygrade/store.hpp"

#if defined(PYGRADE_HAS_REDIS_TLS)

#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

namespace pygrade::inline v0_2::detail {

namespace {

SSL_CTX* of(const std::shared_ptr<void>& context) { return static_cast<SSL_CTX*>(context.get()); }

}  // namespace

TlsContext::TlsContext(const RedisTls& options, const std::string&)
    : options_(options),
      context_(SSL_CTX_new(TLS_client_method()), [](void* c) { SSL_CTX_free(static_cast<SSL_CTX*>(c)); }) {
  if (context_ == nullptr) throw std::bad_alloc();
  const auto demand = [](bool good, const char* name, const std::string& value) {
    if (good) return;
    ERR_clear_error();
    throw std::invalid_argument("url has " + std::string(name) + "='" + value + "', which cannot be read as PEM" +
                                (name == std::string_view("key") ? ", or does not fit cert" : ""));
  };
  SSL_CTX_set_min_proto_version(of(context_), TLS1_2_VERSION);
  if (options.ca.empty())
    SSL_CTX_set_default_verify_paths(of(context_));
  else
    demand(SSL_CTX_load_verify_locations(of(context_), options.ca.c_str(), nullptr) == 1, "ca", options.ca);
  if (options.cert.empty() != options.key.empty())
    throw std::invalid_argument("url has cert without key, or key without cert; want both or none");
  if (!options.cert.empty()) {
    demand(SSL_CTX_use_certificate_chain_file(of(context_), options.cert.c_str()) == 1, "cert", options.cert);
    demand(SSL_CTX_use_PrivateKey_file(of(context_), options.key.c_str(), SSL_FILETYPE_PEM) == 1, "key", options.key);
  }
  SSL_CTX_set_verify(of(context_), options.verify == RedisTls::none ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, nullptr);
}

TlsContext::~TlsContext() = default;

std::string TlsContext::start(redisContext* context, const std::string& host) const {
  SSL* ssl = SSL_new(of(context_));
  if (ssl == nullptr) throw std::bad_alloc();
  const std::string& name = options_.sni.empty() ? host : options_.sni;
  const bool ip = is_ip(name);
  if (!ip) SSL_set_tlsext_host_name(ssl, name.c_str());
  if (options_.verify == RedisTls::host) {
    if (ip)
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str());
    else
      SSL_set1_host(ssl, name.c_str());
  }
  if (redisInitiateSSL(context, ssl) == REDIS_OK) return {};
  const long verified = SSL_get_verify_result(ssl);
  std::string fault = "TLS to " + name + ": " + context->errstr;
  if (verified != X509_V_OK) fault += std::string(": ") + X509_verify_cert_error_string(verified);
  SSL_free(ssl);
  return fault;
}

}  // namespace pygrade::inline v0_2::detail

#else

namespace pygrade::inline v0_2::detail {

TlsContext::TlsContext(const RedisTls&, const std::string& url) {
  throw StoreError(url + " needs TLS, which this build of pygrade lacks: install libssl-dev, and build again");
}
TlsContext::~TlsContext() = default;
std::string TlsContext::start(redisContext*, const std::string&) const { return {}; }

}  // namespace pygrade::inline v0_2::detail

#endif
