#include "http.hpp"

#include <sys/resource.h>
#include <sys/socket.h>
#ifdef SO_ATTACH_FILTER
#include <linux/filter.h>
#endif

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <ctime>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>

#include "connection.hpp"

namespace pygrade::inline v0_2::server {
namespace {
using namespace std::chrono_literals;

constexpr int reserve_connections = 64;  // for probes, and for telling others that there is no room
constexpr int reserve_each = 8;          // of them, for one client
constexpr int other_threads = 2, most_others = 64;
constexpr auto tick = 100ms;
// The longest that a connection may stay in a phase; it is longer idle than the proxies in front keep it.
constexpr std::array<Clock::duration, phases> longest{
    75s, 10s, 30s, Clock::duration::max(), 30s, 1s, Clock::duration::max()};
// From when on a connection gives way to a new one, if all are taken.
constexpr std::pair<Phase, Clock::duration> givers[] = {
    {closing, 0s}, {idle, 0s}, {head, 1s}, {writing, 1s}, {body, 5s}};
constexpr auto longest_end = 30s, quiet_time = 1s;

void raise_file_limit(int wanted) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const auto needed = static_cast<rlim_t>(wanted);
  if (limit.rlim_cur >= needed) return;
  if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < needed)
    throw std::invalid_argument("connections needs " + std::to_string(needed) + " open files; this process may have " +
                                std::to_string(limit.rlim_max) + ": expected fewer connections, or a higher limit");
  limit.rlim_cur = needed;
  setrlimit(RLIMIT_NOFILE, &limit);
}
}  // namespace

struct HttpServer::Impl {
  Impl(Service& service, const Settings& given, const Tokens& tokens)
      : settings(given),
        pages(given.threads, given.max_requests,
              [&service](Job& job) { return service.handle_next(job.request, job.batch, job.response); }),
        others(other_threads, most_others, [this, &service](Job& job) -> std::optional<std::string_view> {
          const bool page = job.request.path == "/console" && job.request.method != "POST";
          job.response = page ? console() : service.handle(job.request);
          return {};
        }) {
    if (settings.log != "none") log.emplace();
    shared.emplace(service, settings, tokens, tenants, pages, others, log ? &*log : nullptr);
    shared->next_span = std::random_device{}() | 1u;
    raise_file_limit(settings.connections + reserve_connections + 256);
#ifdef PYGRADE_SERVER_TLS
    if (settings.tls_cert) certificates = read_certificates();
#else
    if (settings.tls_cert) throw std::invalid_argument("tls_cert is given; this pygraded was built without OpenSSL");
#endif
    service.set_gauges([this](std::vector<Gauge>& list) { read_gauges(list); });
  }

  Response console() const {
    std::ifstream file(*settings.console, std::ios::binary);
    if (!file)
      return Service::error(404, "console",
                            settings.console->filename().string() + " is not there; pygrade pipeline writes it");
    return {200, "text/html; charset=utf-8", std::string(std::istreambuf_iterator<char>(file), {}), {}};
  }

  void read_gauges(std::vector<Gauge>& list) const {
    const Counters& c = shared->counters;
    const Pool::Figures pool = pages.figures(), other = others.figures();
    const auto add = [&](std::string_view name, std::string_view help, auto value, std::string labels = {}) {
      list.push_back({name, help, static_cast<double>(value), std::move(labels)});
    };
    const auto add_limited = [&](const Tenants::Tenant& tenant, const char* limit, std::uint64_t count) {
      add("pygrade_tenant_limited_requests_total", "Requests answered with 429, by tenant and limit.", count,
          "{tenant=\"" + tenant.limits.name + "\",limit=\"" + limit + "\"}");
    };
    add("pygrade_connections", "Open connections.", c.connections.load());
    add("pygrade_requests_in_progress", "Requests that are answered now.", pool.running + other.running);
    add("pygrade_requests_waiting", "Requests that wait for a thread.", pool.waiting + other.waiting);
    add("pygrade_requests_limit", "Pages of the usual cost in progress, beyond which requests are answered with 503.",
        pool.limit);
    add("pygrade_shed_requests_total", "Requests answered with 503, since too many were in progress.",
        pool.shed + other.shed);
    add("pygrade_refused_connections_total", "Connections refused, since all were taken.", c.refused.load());
    add("pygrade_closed_idle_connections_total", "Connections that gave way to new ones.", c.closed_idle.load());
    add("pygrade_malformed_requests_total", "Requests that were no HTTP within the limits.", c.malformed.load());
    add("pygrade_received_bytes_total", "Bytes read from connections.", c.received.load());
    add("pygrade_sent_bytes_total", "Bytes written to connections.", c.sent.load());
    for (const auto& tenant : tenants.all())
      add("pygrade_tenant_requests_total", "Requests by tenant.", tenant.requests.load(),
          "{tenant=\"" + tenant.limits.name + "\"}");
    for (const auto& tenant : tenants.all()) {
      add_limited(tenant, "pages", tenant.over_pages);
      add_limited(tenant, "requests_per_second", tenant.over_rate);
    }
    for (const auto& tenant : tenants.all())
      add("pygrade_tenant_pages_in_progress", "Pages in progress by tenant.", tenant.in_progress.load(),
          "{tenant=\"" + tenant.limits.name + "\"}");
  }

#ifdef PYGRADE_SERVER_TLS
  std::shared_ptr<asio::ssl::context> read_certificates() const {
    auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
    SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
    boost::system::error_code error;
    context->use_certificate_chain_file(settings.tls_cert->string(), error);
    if (error) throw std::invalid_argument("tls_cert " + settings.tls_cert->string() + ": " + error.message());
    context->use_private_key_file(settings.tls_key->string(), asio::ssl::context::pem, error);
    if (error) throw std::invalid_argument("tls_key " + settings.tls_key->string() + ": " + error.message());
    return context;
  }
#endif

  int bind() {
    try {
      tcp::resolver resolver(loop);
      const tcp::endpoint address = *resolver.resolve(settings.host, std::to_string(settings.port)).begin();
      acceptor.open(address.protocol());
      acceptor.set_option(tcp::acceptor::reuse_address(true));
      acceptor.bind(address);
      acceptor.listen(1024);
      return acceptor.local_endpoint().port();
    } catch (const boost::system::system_error& error) {
      throw std::runtime_error(settings.host + ":" + std::to_string(settings.port) + " can't be bound (" +
                               error.code().message() + "); expected an address and a free port of this machine");
    }
  }

  // Ends the connection, of one client or of all, that has done nothing for the longest time. False if all are busy.
  bool make_room(bool even_if_young, const std::optional<asio::ip::address>& client = {}) {
    for (const auto& [phase, age] : givers)
      for (Connection* connection : shared->in[phase]) {
        if (!even_if_young && Clock::now() - connection->since() < age) break;
        if (client && connection->client() != *client) continue;
        if (phase == idle && !connection->quiet()) continue;  // its request has just arrived
        connection->expire();
        ++shared->counters.closed_idle;
        return true;
      }
    return false;
  }

  void admit(tcp::socket socket) {
    const std::size_t open = shared->counters.connections.load() - shared->in[leaving].size();
    const auto most = static_cast<std::size_t>(settings.connections);
    boost::system::error_code error;
    const auto peer = socket.remote_endpoint(error);
    const asio::ip::address address = plain_address(peer.address()), client = client_of(address);
    const bool own = !shared->full_of(client, 1) || make_room(false, client);
    const bool room = own && (open < most || make_room(false));
    if ((!own && shared->full_of(client, 1 - reserve_each)) ||
        (!room && open >= most + reserve_connections && !make_room(true))) {
      ++shared->counters.refused;
      return;
    }
    auto connection = std::make_unique<Connection>(*shared, std::move(socket), address.to_string(), client);
    connection->reserve = !room;
#ifdef PYGRADE_SERVER_TLS
    if (certificates) connection->use_tls(*certificates);
#endif
    asio::co_spawn(loop, Connection::run(std::move(connection)), asio::detached);
  }

  asio::awaitable<void> accept() {
    for (;;) {
      auto [error, socket] = co_await acceptor.async_accept(wait);
      if (!error) admit(std::move(socket));  // also one that was accepted while the end began
      if (!acceptor.is_open()) co_return;
      if (error && error != asio::error::connection_aborted) {  // no more file descriptors
        make_room(true);
        asio::steady_timer pause(loop, 10ms);
        co_await pause.async_wait(wait);
      }
    }
  }

  // Deadlines are kept by looking ten times a second, which costs a request nothing.
  asio::awaitable<void> sweep() {
    asio::steady_timer timer(loop);
    for (;;) {
      write_date();
      const auto now = Clock::now();
      for (std::size_t phase = 0; phase < phases; ++phase) {
        auto& list = shared->in[phase];
        while (longest[phase] != Clock::duration::max() && !list.empty() &&
               now - list.front()->since() > longest[phase])
          list.front()->expire();
      }
      if (stopping && finish_stopping(now)) co_return;
      timer.expires_after(tick);
      co_await timer.async_wait(wait);
    }
  }

  // Whether nothing is left to answer.
  bool finish_stopping(Clock::time_point now) {
    if (now - stop_time < tick) return false;
    boost::system::error_code error;
    acceptor.close(error);
    auto& waiting = shared->in[idle];
    for (auto place = waiting.begin(); place != waiting.end();) {
      Connection* connection = *place++;
      // One that is new is about to ask.
      if (connection->quiet() && now - connection->since() > quiet_time) connection->expire();
    }
    const auto& in = shared->in;
    const bool done = in[idle].empty() && in[head].empty() && in[body].empty() && in[working].empty() &&
                      in[writing].empty() && in[closing].empty();
    if (!done && now - stop_time < longest_end) return false;
    loop.stop();
    return true;
  }

  void write_date() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    char text[64];
    shared->date.assign(text, std::strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts));
  }

  void stop() {
    stopping = true;
    stop_time = Clock::now();
#ifdef SO_ATTACH_FILTER
    // New handshakes are ignored, those that have begun are completed and accepted, so that no client is reset.
    sock_filter no_syn[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),  // the flags of TCP
                            BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
                            BPF_STMT(BPF_RET | BPF_K, 0xffffffff)};
    const sock_fprog filter{4, no_syn};
    setsockopt(acceptor.native_handle(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
#endif
  }

  const Settings& settings;
  std::optional<AccessLog> log;
  Tenants tenants{settings.tenants};
  Pool pages, others;
  std::optional<Shared> shared;
  bool stopping = false;  // used by the loop alone, as all below
  Clock::time_point stop_time{};
#ifdef PYGRADE_SERVER_TLS
  std::shared_ptr<asio::ssl::context> certificates;
#endif
  asio::io_context loop{1};
  tcp::acceptor acceptor{loop};
};

HttpServer::HttpServer(Service& service, const Settings& settings, const Tokens& tokens)
    : impl_(std::make_unique<Impl>(service, settings, tokens)) {}

HttpServer::~HttpServer() {
  impl_->shared->service.set_gauges({});
  impl_->pages.stop();
  impl_->others.stop();
}

int HttpServer::bind() { return impl_->bind(); }

void HttpServer::serve() {
  asio::co_spawn(impl_->loop, impl_->accept(), asio::detached);
  asio::co_spawn(impl_->loop, impl_->sweep(), asio::detached);
  impl_->loop.run();
}

void HttpServer::drain() { impl_->shared->draining = true; }
void HttpServer::stop() {
  asio::post(impl_->loop, [impl = impl_.get()] { impl->stop(); });
}

void HttpServer::reload_certificates() {
#ifdef PYGRADE_SERVER_TLS
  if (!impl_->settings.tls_cert) return;
  asio::post(impl_->loop, [impl = impl_.get(), fresh = impl_->read_certificates()] { impl->certificates = fresh; });
#endif
}
}  // namespace pygrade::inline v0_2::server
