// HTTP/1.1 for the service: Boost.Beast reads requests, Asio moves bytes.
//
// One thread, the loop, owns every connection: it accepts, reads, checks and writes, answers probes, and refuses. None
// of that waits for anything, so probes and refusals leave at once whatever the pages do; and what connections share
// needs no lock. A request costs the loop some 10 µs, so that it feeds more threads than `threads` has by default.
//
// Pages take 60 µs to 2 ms of CPU, or as long as the store's timeout, in a pool of `threads` threads whose queue is the
// admission control (pool.hpp). Feedback, which waits for the disk, and reports have two threads of their own, so that
// no page waits behind them.
//
// Memory: a connection holds at most a head (64 KiB), a piece that was read (32 KiB), a body (`max_body_bytes`) and an
// answer; a client without a valid token gets no further than the head.
#pragma once

#include <memory>

#include "pygrade/service.hpp"
#include "settings.hpp"
#include "tokens.hpp"

namespace pygrade::inline v0_2::server {
class HttpServer {
 public:
  // Reads the certificates. std::invalid_argument if they are none.
  HttpServer(Service& service, const Settings& settings, const Tokens& tokens);
  ~HttpServer();

  // Binds; returns the port. std::runtime_error if the address can't be bound.
  int bind();
  // Until stop() has taken effect.
  void serve();
  // From any thread. Answers say from now on that their connection closes.
  void drain();
  // From any thread. Accepts what has arrived, then no more; ends when all requests are answered, or after half a
  // minute.
  void stop();
  // From any thread. New connections get the certificates that are in the files now. std::invalid_argument if those are
  // none, and the earlier ones stay.
  void reload_certificates();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2::server
