// cpp-httplib as pygraded uses it, and the service behind it.
#pragma once

#include <cstddef>

// Sockets with numbers above FD_SETSIZE; answers leave at once; idle connections look for the server's end twice a
// second; no body is parsed as a form.
#define CPPHTTPLIB_USE_POLL
#define CPPHTTPLIB_TCP_NODELAY true
#define CPPHTTPLIB_LISTEN_BACKLOG 1024
#define CPPHTTPLIB_KEEPALIVE_TIMEOUT_CHECK_INTERVAL_USECOND 500000
#define CPPHTTPLIB_FORM_URL_ENCODED_PAYLOAD_MAX_LENGTH (std::size_t{1} << 30)
#include <httplib.h>

#include <atomic>
#include <memory>
#include <string>

#include "pygrade/service.hpp"
#include "settings.hpp"
#include "tokens.hpp"

namespace pygrade::server {

class HttpServer {
 public:
  HttpServer(Service& service, const Settings& settings, Tokens& tokens);

  // Binds; returns the port. std::runtime_error if the address can't be bound.
  int bind();
  void serve();  // until stop()
  void stop();

  // Answers say from now on that their connection closes.
  void drain() { draining_ = true; }

 private:
  void add_routes();
  void answer(const httplib::Request& request, httplib::Response& response);
  bool refused(const httplib::Request& request, httplib::Response& response) const;
  void show_console(httplib::Response& response) const;
  void complete(const httplib::Request& request, httplib::Response& response);
  void write_line(const httplib::Request& request, const httplib::Response& response) const;

  Service& service_;
  const Settings& settings_;
  const Tokens& tokens_;
  std::unique_ptr<httplib::Server> server_;
  std::atomic<bool> draining_{false};
};

}  // namespace pygrade::server
