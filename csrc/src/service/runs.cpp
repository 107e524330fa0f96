// The runs of a service, and requests to answers.
#include <algorithm>

#include "pygrade/service.hpp"
#include "pygrade/version.hpp"
#include "service/impl.hpp"
#include "service/openapi.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view text_type = "text/plain; version=0.0.4; charset=utf-8";
constexpr std::string_view html_type = "text/html; charset=utf-8";

// A run that could not be loaded.
struct NotLoaded : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Route {
  Endpoint endpoint;
  std::string_view method;
};

constexpr std::string_view user_path = "/v1/users/";

Route route_of(std::string_view path) {
  if (path.starts_with(user_path)) return {on_users, "DELETE"};
  for (std::size_t e = 0; e < on_other; ++e)
    if (path == endpoint_names[e])
      return {static_cast<Endpoint>(e), e <= on_weights ? std::string_view("POST") : std::string_view("GET")};
  return {on_other, ""};
}

// An error of the core about a request, with the argument that it is about by its first word.
InputError translated(const std::invalid_argument& error) {
  std::string message = error.what();
  constexpr std::string_view item_ids = "item_ids";
  if (message.starts_with(item_ids)) message.replace(0, item_ids.size(), "items");
  const std::string word = message.substr(0, message.find_first_of(" ["));
  for (const api::Field& field : api::rank_fields)
    if (word == field.name) return {word, message};
  for (const api::Field& field : api::rules_fields)
    if (word == field.name) return {"rules." + word, "rules." + message};
  if (message.starts_with("no candidate is left"))
    return {"items", "no candidate is left: items is empty, or every eligible item is among those seen"};
  return {"body", message};
}

// The answer, or that of its error: what is wrong with a request is an std::invalid_argument wherever it is found.
template <class Answer>
Response guard(Answer&& answer) {
  try {
    return answer();
  } catch (const InputError& error) {
    return error_response(400, error.argument, error.what());
  } catch (const std::invalid_argument& error) {
    const InputError about = translated(error);
    return error_response(400, about.argument, about.what());
  } catch (const StoreError& error) {
    return error_response(503, "", error.what());
  } catch (const NotLoaded& error) {
    return error_response(503, "policy", error.what());
  } catch (const std::exception& error) {
    return error_response(500, "", error.what());
  }
}

// The run that a query names: PATH?policy=NAME.
std::optional<std::string> run_in_query(std::string_view target) {
  constexpr std::string_view key = "policy=";
  for (std::size_t at = target.find('?'); at != target.npos; at = target.find('&', at + 1))
    if (const std::string_view rest = target.substr(at + 1); rest.starts_with(key))
      return std::string(rest.substr(key.size(), rest.find('&') - key.size()));
  return {};
}
}  // namespace

bool detail::names_tensors(std::string_view header) {
  const auto same = [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; };
  while (!header.empty()) {
    const std::string_view entry = header.substr(0, header.find(','));
    header.remove_prefix(std::min(entry.size() + 1, header.size()));
    std::string_view type = entry.substr(0, entry.find(';'));
    while (type.starts_with(' ')) type.remove_prefix(1);
    while (type.ends_with(' ')) type.remove_suffix(1);
    if (std::ranges::equal(type, tensor_type, same)) return true;
  }
  return false;
}

Response detail::error_response(int status, std::string_view argument, std::string_view message) {
  JsonWriter out;
  out.begin_object().known_key("error").begin_object().text_field("argument", argument);
  out.field("message", message).end_object().end_object();
  return {status, json_type, out.take()};
}

// The answers of a batch so far.
struct Service::Runs::Batch {
  explicit Batch(std::vector<std::string_view> views) : requests(std::move(views)) {}

  std::vector<std::string_view> requests;
  std::size_t done = 0;
  JsonWriter out;
  Clock::time_point start = Clock::now();
  Impl* by = nullptr;  // that counts it: the run of its first request
};

Service::Runs::Runs(const fs::path& run, std::string_view config_json, const std::shared_ptr<Store>& store)
    : config(ServiceConfig::parse(config_json, run)) {
  if (!run.empty()) all.emplace_back(config, store);
  for (const ServiceConfig& named : config.runs) all.emplace_back(named, nullptr);
  if (all.empty()) throw std::invalid_argument("run is missing and runs is empty; expected the directory of a run");
  std::exception_ptr failure;
  for (Run& each : all)  // what fails takes no other down
    if (const auto error = load(each); error && !failure) failure = error;
  if (std::ranges::none_of(all, &Run::loaded)) std::rethrow_exception(failure);
}

std::exception_ptr Service::Runs::load(Run& run) {
  try {
    run.owner = std::make_unique<Impl>(run.config, run.store);
    run.impl.store(run.owner.get(), std::memory_order_release);
    return nullptr;
  } catch (const std::exception& error) {
    run.next_try = Clock::now() + retry_time;
    const std::lock_guard lock(telling);
    run.error = error.what();
    return std::current_exception();
  }
}

Service::Runs::Run& Service::Runs::find(const std::optional<std::string>& name) {
  const auto found = std::ranges::find(all, name.value_or(""), [](const Run& run) { return run.config.name; });
  if (found == all.end() || (name && name->empty())) refuse_run(name, config);
  return *found;
}

Service::Impl& Service::Runs::loaded(Run& run) {
  if (Impl* impl = run.loaded()) return *impl;
  const std::string& name = run.config.name;
  throw NotLoaded((name.empty() ? "the run without a name" : "the run '" + name + "'") +
                  " could not be loaded: " + error_of(run));
}

Service::Impl& Service::Runs::lead() {
  for (Run& run : all)
    if (Impl* impl = run.loaded()) return *impl;
  throw std::logic_error("no run is loaded");  // which the constructor does not leave
}

std::string Service::Runs::error_of(Run& run) {
  const std::lock_guard lock(telling);
  return run.error;
}

// A request, or the next one of several in one body, each of which gets its answer or its error.
std::optional<std::string_view> Service::Runs::answer_next(detail::Endpoint endpoint, const ServiceRequest& request,
                                                           std::shared_ptr<void>& progress, Response& response,
                                                           Impl*& by) {
  const bool tensors = names_tensors(request.content_type);
  const auto answer = [&](const ServiceRequest& one, const Envelope& envelope) {
    by = &loaded(find(envelope.policy));
    const Loan context(by->contexts);
    return by->answer(endpoint, one, *context);
  };
  if (progress == nullptr) {
    Envelope envelope = read_envelope(request.body, config, endpoint != on_explain, tensors);
    if (!envelope.requests) {
      response = answer(request, envelope);
      return {};
    }
    const auto batch = std::make_shared<Batch>(std::move(*envelope.requests));
    batch->out.begin_object().known_key(endpoint == on_rank ? "pages" : "weights").begin_list();
    progress = batch;
  }
  Batch& batch = *static_cast<Batch*>(progress.get());
  if (batch.done < batch.requests.size()) {
    const std::string place = "." + std::to_string(batch.done);
    const std::string id = request.request_id.empty() ? "" : std::string(request.request_id) + place;
    ServiceRequest one = request;
    one.body = batch.requests[batch.done++];
    one.request_id = id;
    one.accept = {};
    batch.out.raw(guard([&] { return answer(one, read_envelope(one.body, config, false, false)); }).body);
    if (batch.by == nullptr) batch.by = by;
  }
  if (batch.done < batch.requests.size()) return batch.requests[batch.done];
  batch.out.end_list().end_object();
  response = {200, json_type, batch.out.take()};
  by = batch.by != nullptr ? batch.by : by;
  return {};
}

std::optional<std::string_view> Service::Runs::handle_next(const ServiceRequest& request, std::shared_ptr<void>& batch,
                                                           Response& response) {
  const std::string_view method = request.method, target = request.path, body = request.body;
  const auto start = batch == nullptr ? Clock::now() : static_cast<Batch*>(batch.get())->start;
  const std::string_view path = target.substr(0, target.find('?'));
  const Route route = route_of(path);
  Impl* by = &lead();  // that counts the request
  std::optional<std::string_view> next;
  const auto answer = [&]() -> Response {
    if (route.endpoint == on_other)
      return error_response(404, "path",
                            "path is '" + std::string(path.substr(0, 100)) + "'; expected one of " +
                                joined(std::span(endpoint_names).first(on_other)));
    if (method != route.method && !(method == "HEAD" && route.method == "GET"))
      return error_response(405, "method",
                            "method is '" + std::string(method.substr(0, 20)) + "'; " + std::string(path) + " needs " +
                                std::string(route.method));
    if (body.size() > config.max_body_bytes)
      return error_response(413, "body",
                            "body has " + std::to_string(body.size()) + " bytes; expected at most " +
                                std::to_string(config.max_body_bytes));
    switch (route.endpoint) {
      case on_rank:
      case on_weights:
      case on_explain: {
        Response answered;
        next = answer_next(route.endpoint, request, batch, answered, by);
        return answered;
      }
      case on_update:
        by = &loaded(find(read_envelope(body, config, false, false).policy));
        return by->update(body);
      case on_users:
        return remove_user(target);
      case on_livez:
        return {200, json_type, R"({"alive":true})"};
      case on_readyz:
        return ready_answer();
      case on_metrics:
        return {200, text_type, metrics_body()};
      case on_openapi:
        return {200, json_type, openapi_document()};
      case on_docs:
        return {200, html_type, docs_page()};
      case on_test:
        by = &loaded(find(run_in_query(target)));
        return by->test_answer(request);
      default:
        return {200, json_type, status_body()};
    }
  };
  response = guard(answer);
  if (next) return next;
  if (response.request_id.empty()) response.request_id = request.request_id;
  by->metrics.answered(route.endpoint, response.status, std::chrono::duration<double>(Clock::now() - start).count());
  return {};
}

// Removes a user of the run that the query names, else of all: one that failed is to be asked again, and one of them
// must have what could be removed.
Response Service::Runs::remove_user(std::string_view target) {
  const auto name = run_in_query(target);
  const std::string_view segment = target.substr(user_path.size(), target.find('?') - user_path.size());
  std::optional<Response> answer;
  for (Run& run : all) {
    if (name && &run != &find(name)) continue;
    const Response own = guard([&] { return loaded(run).remove_user(segment); });
    const auto rank = [](int status) { return status >= 500 ? 2 : status == 200 ? 1 : 0; };
    if (!answer || rank(own.status) > rank(answer->status)) answer = own;
  }
  return *answer;
}

// Keys of the run without a name, then those of each other one in an object under `runs`.
void Service::Runs::write_all(JsonWriter& out, FunctionRef<void(Run&)> write) {
  if (all.front().config.name.empty()) write(all.front());
  if (config.runs.empty()) return;
  out.known_key("runs").begin_object();
  for (Run& run : all) {
    if (run.config.name.empty()) continue;
    out.known_key(run.config.name).begin_object();
    write(run);
    out.end_object();
  }
  out.end_object();
}

Response Service::Runs::ready_answer() {
  bool ready = true;
  for (Run& run : all)
    if (const Impl* impl = run.loaded()) ready = ready && impl->ready();
  JsonWriter out;
  const auto write = [&](Run& run) {
    if (Impl* impl = run.loaded()) return impl->write_ready(out);
    out.known_key("artifact").null().known_key("policies").begin_object().end_object();
    out.known_key("store").null().field("reload_error", error_of(run));
  };
  out.begin_object().field("ready", ready).field("draining", lead().draining.load());
  write_all(out, write);
  return {ready ? 200 : 503, json_type, out.end_object().take()};
}

std::string Service::Runs::metrics_body() {
  Series process;
  process.figures.set("pygrade_info", 1.0, {{"version", PYGRADE_VERSION}});
  add_process_figures(process.figures);
  std::vector<Series> parts;
  parts.push_back(std::move(process));
  for (Run& run : all) {
    if (Impl* impl = run.loaded())
      parts.push_back(impl->series());
    else
      parts.emplace_back().figures.set("pygrade_ready", 0.0);
    if (!run.config.name.empty()) parts.back().label = "policy=\"" + run.config.name + "\"";
  }
  std::string out;
  out.reserve(std::size_t{1} << 16);
  write_prometheus(parts, out);
  std::string_view before;
  for (const Gauge& gauge : read_gauges()) write_gauge(gauge, std::exchange(before, gauge.name) != gauge.name, out);
  return out;
}

std::string Service::Runs::status_body() {
  JsonWriter out;
  const auto write = [&](Run& run) {
    if (Impl* impl = run.loaded())
      impl->write_status(out, run.config.name.empty() ? read_gauges() : std::vector<Gauge>());
    else
      out.field("error", error_of(run));
  };
  out.begin_object();
  write_all(out, write);
  return out.end_object().take();
}

std::vector<Gauge> Service::Runs::read_gauges() {
  std::vector<Gauge> read;
  const std::lock_guard lock(asking);
  if (gauges) gauges(read);
  return read;
}

bool Service::Runs::refresh() {
  const std::lock_guard lock(refreshing);
  bool changed = false;
  for (Run& run : all)
    if (Impl* impl = run.loaded())
      changed |= impl->refresh();
    else if (Clock::now() >= run.next_try)
      changed |= load(run) == nullptr;
  return changed;
}

void Service::Runs::drain() {
  for (Run& run : all)
    if (Impl* impl = run.loaded()) impl->draining = true;
  for (Run& run : all)
    if (Impl* impl = run.loaded()) impl->drain();
}

std::vector<std::string> Service::Runs::warnings() {
  std::vector<std::string> found;
  for (Run& run : all) {
    const std::string about = run.config.name.empty() ? "" : "run '" + run.config.name + "': ";
    const Impl* impl = run.loaded();
    if (impl == nullptr) found.push_back(about + "it could not be loaded and answers 503: " + error_of(run));
    for (const auto& warning : impl ? impl->warnings() : std::vector<std::string>()) found.push_back(about + warning);
  }
  return found;
}

Service::Service(const std::string& run, std::string_view config_json) : Service(run, config_json, nullptr) {}

Service::Service(const std::string& run, std::string_view config_json, std::shared_ptr<Store> store)
    : runs_(std::make_unique<Runs>(run, config_json, store)) {}

Service::~Service() = default;

Response Service::handle(const ServiceRequest& request) noexcept {
  Response response;
  std::shared_ptr<void> batch;
  while (handle_next(request, batch, response)) {
  }
  return response;
}

std::optional<std::string_view> Service::handle_next(const ServiceRequest& request, std::shared_ptr<void>& batch,
                                                     Response& response) noexcept {
  try {
    return runs_->handle_next(request, batch, response);
  } catch (...) {  // no memory for the text of an error
    response = {500, json_type, {}};
    return {};
  }
}

Response Service::error(int status, std::string_view argument, std::string_view message) {
  return error_response(status, argument, message);
}

bool Service::refresh() noexcept {
  try {
    return runs_->refresh();
  } catch (...) {
    return false;
  }
}

void Service::drain() noexcept {
  try {
    runs_->drain();
  } catch (...) {
  }
}

std::vector<std::string> Service::warnings() const { return runs_->warnings(); }

std::string Service::openapi() { return openapi_document(); }

void Service::set_gauges(std::function<void(std::vector<Gauge>&)> read) {
  const std::lock_guard lock(runs_->asking);
  runs_->gauges = std::move(read);
}
}  // namespace pygrade::inline v0_2
