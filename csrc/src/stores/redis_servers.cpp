#include "stores/redis_servers.hpp"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <thread>

namespace pygrade::inline v0_2::detail {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds long_timeout{2000};
constexpr milliseconds look_pause{100};      // between two looks at a topology that may have changed
constexpr milliseconds sentinel_life{5000};  // of what a sentinel said: a demoted master answers reads, too
constexpr milliseconds wait_pause{10};       // before commands that a server may take a little later
constexpr int max_redirections = 5;
constexpr std::uint16_t nobody = 0xffff;

std::string_view word_of(std::string_view text, int i) {
  for (; i > 0; --i) text.remove_prefix(std::min(text.find(' '), text.size() - 1) + 1);
  return text.substr(0, text.find(' '));
}

// "host:port", with the host of `asked` if there is none.
RedisNode node_of(std::string_view host, std::string_view port, const RedisNode& asked) {
  RedisNode node{std::string(host.empty() || host == "?" ? asked.host : host), 0};
  std::from_chars(port.data(), port.data() + port.size(), node.port);
  return node;
}

}  // namespace

// --- a batch

RedisCommands& RedisBatch::add(int slot, std::size_t answers) {
  commands_.push_back({text_.bytes().size(), slot, answers, nullptr, 0, 0, false, {}});
  return text_;
}

RedisCommands& RedisBatch::add_script(int slot, const RedisScript& script, std::size_t keys, std::size_t arguments) {
  commands_.push_back({text_.bytes().size(), slot, 1, &script, keys, arguments, script.hash.empty(), {}});
  return text_;
}

std::string_view RedisBatch::error(std::size_t i) const {
  RedisAnswer answer = commands_[i].answer;
  const std::size_t end = [&] {
    RedisAnswer last = answer;
    for (std::size_t n = commands_[i].answers; n > 0; --n) last = last.next();
    return last.at;
  }();
  for (; answer.at < end; ++answer.at)
    if (answer.kind() == RedisReplies::Kind::error) return answer.text();
  return {};
}

// --- the servers

RedisServers::RedisServers(const RedisAddress& address, milliseconds timeout) : address_(address), timeout_(timeout) {
  if (address.tls) tls_ = std::make_shared<const TlsContext>(*address.tls, address.url);
  for (const auto& node : address.nodes) seeds_.push_back(pool_of(node, !address.master.empty()));
}

Limit RedisServers::limit(Deadline deadline) const {
  const Time at = Clock::now() + timeout_;
  return deadline && *deadline < at ? Limit{*deadline, true} : Limit{at, false};
}

Limit RedisServers::long_limit() const { return {Clock::now() + std::max(timeout_, long_timeout), false}; }

RedisServers::Pool RedisServers::pool_of(const RedisNode& node, bool sentinel) {
  const std::lock_guard lock(mutex_);
  Pool& pool = pools_[node.text()];
  if (pool == nullptr) {
    RedisLogin login{node, address_.user, address_.password, address_.database, tls_};
    if (sentinel) login = {node, "", "", 0, tls_};  // they have logins of their own
    pool = std::make_shared<RedisPool>(std::move(login), address_.url);
  }
  return pool;
}

// --- which servers there are

std::shared_ptr<const RedisServers::Topology> RedisServers::topology(const Limit& end) {
  const auto known = [&]() -> std::shared_ptr<const Topology> {
    const std::lock_guard lock(mutex_);
    const bool old = stale_ || (!address_.master.empty() && Clock::now() >= look_at_ + sentinel_life);
    return topology_ != nullptr && !(old && Clock::now() >= look_at_) ? topology_ : nullptr;
  };
  if (auto map = known()) return map;
  std::unique_lock looking(looking_, std::defer_lock);
  if (!looking.try_lock()) {  // another thread looks
    const std::lock_guard lock(mutex_);
    if (topology_ != nullptr) return topology_;
  }
  if (!looking.owns_lock() && !looking.try_lock_until(end.at)) {
    if (end.of_the_caller) throw StoreTimeout(address_.url + " has not answered before the deadline");
    throw StoreUnreachableError(address_.url + " does not answer in time");
  }
  if (auto map = known()) return map;
  std::shared_ptr<const Topology> map;
  std::exception_ptr fault;
  try {
    map = discover(end);
  } catch (const StoreError&) {
    fault = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  look_at_ = Clock::now() + look_pause;
  if (map != nullptr) {
    topology_ = map;
    stale_ = false;
    std::erase_if(pools_, [](const auto& entry) { return entry.second.use_count() == 1; });
  } else if (topology_ == nullptr) {
    std::rethrow_exception(fault);
  }
  return topology_;
}

std::shared_ptr<const RedisServers::Topology> RedisServers::discover(const Limit& end) {
  const bool sentinel = !address_.master.empty();
  std::vector<Pool> asked;
  {
    const std::lock_guard lock(mutex_);
    if (!sentinel && topology_ != nullptr) asked = topology_->masters;
  }
  for (const auto& seed : seeds_)
    if (std::ranges::find(asked, seed) == asked.end()) asked.push_back(seed);
  std::ranges::stable_partition(asked, [](const Pool& pool) { return !pool->failing(); });
  for (std::size_t i = 0;; ++i) try {
      Limit part = end;  // what the first one leaves is for the others
      if (i + 1 < asked.size()) part.at = Clock::now() + (end.at - Clock::now()) / 2;
      return sentinel ? ask_sentinel(asked[i], part) : ask_server(asked[i], part);
    } catch (const StoreUnreachableError&) {
      if (i + 1 == asked.size()) throw;
    }
}

std::shared_ptr<const RedisServers::Topology> RedisServers::ask_sentinel(const Pool& sentinel, const Limit& end) {
  RedisBatch batch;
  batch.add(-1).command({"SENTINEL", "GET-MASTER-ADDR-BY-NAME", address_.master});
  batch.add(-1).command({"SENTINEL", "REPLICAS", address_.master});
  ask(batch, sentinel, end);
  if (batch[0].size() != 2)
    throw StoreUnreachableError(address_.url + ": the sentinel at " + sentinel->node().text() + " knows no master '" +
                                address_.master + "'");
  const auto host = batch[0].first();
  auto map = std::make_shared<Topology>();
  map->masters.push_back(pool_of(node_of(host.text(), host.next().text(), sentinel->node())));
  RedisAnswer replica = batch[1].first();
  for (std::size_t i = 0; i < batch[1].size(); ++i, replica = replica.next()) {
    std::map<std::string_view, std::string_view> fields;
    RedisAnswer field = replica.first();
    for (std::size_t n = 0; n < replica.size(); n += 2, field = field.next().next())
      fields[field.text()] = field.next().text();
    if (fields["flags"] == "slave" && fields["master-link-status"] == "ok")
      map->replicas.push_back(pool_of(node_of(fields["ip"], fields["port"], sentinel->node())));
  }
  RedisBatch role;  // a sentinel may be late
  role.add(-1).command({"ROLE"});
  ask(role, map->masters[0], end);
  if (role[0].size() == 0 || role[0].first().text() != "master")
    throw StoreUnreachableError(address_.url + ": " + map->masters[0]->node().text() + ", which the sentinel at " +
                                sentinel->node().text() + " names, is no master");
  return map;
}

std::shared_ptr<const RedisServers::Topology> RedisServers::ask_server(const Pool& server, const Limit& end) {
  RedisBatch batch;
  batch.add(-1).command({"CLUSTER", "SLOTS"});
  ask(batch, server, end);
  auto map = std::make_shared<Topology>();
  if (batch[0].kind() != RedisReplies::Kind::array) {  // an error: no cluster
    if (address_.nodes.size() > 1 || address_.read_replicas)
      throw StoreError(address_.url + ": " + server->node().text() + " belongs to no cluster; want one host, or " +
                       "redis+sentinel://");
    map->masters.push_back(server);
    return map;
  }
  if (address_.read_replicas)
    throw StoreError(address_.url + " is a cluster: read=replica could read a version of which a replica lacks " +
                     "records; want read=master");
  map->slots.assign(slot_count, nobody);
  RedisAnswer range = batch[0].first();
  for (std::size_t i = 0; i < batch[0].size(); ++i, range = range.next()) {  // [first, last, [host, port, …], …]
    const auto first = range.first(), last = first.next(), node = last.next();
    if (node.size() < 2) continue;
    const auto port = std::to_string(node.first().next().integer());
    const Pool master = pool_of(node_of(node.first().text(), port, server->node()));
    const auto place = std::ranges::find(map->masters, master) - map->masters.begin();
    if (place == std::ssize(map->masters)) map->masters.push_back(master);
    for (auto slot = first.integer(); slot <= last.integer() && 0 <= slot && slot < slot_count; ++slot)
      map->slots[static_cast<std::size_t>(slot)] = static_cast<std::uint16_t>(place);
  }
  if (map->masters.empty()) throw StoreUnreachableError(address_.url + ": the cluster has no slots");
  return map;
}

// --- commands

RedisServers::Pool RedisServers::route(const Topology& map, int slot, Access access) {
  if (map.slots.empty()) {
    const std::size_t count = address_.read_replicas && access == Access::read ? map.replicas.size() : 0;
    const std::size_t turn = count > 0 ? turn_++ : 0;
    for (std::size_t i = 0; i < count; ++i)
      if (const auto& replica = map.replicas[(turn + i) % count]; !replica->failing()) return replica;
    return map.masters[0];
  }
  const std::uint16_t master = map.slots[static_cast<std::size_t>(slot)];
  return map.masters[master == nobody ? 0 : master];  // which says that the slot is nobody's
}

void RedisServers::run(RedisBatch& batch, const Limit& end, Access access) { run(batch, end, access, nullptr); }

void RedisServers::run(RedisBatch& batch, const Limit& end, const Pool& server) {
  run(batch, end, Access::read, server);
}

void RedisServers::run(RedisBatch& batch, const Limit& end, Access access, const Pool& server) {
  std::vector<std::size_t> pending(batch.size());
  std::iota(pending.begin(), pending.end(), 0);
  std::vector<Target> targets(batch.size(), Target{server});  // null: by the slot
  try {
    for (int round = 0; !pending.empty(); ++round) {
      const auto map = topology(end);
      std::vector<Part> parts;
      for (const std::size_t i : pending) {
        const Target target =
            targets[i].pool != nullptr ? targets[i] : Target{route(*map, batch.commands_[i].slot, access)};
        auto part = std::ranges::find(parts, target, &Part::target);
        if (part == parts.end()) part = parts.insert(parts.end(), Part{target});
        part->commands.push_back(i);
      }
      exchange(batch, parts, end, access == Access::read);
      pending = redirect(batch, parts, targets, *map, round, end);
      for (Part& part : parts) batch.leases_.push_back(std::move(part.lease));
    }
  } catch (const StoreUnreachableError&) {
    stale_ = true;
    reachable_.store(false, std::memory_order_relaxed);
    throw;
  }
  reachable_.store(true, std::memory_order_relaxed);
}

// Asks a server of which the topology is not known yet.
void RedisServers::ask(RedisBatch& batch, const Pool& server, const Limit& end) {
  std::vector<Part> parts(1);
  parts[0].target.pool = server;
  for (std::size_t i = 0; i < batch.size(); ++i) parts[0].commands.push_back(i);
  exchange(batch, parts, end, true);
  batch.leases_.push_back(std::move(parts[0].lease));
}

// Sends to all servers, then waits for all. `repeat`: once more if a server has closed an idle connection.
void RedisServers::exchange(RedisBatch& batch, std::vector<Part>& parts, const Limit& end, bool repeat) {
  const auto attempt = [&](Part& part, auto act) {
    try {
      act();
    } catch (const ConnectionError& error) {
      const bool closed = dynamic_cast<const ConnectionTimeout*>(&error) == nullptr;
      if (!closed || !part.lease.idle || !repeat) part.target.pool->fail(part.lease, error, end);
      try {
        send(batch, part, true, end);
        receive(batch, part, end);
      } catch (const ConnectionError& again) {
        part.target.pool->fail(part.lease, again, end);
      }
    }
  };
  for (Part& part : parts) attempt(part, [&] { send(batch, part, false, end); });
  for (Part& part : parts)
    if (!part.received) attempt(part, [&] { receive(batch, part, end); });
}

void RedisServers::send(RedisBatch& batch, Part& part, bool fresh, const Limit& end) {
  part.lease = part.target.pool->open(end, fresh);
  part.answers = 0;
  RedisCommands& out = part.lease->commands;
  const std::string_view bytes = batch.text_.bytes();
  for (const std::size_t i : part.commands) {
    const auto& command = batch.commands_[i];
    const std::size_t stop = i + 1 < batch.size() ? batch.commands_[i + 1].start : bytes.size();
    if (part.target.asking) out.command({"ASKING"});
    if (command.script != nullptr) {
      out.head(3 + command.keys + command.arguments);
      out.word(command.whole ? "EVAL" : "EVALSHA");
      out.word(command.whole ? command.script->text : std::string_view(command.script->hash));
      out.word(static_cast<std::int64_t>(command.keys));
    }
    out.append(bytes.substr(command.start, stop - command.start));
    part.answers += command.answers + (part.target.asking ? 1 : 0);
  }
  part.lease->send(end.at);
}

void RedisServers::receive(RedisBatch& batch, Part& part, const Limit& end) {
  part.lease->receive(part.answers, end.at);
  part.lease.answered();
  part.received = true;
  RedisAnswer answer{&part.lease->replies, 0};
  for (const std::size_t i : part.commands) {
    auto& command = batch.commands_[i];
    if (part.target.asking) answer = answer.next();
    command.answer = answer;
    for (std::size_t n = 0; n < command.answers; ++n) answer = answer.next();
  }
}

// The commands that must be sent again: they were not done. Sets where they go.
std::vector<std::size_t> RedisServers::redirect(RedisBatch& batch, const std::vector<Part>& parts,
                                                std::vector<Target>& targets, const Topology& map, int round,
                                                const Limit& end) {
  std::vector<std::size_t> again;
  std::string_view waiting;
  const bool single = address_.master.empty() && map.slots.empty();
  for (const Part& part : parts)
    for (const std::size_t i : part.commands) {
      const std::string_view error = batch.error(i), word = word_of(error, 0);
      if (error.empty()) continue;
      if (word == "NOSCRIPT") {
        batch.commands_[i].whole = true;
        targets[i] = part.target;
      } else if ((word == "MOVED" || word == "ASK") && round < max_redirections) {  // MOVED <slot> <host>:<port>
        const std::string_view place = word_of(error, 2);
        const auto colon = std::min(place.rfind(':'), place.size() - 1);
        const RedisNode node = node_of(place.substr(0, colon), place.substr(colon + 1), part.target.pool->node());
        targets[i] = {pool_of(node), word == "ASK"};
        if (word == "MOVED") stale_ = true;
      } else if (word == "LOADING" || (!single && (word == "TRYAGAIN" || word == "CLUSTERDOWN" || word == "READONLY" ||
                                                   word == "MASTERDOWN"))) {
        targets[i] = {};
        stale_ = true;
        waiting = error;
      } else {
        refuse(error);
      }
      again.push_back(i);
    }
  std::ranges::sort(again);
  if (!waiting.empty()) {
    if (Clock::now() + wait_pause >= end.at) refuse(waiting);
    std::this_thread::sleep_for(wait_pause);
  }
  return again;
}

void RedisServers::refuse(std::string_view error) const {
  const std::string text(error), refused = address_.url + ": the server refuses: " + text;
  const std::string_view word = word_of(error, 0);
  if (word == "WRONGTYPE") throw NotAStoreError(address_.url + ": keys of this prefix are no store: " + text);
  if (word == "READONLY") throw StoreError(refused + " Want the address of its master");
  for (const auto away : {"NOAUTH", "NOPERM", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN"})
    if (word == away) throw StoreUnreachableError(refused);
  throw StoreError(refused);
}

}  // namespace pygrade::inline v0_2::detail
