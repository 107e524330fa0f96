// Open-loop load on the service: requests at a fixed rate, whatever the answers take, over keep-alive connections.
//
//     service_load HOST PORT RATE CONNECTIONS SECONDS REQUESTS
//
// RATE requests a second; 0: each connection asks again as soon as it is answered. REQUESTS has a body a line, sent in
// turn to /v1/rank. Latencies count from the moment at which a request was due, so a server that stalls pays for all
// the requests that waited (no coordinated omission). `unsent` were due and had no free connection when the time was
// over: a server that keeps up has none. Prints JSON.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {
using Clock = std::chrono::steady_clock;
using Micros = std::vector<std::uint32_t>;

// What a connection, and at last all of them, saw.
struct Tally {
  std::size_t lost = 0, degraded = 0, retried = 0;
  std::map<int, Micros> statuses;

  void add(const Tally& other) {
    lost += other.lost, degraded += other.degraded, retried += other.retried;
    for (const auto& [status, micros] : other.statuses)
      statuses[status].insert(statuses[status].end(), micros.begin(), micros.end());
  }
};

class Connection {
 public:
  explicit Connection(const sockaddr_in& address) : address_(address) {}
  ~Connection() { close(); }
  Connection(const Connection&) = delete;

  // The whole answer; "" if there is none. As clients do: a connection that was kept may be closed when a request
  // comes, which is then sent on another one.
  std::string ask(const std::string& request, Tally& tally) {
    const bool kept = fd_ >= 0;
    std::string answer = exchange(request);
    if (answer.empty() && kept) {
      ++tally.retried;
      answer = exchange(request);
    }
    return answer;
  }

 private:
  std::string exchange(const std::string& request) {
    if (fd_ < 0) open();
    std::string answer;
    char buffer[1 << 16];
    if (::send(fd_, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()))
      for (std::size_t size = 0; size == 0 || answer.size() < size; size = size_of(answer)) {
        const ssize_t count = ::recv(fd_, buffer, sizeof buffer, 0);
        if (count <= 0) {
          answer.clear();
          break;
        }
        answer.append(buffer, static_cast<std::size_t>(count));
      }
    if (answer.empty() || answer.find("onnection: close\r\n") != std::string::npos) close();
    return answer;
  }

  // Bytes of head and body; 0 as long as the head is not there.
  static std::size_t size_of(const std::string& answer) {
    const std::size_t head = answer.find("\r\n\r\n"), length = answer.find("ontent-Length:");
    if (head == std::string::npos) return 0;
    return head + 4 + (length < head ? std::strtoul(answer.c_str() + length + 14, nullptr, 10) : 0);
  }

  void open() {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    const int one = 1;
    const timeval patience{.tv_sec = 30, .tv_usec = 0};  // what has no answer by then is lost
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connect(fd_, reinterpret_cast<const sockaddr*>(&address_), sizeof address_);
  }

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  const sockaddr_in& address_;
  int fd_ = -1;
};

std::vector<std::string> requests_of(const char* path, const std::string& host) {
  std::ifstream file(path);
  std::vector<std::string> requests;
  for (std::string body; std::getline(file, body);)
    requests.push_back("POST /v1/rank HTTP/1.1\r\nHost: " + host +
                       "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                       "\r\n\r\n" + body);
  if (requests.empty()) throw std::runtime_error(std::string(path) + " is empty or can't be read");
  return requests;
}

double quantile(const Micros& micros, double q) {
  return micros.empty() ? 0.0 : 1e-3 * micros[static_cast<std::size_t>(q * static_cast<double>(micros.size() - 1))];
}

void run(char** words) {
  const double rate = std::atof(words[3]);
  const std::chrono::duration<double> seconds(std::atof(words[5]));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(words[2])));
  if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1) throw std::runtime_error("HOST is no IPv4 address");
  const auto requests = requests_of(words[6], words[1]);
  const auto start = Clock::now(), end = start + std::chrono::duration_cast<Clock::duration>(seconds);
  const auto due_at = [&](std::size_t number) {  // in a closed loop at once
    if (rate == 0.0) return Clock::now();
    return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(double(number) / rate));
  };
  std::atomic<std::size_t> next{0};
  std::vector<Tally> tallies(std::strtoul(words[4], nullptr, 10));
  std::vector<std::thread> threads;
  for (Tally& tally : tallies)
    threads.emplace_back([&] {
      Connection connection(address);
      for (;;) {
        const std::size_t number = next++;
        const auto due = due_at(number);
        std::this_thread::sleep_until(std::min(due, end));
        if (Clock::now() >= end) break;
        const std::string answer = connection.ask(requests[number % requests.size()], tally);
        const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - due).count();
        tally.lost += answer.empty();
        tally.degraded += answer.find("\"degraded\":\"") != std::string::npos;
        if (!answer.empty()) tally.statuses[std::atoi(answer.c_str() + 9)].push_back(std::uint32_t(micros));
      }
    });
  for (std::thread& thread : threads) thread.join();
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  Tally all;
  for (const Tally& tally : tallies) all.add(tally);
  Micros every;
  for (auto& [status, micros] : all.statuses) {
    std::ranges::sort(micros);
    every.insert(every.end(), micros.begin(), micros.end());
  }
  std::ranges::sort(every);
  const std::size_t sent = every.size() + all.lost, due = static_cast<std::size_t>(rate * seconds.count());
  std::printf("{\"sent\": %zu, \"answered\": %zu, \"unsent\": %zu, ", sent, every.size(), due > sent ? due - sent : 0);
  std::printf("\"lost\": %zu, \"degraded\": %zu, \"retried\": %zu, ", all.lost, all.degraded, all.retried);
  std::printf("\"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"statuses\": {",
              static_cast<double>(every.size()) / elapsed, quantile(every, 0.5), quantile(every, 0.99),
              quantile(every, 1.0));
  const char* comma = "";
  for (const auto& [status, micros] : all.statuses) {
    std::printf("%s\"%d\": {\"count\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f}", comma, status, micros.size(),
                quantile(micros, 0.5), quantile(micros, 0.99));
    comma = ", ";
  }
  std::printf("}}\n");
}
}  // namespace

int main(int count, char** words) {
  if (count != 7) {
    std::fputs("usage: service_load HOST PORT RATE CONNECTIONS SECONDS REQUESTS\n", stderr);
    return 2;
  }
  try {
    run(words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "service_load: %s\n", error.what());
    return 1;
  }
}
