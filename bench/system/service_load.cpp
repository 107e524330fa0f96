// Open-loop load on the service: requests at a fixed rate, whatever the answers take, over keep-alive connections.
//
//     service_load HOST PORT RATE CONNECTIONS SECONDS REQUESTS
//
// RATE requests a second; 0: each connection asks again as soon as it is answered. REQUESTS has a body a line, sent in
// turn to /v1/rank. Latencies count from the moment at which a request was due, so a server that stalls pays for all
// the requests that waited (no coordinated omission). `unsent` were due and had no free connection when the time was
// over: a server that keeps up has none. Prints JSON.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Job {
  std::size_t number = 0;
  Clock::time_point due;
  int tries = 0;
};

struct Connection {
  int fd = -1;
  bool busy = false, used = false;
  Job job;
  std::string out, in;
  std::size_t sent = 0;
};

class Load {
 public:
  explicit Load(char** words)
      : rate_(std::atof(words[3])), seconds_(std::atof(words[5])), connections_(std::strtoul(words[4], nullptr, 10)) {
    address_.sin_family = AF_INET;
    address_.sin_port = htons(static_cast<std::uint16_t>(std::atoi(words[2])));
    if (inet_pton(AF_INET, words[1], &address_.sin_addr) != 1) throw std::runtime_error("HOST is no IPv4 address");
    host_ = words[1];
    bodies_ = lines_of(words[6]);
    if (bodies_.empty()) throw std::runtime_error("REQUESTS is empty");
    epoll_ = epoll_create1(0);
  }

  void run() {
    start_ = Clock::now();
    const auto end = start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds_));
    std::vector<epoll_event> events(256);
    for (;;) {
      const auto now = Clock::now();
      if (now < end) {
        schedule(now);
      } else {
        unsent_ += waiting_.size();
        waiting_.clear();
      }
      assign();
      const bool idle = std::ranges::none_of(connections_, &Connection::busy) && waiting_.empty();
      if (now >= end && idle) break;
      if (now >= end + std::chrono::seconds(30)) break;  // what has no answer by now is lost
      const int found = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), timeout(now, end));
      for (int i = 0; i < found; ++i) on_event(connections_[events[static_cast<std::size_t>(i)].data.u64]);
    }
    for (const Connection& connection : connections_) lost_ += connection.busy;
    elapsed_ = std::chrono::duration<double>(Clock::now() - start_).count();
  }

  void print() {
    std::ranges::sort(micros_);
    const auto quantile = [&](double q) { return quantile_of(micros_, q); };
    std::printf(
        "{\"sent\": %zu, \"answered\": %zu, \"unsent\": %zu, \"lost\": %zu, \"degraded\": %zu, \"retried\": %zu, ",
        started_ - unsent_, micros_.size(), unsent_, lost_, degraded_, retried_);
    std::printf("\"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"statuses\": {",
                static_cast<double>(micros_.size()) / elapsed_, quantile(0.5), quantile(0.99), quantile(1.0));
    const char* comma = "";
    for (auto& [name, micros] : statuses_) {
      std::ranges::sort(micros);
      std::printf("%s\"%d\": {\"count\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f}", comma, name, micros.size(),
                  quantile_of(micros, 0.5), quantile_of(micros, 0.99));
      comma = ", ";
    }
    std::printf("}}\n");
  }

 private:
  static double quantile_of(const std::vector<std::uint32_t>& micros, double q) {
    if (micros.empty()) return 0.0;
    return 1e-3 * micros[static_cast<std::size_t>(q * static_cast<double>(micros.size() - 1))];
  }

  static std::vector<std::string> lines_of(const char* path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error(std::string(path) + " can't be read");
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }

  void schedule(Clock::time_point now) {
    if (rate_ == 0.0) {
      for (std::size_t free = free_count(); waiting_.size() < free;) waiting_.push_back({started_++, now});
      return;
    }
    for (;;) {
      const auto due = start_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(static_cast<double>(started_) / rate_));
      if (due > now) break;
      waiting_.push_back({started_++, due});
    }
  }

  std::size_t free_count() const {
    return static_cast<std::size_t>(std::ranges::count(connections_, false, &Connection::busy));
  }

  int timeout(Clock::time_point now, Clock::time_point end) const {
    if (now >= end || rate_ == 0.0) return 10;
    const auto due = start_ + std::chrono::duration<double>(static_cast<double>(started_) / rate_);
    const double ms = std::chrono::duration<double, std::milli>(due - now).count();
    return ms <= 0.0 ? 0 : std::min(10, static_cast<int>(ms) + (ms > 0.3 ? 1 : 0));
  }

  void assign() {
    for (std::size_t i = 0; i < connections_.size() && !waiting_.empty(); ++i) {
      Connection& connection = connections_[i];
      if (connection.busy) continue;
      connection.job = waiting_.front();
      waiting_.pop_front();
      begin(connection);
    }
  }

  void begin(Connection& connection) {
    connection.busy = true;
    if (connection.fd < 0) open(connection);
    const std::string& body = bodies_[connection.job.number % bodies_.size()];
    connection.out = "POST /v1/rank HTTP/1.1\r\nHost: " + host_ +
                     "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                     "\r\n\r\n" + body;
    connection.sent = 0;
    connection.in.clear();
    write(connection);
  }

  void open(Connection& connection) {
    connection.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int one = 1;
    setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connect(connection.fd, reinterpret_cast<const sockaddr*>(&address_), sizeof address_);
    connection.used = false;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP;
    event.data.u64 = static_cast<std::uint64_t>(&connection - connections_.data());
    epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.fd, &event);
  }

  void on_event(Connection& connection) {
    if (connection.fd < 0) return;
    if (connection.busy) write(connection);
    if (connection.fd >= 0) read(connection);
  }

  void write(Connection& connection) {
    while (connection.sent < connection.out.size()) {
      const ssize_t count = ::send(connection.fd, connection.out.data() + connection.sent,
                                   connection.out.size() - connection.sent, MSG_NOSIGNAL);
      if (count < 0) {
        if (errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS) return;
        fail(connection);
        return;
      }
      connection.sent += static_cast<std::size_t>(count);
    }
  }

  void read(Connection& connection) {
    char buffer[1 << 16];
    for (;;) {
      const ssize_t count = ::recv(connection.fd, buffer, sizeof buffer, 0);
      if (count > 0) {
        connection.in.append(buffer, static_cast<std::size_t>(count));
        continue;
      }
      if (count < 0 && (errno == EAGAIN || errno == ENOTCONN || errno == EINPROGRESS)) break;
      if (connection.busy && complete(connection)) return;
      fail(connection);
      return;
    }
    if (connection.busy) complete(connection);
  }

  // Whether the whole answer is there.
  bool complete(Connection& connection) {
    const std::size_t head = connection.in.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    std::string headers = connection.in.substr(0, head);
    std::ranges::transform(headers, headers.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    const std::size_t at = headers.find("content-length:");
    const std::size_t size = at == std::string::npos ? 0 : std::strtoul(headers.c_str() + at + 15, nullptr, 10);
    if (connection.in.size() < head + 4 + size) return false;
    judge(connection, std::string_view(connection.in).substr(head + 4, size));
    connection.busy = false;
    connection.used = true;
    if (headers.find("connection: close") != std::string::npos) close(connection);
    return true;
  }

  void judge(const Connection& connection, std::string_view body) {
    micros_.push_back(static_cast<std::uint32_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - connection.job.due).count()));
    statuses_[std::atoi(connection.in.c_str() + 9)].push_back(micros_.back());
    degraded_ += body.find("\"degraded\":\"") != body.npos;
  }

  // As clients do: a connection that was kept may be closed when a request comes, which is then sent on another one.
  void fail(Connection& connection) {
    const bool again = connection.busy && connection.job.tries == 0 && connection.in.empty() && connection.used;
    const bool was_busy = connection.busy;
    connection.busy = false;
    close(connection);
    if (!was_busy) return;
    if (!again) {
      ++lost_;
      return;
    }
    ++retried_;
    ++connection.job.tries;
    waiting_.push_front(connection.job);
  }

  void close(Connection& connection) {
    ::close(connection.fd);
    connection.fd = -1;
  }

  const double rate_, seconds_;
  sockaddr_in address_{};
  std::string host_;
  std::vector<std::string> bodies_;
  std::vector<Connection> connections_;
  std::deque<Job> waiting_;
  int epoll_ = -1;
  Clock::time_point start_;
  double elapsed_ = 0.0;
  std::size_t started_ = 0, unsent_ = 0, lost_ = 0, degraded_ = 0, retried_ = 0;
  std::vector<std::uint32_t> micros_;
  std::map<int, std::vector<std::uint32_t>> statuses_;
};

}  // namespace

int main(int count, char** words) {
  if (count != 7) {
    std::fputs("usage: service_load HOST PORT RATE CONNECTIONS SECONDS REQUESTS\n", stderr);
    return 2;
  }
  try {
    Load load(words);
    load.run();
    load.print();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "service_load: %s\n", error.what());
    return 1;
  }
}
