#include "connection.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/string.hpp>
#include <charconv>
#include <ctime>
#include <tuple>

#include "service/json_writer.hpp"

namespace pygrade::inline v0_2::server {
namespace {
namespace http = beast::http;
using detail::JsonWriter;

constexpr std::size_t small_read = std::size_t{8} << 10, large_read = std::size_t{32} << 10;
constexpr int max_unread = 128 << 10;                         // of answers, in the kernel, if the client reads nothing
constexpr std::size_t max_line = std::size_t{4} << 10;        // of a chunk's size with extensions; of all trailers
constexpr std::size_t max_discarded = std::size_t{16} << 20;  // after the last answer

// The only value of a header; "" if it is absent. False if it stands there twice.
template <class Fields>
bool get_once(const Fields& fields, http::field name, std::string_view& value) {
  const auto [begin, end] = fields.equal_range(name);
  if (begin == end) return true;
  value = begin->value();
  return std::next(begin) == end;
}

// Whether bytes may be the begin of a chunk's first line, after the end of the chunk before. Beast looks at a line when
// it is whole, and at the last one, of size 0, when the trailers are.
bool begins_chunk(std::string_view bytes) {
  if (bytes.starts_with("\r\n")) bytes.remove_prefix(2);
  if (bytes.empty() || bytes == "\r") return true;
  const std::size_t digits = bytes.find_first_not_of("0123456789abcdefABCDEF");
  return digits != 0 &&
         (digits == bytes.npos || std::string_view("\r; \t").find(bytes[digits]) != std::string_view::npos);
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
}  // namespace

bool Shared::full() const {
  return counters.connections.load() - in[leaving].size() > static_cast<std::size_t>(settings.connections);
}

bool Shared::full_of(const asio::ip::address& client, int more) const {
  const auto found = clients.find(client);
  return settings.connections_each > 0 && found != clients.end() && found->second + more > settings.connections_each;
}

Connection::Connection(Shared& shared, tcp::socket socket, std::string address, const asio::ip::address& client)
    : shared_(shared),
      socket_(std::move(socket)),
      address_(std::move(address)),
      client_(client),
      buffer_(max_head_bytes + 2 * large_read),
      since_(Clock::now()),
      place_(shared.in[idle].insert(shared.in[idle].end(), this)) {
  ++shared_.counters.connections;
  boost::system::error_code error;
  socket_.set_option(tcp::no_delay(true), error);
  socket_.set_option(asio::socket_base::send_buffer_size(max_unread), error);
  ++shared_.clients[client_];
}

Connection::~Connection() {
  leave_tenant();
  leave();
  shared_.in[phase_].erase(place_);
  --shared_.counters.connections;
}

void Connection::enter(Phase phase) {
  auto& list = shared_.in[phase];
  list.splice(list.end(), shared_.in[phase_], place_);
  phase_ = phase;
  since_ = Clock::now();
}

void Connection::leave() {
  if (std::exchange(left_, true)) return;
  const auto found = shared_.clients.find(client_);
  if (--found->second == 0) shared_.clients.erase(found);
}

void Connection::expire() {
  expired_ = true;
  leave();
  enter(leaving);
  boost::system::error_code error;
  socket_.cancel(error);
}

bool Connection::quiet() const {
  boost::system::error_code error;
  return buffer_.size() == 0 && socket_.available(error) == 0;
}

bool Connection::refuse(int status, std::string_view argument, std::string message) {
  refusal_ = Refusal{status, argument, std::move(message)};
  return false;
}

// Reads what has arrived, at most so many bytes. False if nothing more comes.
asio::awaitable<bool> Connection::fill(std::size_t bytes) {
  const auto space = buffer_.prepare(std::min(bytes, buffer_.max_size() - buffer_.size()));
  boost::system::error_code error;
  std::size_t count = 0;
#ifdef PYGRADE_SERVER_TLS
  if (tls_)
    std::tie(error, count) = co_await tls_->async_read_some(space, wait);
  else
#endif
    std::tie(error, count) = co_await socket_.async_read_some(space, wait);
  buffer_.commit(count);
  shared_.counters.received += count;
  read_at_ = Clock::now();
  ended_ = error == asio::error::eof;
  co_return count > 0 && !expired_;
}

asio::awaitable<bool> Connection::send(std::string_view head, std::string_view body) {
  std::array<asio::const_buffer, 2> both{asio::buffer(head), asio::buffer(body)};
  std::size_t progress = 0;
  while (asio::buffer_size(both) > 0) {
    boost::system::error_code error;
    std::size_t count = 0;
#ifdef PYGRADE_SERVER_TLS
    if (tls_)
      std::tie(error, count) = co_await tls_->async_write_some(both, wait);
    else
#endif
      std::tie(error, count) = co_await socket_.async_write_some(both, wait);
    shared_.counters.sent += count;
    if (error || expired_) co_return false;
    progress += count;
    for (auto& buffer : both) {
      const std::size_t part = std::min(count, buffer.size());
      buffer += part;
      count -= part;
    }
    if (phase_ != writing || progress < small_read) continue;
    enter(writing);  // a client that reads has time again
    progress = 0;
  }
  co_return true;
}

asio::awaitable<bool> Connection::handshake() {
#ifdef PYGRADE_SERVER_TLS
  if (tls_) {
    const auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, wait);
    co_return !error && !expired_;
  }
#endif
  co_return true;
}

asio::awaitable<void> Connection::run(std::unique_ptr<Connection> self) {
  try {
    bool open = co_await self->handshake();
    while (open) open = co_await self->serve_one();
  } catch (const std::exception&) {  // no memory: the connection ends
  }
}

asio::awaitable<bool> Connection::serve_one() {
  refusal_.reset();
  asked_ = {};
  retry_after_ = 1;
  more = 0;
  bool whole = co_await read_head();
  if (whole && !asked_.probe && !admit()) {
    const bool open = co_await shed();
    co_return open;
  }
  if (whole) whole = co_await read_body();
  if (!whole) {
    leave_tenant();
    if (!refusal_) co_return false;
    if (refusal_->status == 503)
      ++shared_.counters.refused;
    else if (refusal_->status != 401)
      ++shared_.counters.malformed;
    expired_ = false;
    response = Service::error(refusal_->status, refusal_->argument, refusal_->message);
    const bool sent = co_await answer(false);
    if (sent) co_await linger();
    co_return false;
  }
  body_ = std::move(parser_->get().body());
  request.body = body_;
  request.arrival = read_at_;
  if (asked_.probe)
    response = shared_.service.handle(request);
  else
    co_await work();
  leave_tenant();
  std::string().swap(body_);
  const bool draining = shared_.draining;
  // A client that has shown no token gets one answer at a time: others can't be kept waiting by what it piles up.
  const bool piles_up = !asked_.trusted && buffer_.size() > 0;
  const bool keep = asked_.keep && !draining && !piles_up && !no_room();
  const bool sent = co_await answer(keep);
  if (sent && !keep && asked_.keep) co_await linger();  // the client may have sent more
  co_return sent&& keep;
}

// False if the request is over the limits of its tenant, or the pool takes no more; `response` says so.
bool Connection::admit() {
  if (asked_.tenant) {
    const bool page = &pool() == &shared_.pages;
    const auto limit = page ? std::optional(shared_.pages.figures().limit) : std::nullopt;
    if (const auto over = shared_.tenants.enter(*asked_.tenant, limit, read_at_)) {
      retry_after_ = over->seconds;
      response = Service::error(429, over->argument, over->message);
      return false;
    }
    if (page) page_of_ = asked_.tenant;
  }
  if (!pool().refuse()) return true;
  leave_tenant();
  response = Service::error(503, "", "too many requests are in progress; ask again in a second");
  return false;
}

// The tenant's page is in progress no more.
void Connection::leave_tenant() {
  if (page_of_) shared_.tenants.leave(*page_of_, more);
  page_of_.reset();
}

// Refuses a request whose body has not been read yet, and which is not worth to be read. False: the connection ends.
asio::awaitable<bool> Connection::shed() {
  const bool awaits = parser_->get().count(http::field::expect) > 0;  // whether its body comes is not known
  const bool keep = asked_.keep && !awaits && !shared_.draining;
  bool open = co_await answer(keep);
  if (open && !keep) {
    co_await linger();
    co_return false;
  }
  if (open) open = co_await read_body();
  std::string().swap(parser_->get().body());
  co_return open;
}

// Until a head is whole. False if there is none: refusal_ says why, or the client is gone.
asio::awaitable<bool> Connection::read_head() {
  if (buffer_.size() == 0 && buffer_.capacity() > large_read) buffer_.shrink_to_fit();
  enter(buffer_.size() == 0 ? idle : head);
  std::size_t searched = 0, end = std::string_view::npos;
  for (;;) {
    while (searched == 0 && buffer_.size() > 0 && (first_byte() == '\r' || first_byte() == '\n')) buffer_.consume(1);
    const auto bytes = received();
    if (!bytes.empty() && (bytes[0] < 'A' || bytes[0] > 'Z'))
      co_return refuse(400, "", "the request is no HTTP/1.1: it begins with no method");
    end = bytes.find("\r\n\r\n", searched);
    if (end != bytes.npos || bytes.size() > max_head_bytes) break;
    for (std::size_t at = bytes.find('\n', searched); at != bytes.npos; at = bytes.find('\n', at + 1))
      if (at == 0 || bytes[at - 1] != '\r')
        co_return refuse(400, "", "the request is no HTTP/1.1: a line ends without CR LF");
    if (phase_ == idle && !bytes.empty()) enter(head);
    searched = bytes.size() < 3 ? 0 : bytes.size() - 3;
    if (!co_await fill(small_read)) {
      if (buffer_.size() == 0) co_return false;
      co_return ended_ ? refuse(400, "", "the request ends within its head")
                       : refuse(408, "", "the request's head did not arrive in time");
    }
  }
  const std::size_t size = end == std::string_view::npos ? end : end + 4;
  if (size > max_head_bytes)
    co_return refuse(431, "headers", "the request's head has more than " + std::to_string(max_head_bytes) + " bytes");
  if ((refusal_ = check_head(received().substr(0, size)))) co_return false;

  parser_.emplace();
  parser_->header_limit(max_head_bytes);
  parser_->body_limit(boost::none);
  boost::system::error_code error;
  buffer_.consume(parser_->put(asio::buffer(received().data(), size), error));
  if (error || !parser_->is_header_done()) co_return refuse(400, "", "the request is no HTTP/1.1: " + error.message());
  co_return check();
}

char Connection::first_byte() const { return static_cast<const char*>(buffer_.data().data())[0]; }

std::string_view Connection::received() const {
  return {static_cast<const char*>(buffer_.data().data()), buffer_.size()};
}

// The head against what is served here, before anything of the body is read: the token first.
bool Connection::check() {
  const auto& fields = parser_->get();
  asked_.method = fields.method_string();
  asked_.target = fields.target();
  const std::string_view path = asked_.target.substr(0, asked_.target.find('?'));
  asked_.probe = path == "/livez" || path == "/readyz";
  asked_.keep = parser_->keep_alive();
  asked_.trusted = !shared_.tokens.required();

  asked_.request_id = fields["X-Request-Id"];
  asked_.traceparent = fields["traceparent"];
  if (asked_.request_id.size() > max_request_id || !printable(asked_.request_id)) {
    asked_.request_id = {};
    return refuse(400, "x-request-id", "x-request-id is no printable text; expected at most 256 characters of ASCII");
  }

  std::string_view authorization, host, framing, length, expect, encoding;
  if (!get_once(fields, http::field::authorization, authorization))
    return refuse(400, "authorization", "the request has two headers Authorization; expected one");
  if (!asked_.trusted) asked_.trusted = shared_.tokens.accept(authorization, asked_.tenant);
  if (!asked_.probe && !asked_.trusted)
    return refuse(401, "authorization", "expected a header Authorization: Bearer TOKEN with a token of the service");
  if (fields.version() != 11 && fields.version() != 10)
    return refuse(505, "", "the request's version is not served here; expected HTTP/1.1");
  if (!get_once(fields, http::field::host, host) || (fields.version() == 11 && !fields.count(http::field::host)))
    return refuse(400, "host", "the request has no header Host, or two; expected one");
  if (!get_once(fields, http::field::transfer_encoding, framing) ||
      (fields.count(http::field::transfer_encoding) && !beast::iequals(framing, "chunked")) ||
      (!framing.empty() && fields.version() == 10))
    return refuse(400, "transfer-encoding", "transfer-encoding is unknown; expected chunked, in HTTP/1.1, or none");
  if (!get_once(fields, http::field::content_length, length) || length.find(',') != length.npos)
    return refuse(400, "content-length", "the request has two lengths; expected one header Content-Length");
  if (!get_once(fields, http::field::expect, expect) || (!expect.empty() && !beast::iequals(expect, "100-continue")))
    return refuse(417, "expect", "expect is unknown; expected 100-continue or none");
  if (!get_once(fields, http::field::content_encoding, encoding) ||
      (!encoding.empty() && !beast::iequals(encoding, "identity")))
    return refuse(415, "content-encoding", "the body is encoded; expected it plain");
  if (!asked_.probe && no_room()) return refuse(503, "", "all connections are taken; ask again in a second");
  const auto most = static_cast<std::size_t>(asked_.probe ? 0 : shared_.settings.max_body_bytes);
  if (const auto bytes = parser_->content_length(); bytes && *bytes > most)
    return refuse(413, "body",
                  "body has " + std::to_string(*bytes) + " bytes; expected at most " + std::to_string(most));
  parser_->body_limit(most);
  request.method = asked_.method;
  request.path = asked_.target;
  request.content_type = fields[http::field::content_type];
  request.accept = fields[http::field::accept];
  request.request_id = asked_.request_id;
  return true;
}

asio::awaitable<bool> Connection::read_body() {
  if (parser_->is_done()) co_return true;
  if (beast::iequals(parser_->get()[http::field::expect], "100-continue") && buffer_.size() == 0) {
    const bool sent = co_await send("HTTP/1.1 100 Continue\r\n\r\n", "");
    if (!sent) co_return false;
  }
  enter(body);
  parser_->eager(true);
  for (;;) {
    if (buffer_.size() > 0) {
      boost::system::error_code error;
      buffer_.consume(parser_->put(buffer_.data(), error));
      if (error == http::error::body_limit)
        co_return refuse(
            413, "body",
            "body has too many bytes; expected at most " + std::to_string(shared_.settings.max_body_bytes));
      if (error && error != http::error::need_more)
        co_return refuse(400, "body", "the body's chunks are malformed: " + error.message());
      if (parser_->is_done()) co_return true;
      if (!begins_chunk(received())) co_return refuse(400, "body", "the body's chunks are malformed: bad chunk");
      if (buffer_.size() > max_line)
        co_return refuse(400, "body", "the line of a chunk, or the trailers, are too long");
    }
    if (!co_await fill(large_read))
      co_return ended_ ? refuse(400, "body", "the request ends within its body")
                       : refuse(408, "body", "the request's body did not arrive in time");
  }
}

Pool& Connection::pool() const {
  const std::string_view path = asked_.target.substr(0, asked_.target.find('?'));
  return path == "/v1/rank" || path == "/v1/explain" || path == "/v1/weights" ? shared_.pages : shared_.others;
}

// Whether the connection is one of the reserve, and is still needed there.
bool Connection::no_room() const { return reserve && (shared_.full() || shared_.full_of(client_, 0)); }

// Hands the request to a pool, and goes on when it is answered.
asio::awaitable<void> Connection::work() {
  enter(working);
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(
      [&](auto handler) {
        done_ = std::move(handler);
        batch.reset();
        if (pool().submit(*this)) return;
        response = Service::error(503, "", "too many requests are in progress; ask again in a second");
        finish();
      },
      asio::use_awaitable);
}

void Connection::finish() noexcept {
  asio::post(socket_.get_executor(), [this] {
    auto done = std::move(done_);
    done();
  });
}

// Sends `response`. False if that failed.
asio::awaitable<bool> Connection::answer(bool keep) {
  enter(writing);
  const auto arrival = read_at_;
  std::string head;
  head.reserve(384);
  char number[24];
  const auto append = [&](std::size_t value) {
    head.append(number, static_cast<std::size_t>(std::to_chars(number, number + sizeof number, value).ptr - number));
  };
  head += "HTTP/1.1 ";
  append(static_cast<std::size_t>(response.status));
  const auto reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(response.status)));
  head.append(" ").append(reason).append("\r\n").append(shared_.date);
  head.append("Content-Type: ").append(response.content_type).append("\r\nContent-Length: ");
  append(response.body.size());
  const std::string_view id = response.request_id.empty() ? asked_.request_id : response.request_id;
  if (!id.empty() && printable(id)) head.append("\r\nX-Request-Id: ").append(id);
  std::string span;
  if (const auto trace = trace_of(asked_.traceparent)) {
    const std::uint64_t next = shared_.next_span += 0x9e3779b97f4a7c15;  // distinct; never 0 twice in a row
    for (int shift = 60; shift >= 0; shift -= 4) span += "0123456789abcdef"[next >> shift & 15];
    head.append("\r\ntraceparent: 00-").append(trace->id).append("-").append(span).append("-").append(trace->flags);
  }
  if (response.status == 401) head += "\r\nWWW-Authenticate: Bearer, Basic realm=\"pygrade\"";
  if (response.status == 503 || response.status == 429) {
    head += "\r\nRetry-After: ";
    append(static_cast<std::size_t>(retry_after_));
  }
  if (!keep)
    head += "\r\nConnection: close";
  else if (parser_ && parser_->get().version() == 10)
    head += "\r\nConnection: keep-alive";
  head += "\r\n\r\n";
  const bool sent = co_await send(head, asked_.method == "HEAD" ? std::string_view() : response.body);
  if (shared_.log != nullptr && (shared_.settings.log == "all" || response.status >= 400)) write_line(arrival, span);
  if (response.body.size() > large_read) std::string().swap(response.body);
  co_return sent;
}

// Gives the client time to read the answer, while what it still sends is thrown away.
asio::awaitable<void> Connection::linger() {
  enter(closing);
  boost::system::error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  for (std::size_t discarded = 0; discarded < max_discarded; discarded += buffer_.size()) {
    buffer_.clear();
    if (ended_) break;
    if (!co_await fill(large_read)) break;
  }
}

void Connection::write_line(Clock::time_point arrival, std::string_view span) {
  JsonWriter out;
  out.begin_object().field("time", std::string_view(utc_now()));
  out.field("level", response.status >= 500 ? "error" : response.status >= 400 ? "warning" : "info");
  out.known_key("request_id");
  const std::string_view id = response.request_id.empty() ? asked_.request_id : response.request_id;
  id.empty() ? out.null() : out.value(id);
  if (const auto trace = trace_of(asked_.traceparent)) out.field("trace_id", trace->id).field("span_id", span);
  out.field("method", asked_.method).field("path", asked_.target);
  out.field("status", response.status);
  out.field("ms", std::chrono::duration<float, std::milli>(Clock::now() - arrival).count());
  out.field("bytes", response.body.size()).field("client", std::string_view(address_)).end_object();
  std::string line = out.take();
  line += '\n';
  shared_.log->write(line);
}
}  // namespace pygrade::inline v0_2::server
