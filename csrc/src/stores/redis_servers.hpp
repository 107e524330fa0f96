// The servers of a store: one, those of a cluster, or a master that sentinels watch over. Sends commands to the right
// ones.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "stores/redis_pool.hpp"

namespace pygrade::inline v0_2::detail {

// A Lua script; sent by its hash, and whole to a server that does not have it.
struct RedisScript {
  std::string_view text;
  std::string hash = {};  // "": not known
};

// Commands that go out together, and then their answers.
class RedisBatch {
 public:
  // Adds a command of the slot of its keys, which has so many answers, and returns where its words go.
  RedisCommands& add(int slot, std::size_t answers = 1);
  // The same of a script; its words begin after the number of keys.
  RedisCommands& add_script(int slot, const RedisScript& script, std::size_t keys, std::size_t arguments);

  std::size_t size() const { return commands_.size(); }
  RedisAnswer operator[](std::size_t i) const { return commands_[i].answer; }

 private:
  friend class RedisServers;
  struct Command {
    std::size_t start;  // of its bytes
    int slot;
    std::size_t answers;
    const RedisScript* script;
    std::size_t keys, arguments;
    bool whole;  // the script
    RedisAnswer answer;
  };

  std::string_view error(std::size_t i) const;  // the first one in the answers to a command

  std::vector<Command> commands_;
  RedisCommands text_;
  std::vector<RedisLease> leases_;  // they hold the answers
};

class RedisServers {
 public:
  enum class Access { read, write };

  RedisServers(const RedisAddress& address, std::chrono::milliseconds timeout);

  Limit limit(Deadline deadline) const;
  Limit long_limit() const;  // of work that no page waits for

  bool is_cluster(const Limit& end) { return !topology(end)->slots.empty(); }
  std::vector<std::shared_ptr<RedisPool>> masters(const Limit& end) { return topology(end)->masters; }

  // Sends the commands, to each server in one go, follows a cluster's redirections and a new master, and waits for all
  // answers. StoreError for an error among them. Only reads are repeated on a connection that turns out to be closed.
  void run(RedisBatch& batch, const Limit& end, Access access);
  // The same to one server.
  void run(RedisBatch& batch, const Limit& end, const std::shared_ptr<RedisPool>& server);

  // Whether the last call got its answers.
  bool reachable() const { return reachable_.load(std::memory_order_relaxed); }

 private:
  using Pool = std::shared_ptr<RedisPool>;
  struct Topology {
    std::vector<Pool> masters, replicas;
    std::vector<std::uint16_t> slots;  // the master of each slot; empty: there is one master
  };
  struct Target {  // where a command goes
    Pool pool;
    bool asking = false;  // its slot is on the way there
    bool operator==(const Target&) const = default;
  };
  struct Part {  // what one server gets
    Target target;
    std::vector<std::size_t> commands = {};
    RedisLease lease = {};
    std::size_t answers = 0;
    bool received = false;
  };

  std::shared_ptr<const Topology> topology(const Limit& end);
  std::shared_ptr<const Topology> discover(const Limit& end);
  std::shared_ptr<const Topology> ask_sentinel(const Pool& sentinel, const Limit& end);
  std::shared_ptr<const Topology> ask_server(const Pool& server, const Limit& end);
  Pool pool_of(const RedisNode& node, bool sentinel = false);
  Pool route(const Topology& map, int slot, Access access);
  void run(RedisBatch& batch, const Limit& end, Access access, const Pool& server);
  void exchange(RedisBatch& batch, std::vector<Part>& parts, const Limit& end, bool repeat);
  void send(RedisBatch& batch, Part& part, bool fresh, const Limit& end);
  void receive(RedisBatch& batch, Part& part, const Limit& end);
  void ask(RedisBatch& batch, const Pool& server, const Limit& end);
  std::vector<std::size_t> redirect(RedisBatch& batch, const std::vector<Part>& parts, std::vector<Target>& targets,
                                    const Topology& map, int round, const Limit& end);
  [[noreturn]] void refuse(std::string_view error) const;

  const RedisAddress address_;
  const std::chrono::milliseconds timeout_;
  std::shared_ptr<const TlsContext> tls_;
  std::vector<Pool> seeds_;
  std::atomic<bool> reachable_{true};
  std::atomic<bool> stale_{false};  // the topology may have changed
  std::atomic<unsigned> turn_{0};   // of the replicas

  std::mutex mutex_;
  std::map<std::string, Pool> pools_;  // by node
  std::shared_ptr<const Topology> topology_;
  Time look_at_{};  // not before, for another topology
  std::timed_mutex looking_;
};

}  // namespace pygrade::inline v0_2::detail
