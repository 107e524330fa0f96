// pygraded: the service over HTTP, without Python.
#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <algorithm>
#include <boost/version.hpp>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#if defined(PYGRADE_HAS_LMDB)
#include <lmdb.h>
#endif
#if defined(PYGRADE_HAS_REDIS)
#include <hiredis/hiredis.h>
#endif
#if defined(PYGRADE_SERVER_TLS)
#include <openssl/opensslv.h>
#endif

#include "http.hpp"
#include "pygrade/service.hpp"
#include "pygrade/version.hpp"
#include "settings.hpp"

namespace {
using namespace pygrade;
using namespace pygrade::server;

constexpr int wrong_options = 2;

void say(const std::string& text) { std::fprintf(stderr, "pygraded: %s\n", text.c_str()); }

// Its own version and those of the libraries in it.
std::string versions() {
  std::string text = PYGRADE_VERSION " (Boost " BOOST_LIB_VERSION;
  const auto add = [&](const char* name, auto... parts) {
    text.append(", ").append(name);
    const char* between = " ";
    ((text.append(between).append(std::to_string(parts)), between = "."), ...);
  };
#if defined(PYGRADE_HAS_LMDB)
  add("LMDB", MDB_VERSION_MAJOR, MDB_VERSION_MINOR, MDB_VERSION_PATCH);
#endif
#if defined(PYGRADE_HAS_REDIS)
  add("hiredis", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
#endif
#if defined(PYGRADE_SERVER_TLS)
  add("OpenSSL", OPENSSL_VERSION_MAJOR, OPENSSL_VERSION_MINOR, OPENSSL_VERSION_PATCH);
#endif
  std::replace(text.begin(), text.end(), '_', '.');
  return text + ")\n";
}

timespec duration_of(double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  return {whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
}

// Until a signal that ends the program.
void watch(Service& service, HttpServer& server, Tokens& tokens, const sigset_t& signals, double refresh_seconds) {
  const timespec pause = duration_of(refresh_seconds);
  for (;;) {
    const int signal = sigtimedwait(&signals, nullptr, &pause);
    if (signal == SIGTERM || signal == SIGINT) return;
    if (signal == SIGHUP) {
      try {
        tokens.reload();
        server.reload_certificates();
      } catch (const std::invalid_argument& error) {
        say(std::string("what could be read is kept: ") + error.what());
      }
    }
    if (!service.refresh()) continue;
    say("serves what is new on disk");
    for (const auto& warning : service.warnings()) say(warning);
  }
}

// Memory of large bodies goes back to the system: by default the allocator keeps, and splits, what was large once.
void keep_memory_small() {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

int run(const Settings& settings) {
  keep_memory_small();
  // Blocked before any thread starts, so that this one alone gets them.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  std::vector<std::string> tenants;
  for (const TenantLimits& tenant : settings.tenants) tenants.push_back(tenant.name);
  Tokens tokens(settings.token_file, tenants);
  if (!settings.loopback() && !tokens.required() && !settings.public_address)
    throw std::invalid_argument(
        "host is " + settings.host +
        ", which others reach, and there is no token; expected token_file, PYGRADE_TOKEN, or public = true");
  Service service(settings.run, settings.core);
  HttpServer server(service, settings, tokens);
  const int port = server.bind();
  const std::string host = settings.host.find(':') == std::string::npos ? settings.host : "[" + settings.host + "]";
  say("http" + std::string(settings.tls_cert ? "s" : "") + "://" + host + ":" + std::to_string(port) + " serves " +
      (settings.run.empty() ? "runs with names" : settings.run.string()));
  for (const auto& warning : service.warnings()) say(warning);
  std::thread thread([&] { server.serve(); });
  watch(service, server, tokens, signals, settings.refresh_seconds);

  // Load balancers see /readyz and send no more; a second signal ends the wait.
  say("drains");
  service.drain();
  server.drain();
  const timespec pause = duration_of(settings.drain_seconds);
  if (settings.drain_seconds > 0.0) sigtimedwait(&signals, nullptr, &pause);
  server.stop();
  thread.join();
  service.drain();  // what was served since
  say("has ended");
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  try {
    settings = Settings::parse(argc, argv);
  } catch (const std::exception& error) {
    say(error.what());
    return wrong_options;
  }
  if (settings.wants_help || settings.wants_version) {
    std::fputs(settings.wants_help ? Settings::help().c_str() : versions().c_str(), stdout);
    return 0;
  }
  try {
    return run(settings);
  } catch (const std::invalid_argument& error) {
    say(error.what());
    return wrong_options;
  } catch (const std::exception& error) {
    say(error.what());
    return 1;
  }
}
