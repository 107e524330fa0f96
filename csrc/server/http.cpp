#include "http.hpp"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "connections.hpp"
#include "service/json_writer.hpp"

namespace pygrade::server {

namespace {

using detail::JsonWriter;

constexpr time_t body_seconds = 30, keep_alive_seconds = 75;  // longer than the proxies in front wait
constexpr std::size_t searched = 4096;                        // bytes of an answer in which its request_id stands
thread_local std::chrono::steady_clock::time_point begun;     // the thread's request

// An error as the service writes it.
std::string error_body(std::string_view argument, const std::string& message) {
  JsonWriter out;
  out.begin_object().known_key("error").begin_object().known_key("argument");
  if (argument.empty())
    out.null();
  else
    out.value(argument);
  out.field("message", std::string_view(message)).end_object().end_object();
  return out.take();
}

// The request_id in the JSON of an answer, as it stands there, with its quotes; "null" if there is none.
std::string request_id_of(const std::string& body) {
  constexpr std::string_view key = "\"request_id\":\"";
  const std::size_t at = body.substr(0, searched).find(key);
  if (at == body.npos) return "null";
  for (std::size_t end = at + key.size(); end < body.size(); ++end) {
    if (body[end] == '\\')
      ++end;
    else if (body[end] == '"')
      return body.substr(at + key.size() - 1, end + 2 - at - key.size());
  }
  return "null";
}

std::string utc_now() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%03d+00:00", static_cast<int>(ms));
  return text;
}

std::unique_ptr<httplib::Server> make_server(const Settings& settings) {
  if (!settings.tls_cert) return std::make_unique<httplib::Server>();
#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
  auto server = std::make_unique<httplib::SSLServer>(settings.tls_cert->c_str(), settings.tls_key->c_str());
  if (!server->is_valid())
    throw std::invalid_argument("tls_cert " + settings.tls_cert->string() + " and tls_key " +
                                settings.tls_key->string() + " are no pair; want PEM files");
  return server;
#else
  throw std::invalid_argument("tls_cert is given; this pygraded was built without OpenSSL");
#endif
}

}  // namespace

HttpServer::HttpServer(Service& service, const Settings& settings, Tokens& tokens)
    : service_(service), settings_(settings), tokens_(tokens), server_(make_server(settings)) {
  const auto limit = static_cast<std::size_t>(settings.connections);
  server_->new_task_queue = [limit] { return new ConnectionThreads(limit); };
  server_->set_payload_max_length(settings.max_body_bytes);
  server_->set_read_timeout(body_seconds);
  server_->set_write_timeout(body_seconds);
  server_->set_keep_alive_timeout(keep_alive_seconds);
  server_->set_keep_alive_max_count(std::size_t{1} << 30);
  add_routes();
}

void HttpServer::add_routes() {
  using httplib::Server;
  server_->set_pre_routing_handler([](const httplib::Request& request, httplib::Response&) {
    begun = std::chrono::steady_clock::now();
    const_cast<httplib::Request&>(request).ranges.clear();  // answers are whole
    return Server::HandlerResponse::Unhandled;
  });
  const auto handler = [this](const httplib::Request& request, httplib::Response& response) {
    answer(request, response);
  };
  server_->Post("/v1/:name", handler);
  for (const char* path : {"/v1/:name", "/livez", "/readyz", "/metrics", "/console"}) server_->Get(path, handler);
  // Whatever has no route, and what the library refuses by itself.
  server_->set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
    complete(request, response);
    return Server::HandlerResponse::Handled;
  });
  server_->set_post_routing_handler([this](const httplib::Request&, httplib::Response& response) {
    if (!draining_) return;
    response.headers.erase("Keep-Alive");
    response.headers.erase("Connection");
    response.set_header("Connection", "close");
  });
  if (settings_.log != Settings::Log::none)
    server_->set_logger([this](const httplib::Request& request, const httplib::Response& response) {
      if (settings_.log == Settings::Log::all || response.status >= 400) write_line(request, response);
    });
}

bool HttpServer::refused(const httplib::Request& request, httplib::Response& response) const {
  if (request.path == "/livez" || request.path == "/readyz") return false;  // probes have no token
  if (!tokens_.required() || tokens_.accept(request.get_header_value("Authorization"))) return false;
  response.status = 401;
  response.set_header("WWW-Authenticate", "Bearer, Basic realm=\"pygrade\"");
  response.set_content(
      error_body("authorization", "want a header Authorization: Bearer TOKEN with a token of the service's file"),
      "application/json");
  return true;
}

void HttpServer::show_console(httplib::Response& response) const {
  std::ifstream file(settings_.console, std::ios::binary);
  if (!file) {
    response.status = 404;
    response.set_content(
        error_body("console", settings_.console.filename().string() + " is not there; write it with pygrade studio"),
        "application/json");
    return;
  }
  response.status = 200;
  response.set_content(std::string(std::istreambuf_iterator<char>(file), {}), "text/html; charset=utf-8");
}

void HttpServer::answer(const httplib::Request& request, httplib::Response& response) {
  if (refused(request, response)) return;
  if (request.path == "/console" && request.method != "POST") {
    show_console(response);
    return;
  }
  const std::string content_type = request.get_header_value("Content-Type");
  Response made = service_.handle({request.method, request.path, request.body, content_type});
  response.status = made.status;
  response.set_content(std::move(made.body), std::string(made.content_type));
}

void HttpServer::complete(const httplib::Request& request, httplib::Response& response) {
  if (!response.body.empty()) return;
  if (response.status == 404 && !request.path.empty()) {  // no route: the service says so
    answer(request, response);
    return;
  }
  if (response.status == 413) {
    const std::string size = request.get_header_value("Content-Length");
    response.set_content(error_body("body", "body has " + (size.empty() ? "too many" : size) + " bytes; want at most " +
                                                std::to_string(settings_.max_body_bytes)),
                         "application/json");
    return;
  }
  response.set_content(error_body("", std::string("the request is no HTTP that is answered here: ") +
                                          httplib::status_message(response.status)),
                       "application/json");
}

void HttpServer::write_line(const httplib::Request& request, const httplib::Response& response) const {
  const auto spent = std::chrono::steady_clock::now() - begun;
  JsonWriter out;
  out.begin_object().field("time", std::string_view(utc_now()));
  out.field("level", response.status >= 500 ? "error" : response.status >= 400 ? "warning" : "info");
  out.known_key("request_id").raw(request_id_of(response.body));
  out.field("method", std::string_view(request.method)).field("path", std::string_view(request.path));
  out.field("status", response.status);
  out.field("ms", std::chrono::duration<float, std::milli>(spent).count()).field("bytes", response.body.size());
  out.field("client", std::string_view(request.remote_addr)).end_object();
  std::string line = out.take();
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

int HttpServer::bind() {
  const int port = settings_.port == 0                                     ? server_->bind_to_any_port(settings_.host)
                   : server_->bind_to_port(settings_.host, settings_.port) ? settings_.port
                                                                           : -1;
  if (port < 0)
    throw std::runtime_error(settings_.host + ":" + std::to_string(settings_.port) +
                             " can't be bound; want a free port of this machine");
  return port;
}

void HttpServer::serve() { server_->listen_after_bind(); }
void HttpServer::stop() { server_->stop(); }

}  // namespace pygrade::server
