// Requests to answers, and reloads.
#include "pygrade/service.hpp"

#include <algorithm>
#include <random>

#include "service/impl.hpp"
#include "service/openapi.hpp"
#include "util/files.hpp"

namespace pygrade::inline v0_2 {

using namespace detail;

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view json_type = "application/json";
constexpr std::string_view text_type = "text/plain; version=0.0.4; charset=utf-8";
constexpr std::string_view html_type = "text/html; charset=utf-8";
constexpr std::string_view tensor_type = "application/safetensors";
constexpr auto retry_time = std::chrono::seconds(10);  // of a load that failed, if nothing changes
constexpr std::size_t kept_reloads = 20;
constexpr std::size_t max_context = std::size_t{4} << 20;  // bytes that a context keeps for the next request

// Reads what the pipeline wrote beside the artifact.
Json store_record(const fs::path& run) {
  const fs::path path = run / "store.json";
  try {
    Json record = Json::parse(text_of(OpenFile(path, "; want a run that has published").content()));
    if (record.type != Json::Type::object) throw JsonError("it is no object");
    record.string_at("store");
    return record;
  } catch (const JsonError& error) {
    throw ArtifactError(path.string() + " is damaged: " + error.what());
  }
}

Naming naming_of(const fs::path& run, bool is_policy) {
  if (is_policy) return {{.named = true}, {.named = true}};  // numbers and texts
  const Json record = store_record(run);
  Naming naming;
  if (record.find("named") == nullptr) return naming;
  for (const std::string& kind : record.strings_at("named")) {
    naming.users.named = naming.users.named || kind == "user";
    naming.items.named = naming.items.named || kind == "item";
  }
  return naming;
}

std::shared_ptr<Store> store_of(const fs::path& run, const ServiceConfig& config, bool is_policy) {
  if (is_policy) return nullptr;
  std::string address = config.store ? *config.store : store_record(run).string_at("store");
  constexpr std::string_view place = "{run}";
  if (const auto at = address.find(place); at != address.npos) address.replace(at, place.size(), run.string());
  return open_store(address, {.wait_for_server = false});  // the service starts without it
}

// The answers of a batch so far.
struct Batch {
  explicit Batch(std::vector<std::string_view> views) : requests(std::move(views)) {}

  std::vector<std::string_view> requests;
  std::size_t done = 0;
  JsonWriter out;
  Clock::time_point start = Clock::now();
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
  } catch (const std::exception& error) {
    return error_response(500, "", error.what());
  }
}

}  // namespace

void ContextPool::release(std::unique_ptr<Context> context) noexcept {
  if (context->generation != 0 &&
      context->generation != generation()) {  // the last owner of a large model must not free it here
    try {
      const std::lock_guard lock(mutex_);
      old_.push_back(std::move(context));
    } catch (const std::bad_alloc&) {
    }
    return;
  }
  if (context->generation == 0 || context->memory() > max_context) return;
  free_.release(std::move(context));
}

void ContextPool::publish(std::uint64_t generation) {
  generation_.store(generation, std::memory_order_release);
  free_.clear();
  std::vector<std::unique_ptr<Context>> old;
  const std::lock_guard lock(mutex_);
  old.swap(old_);
}

std::size_t Context::memory() const {
  std::size_t bytes = input.memory();
  for (const auto* memory : {&items, &item_keys, &category_keys}) bytes += memory->capacity() * sizeof(std::int64_t);
  for (const auto* memory : {&scores, &other_scores, &item_columns, &other_columns, &history.columns})
    bytes += memory->capacity() * sizeof(float);
  for (const auto* memory : {&indices, &other_indices, &place, &arm_indices})
    bytes += memory->capacity() * sizeof(std::int32_t);
  for (const auto& memory : arm_columns) bytes += memory.capacity() * sizeof(float);
  return bytes;
}

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

Service::Impl::Impl(const fs::path& run_given, std::string_view config_json, std::shared_ptr<Store> store_given)
    : run(run_given),
      config(ServiceConfig::parse(config_json, run)),
      sources(run, config),
      naming(naming_of(run, sources.is_policy())),
      store(store_given != nullptr ? std::move(store_given) : store_of(run, config, sources.is_policy())),
      metrics(config) {
  std::random_device random;
  next_request = (std::uint64_t{random()} << 32) | random();
  identity = sources.identity();
  if (sources.is_policy()) {
    stream = std::uint64_t{config.seed.value_or(random() >> 1)} << 32;
    publish(sources.load(metrics));
  } else {
    const PipelineOptions options{.seed = config.seed};
    Models models = sources.load(nullptr, true, metrics);
    try {
      pipeline = Pipeline::load(models, store, options);
    } catch (const StoreUnreachableError&) {  // pages are degraded until it answers; then check_store asks its version
      store_checked = false;
      auto center = std::make_shared<FeatureCenter>(models.features, store, options.ttl, options.cache, models.version);
      pipeline = std::make_unique<Pipeline>(std::move(models), std::move(center), options);
    }
    contexts.publish(1);
  }
  if (config.exposures) {
    for (const ArmConfig& arm : config.arms) {
      ExposureOptions options{.share = config.exposure_share, .name = "exposures-" + arm.name};
      options.file_time = config.file_time;
      options.group_time = std::min(options.group_time, config.file_time);
      options.arm = arm.name;
      for (const ArmConfig& other : config.test ? config.arms : std::vector<ArmConfig>())
        options.arms.push_back({other.name, static_cast<float>(other.share)});
      exposures.push_back(std::make_unique<ExposureLog>(*config.exposures, options));
    }
    removals = std::make_unique<JsonLines>(*config.exposures / "removed", "removed", config.file_time);
    if (!config.shadows.empty())
      shadow_log = std::make_unique<JsonLines>(*config.exposures / "shadow", "shadow", config.file_time);
  }
  if (config.feedback) feedback = std::make_unique<JsonLines>(*config.feedback, "feedback", config.file_time);
  tell("");
  metrics.restart();
}

Response Service::Impl::answer(detail::Endpoint endpoint, const ServiceRequest& request, Context& context) {
  if (endpoint == on_rank && names_tensors(request.accept))
    return {200, tensor_type, rank_tensors(request, context), context.request_id};
  std::string text = endpoint == on_rank      ? rank_body(request, context)
                     : endpoint == on_explain ? explain_body(request, context)
                                              : weights_body(request, context);
  return {200, json_type, std::move(text), context.request_id};
}

// A request, or the next one of several in one body, each of which gets its answer or its error.
std::optional<std::string_view> Service::Impl::answer_next(detail::Endpoint endpoint, const ServiceRequest& request,
                                                           std::shared_ptr<void>& progress, Response& response) {
  const Loan context(contexts);
  if (progress == nullptr) {
    std::optional<std::vector<std::string_view>> requests;
    if (endpoint != on_explain && !names_tensors(request.content_type))
      requests = (*context).input.split(request.body, config);
    if (!requests) {
      response = answer(endpoint, request, *context);
      return {};
    }
    const auto batch = std::make_shared<Batch>(std::move(*requests));
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
    batch.out.raw(guard([&] { return answer(endpoint, one, *context); }).body);
  }
  if (batch.done < batch.requests.size()) return batch.requests[batch.done];
  batch.out.end_list().end_object();
  response = {200, json_type, batch.out.take()};
  return {};
}

std::optional<std::string_view> Service::Impl::handle_next(const ServiceRequest& request, std::shared_ptr<void>& batch,
                                                           Response& response) {
  const std::string_view method = request.method, target = request.path, body = request.body;
  const auto start = batch == nullptr ? Clock::now() : static_cast<Batch*>(batch.get())->start;
  const std::string_view path = target.substr(0, target.find('?'));
  const Route route = route_of(path);
  std::optional<std::string_view> next;
  const auto answer = [&]() -> Response {
    if (route.endpoint == on_other)
      return error_response(404, "path",
                            "path is '" + std::string(path.substr(0, 100)) + "'; want one of " +
                                joined(std::span(endpoint_names).first(on_other)));
    if (method != route.method && !(method == "HEAD" && route.method == "GET"))
      return error_response(405, "method",
                            "method is '" + std::string(method.substr(0, 20)) + "'; " + std::string(path) + " wants " +
                                std::string(route.method));
    if (body.size() > config.max_body_bytes)
      return error_response(
          413, "body",
          "body has " + std::to_string(body.size()) + " bytes; want at most " + std::to_string(config.max_body_bytes));
    switch (route.endpoint) {
      case on_rank:
      case on_weights:
      case on_explain: {
        Response answered;
        next = answer_next(route.endpoint, request, batch, answered);
        return answered;
      }
      case on_update:
        return update(body);
      case on_users:
        return remove_user(path.substr(user_path.size()));
      case on_livez:
        return {200, json_type, R"({"alive":true})"};
      case on_readyz:
        return {ready() ? 200 : 503, json_type, ready_body()};
      case on_metrics:
        return {200, text_type, metrics_body()};
      case on_openapi:
        return {200, json_type, openapi_document()};
      case on_docs:
        return {200, html_type, docs_page()};
      case on_test:
        return test_answer(request);
      default:
        return {200, json_type, status_body()};
    }
  };
  response = guard(answer);
  if (next) return next;
  if (response.request_id.empty()) response.request_id = request.request_id;
  metrics.answered(route.endpoint, response.status, std::chrono::duration<double>(Clock::now() - start).count());
  return {};
}

std::shared_ptr<const Release> Service::Impl::release() const {
  if (pipeline) return Release::of(pipeline->models());
  const std::lock_guard lock(publishing);
  return policy_release;
}

std::shared_ptr<const Release> Service::Impl::release(Context& context) const {
  const std::uint64_t now = contexts.generation();
  if (pipeline) {  // whose contexts hold nothing of what is served
    context.generation = now;
    return release();
  }
  if (context.generation != now || context.release == nullptr) context.release = release();
  context.generation = now;
  return context.release;
}

PipelineCounters Service::Impl::counters() const {
  if (pipeline) return pipeline->counters();
  PipelineCounters counters;
  counters.ranker.missing_predictions = missing_predictions;
  return counters;
}

void Service::Impl::publish(Models models) { pipeline->publish(std::move(models)); }

void Service::Impl::publish(std::shared_ptr<const Release> next) {
  {
    const std::lock_guard lock(publishing);
    policy_release.swap(next);
  }
  contexts.publish(contexts.generation() + 1);
}

// Keeps what happened: "" if the models that are served now were loaded.
void Service::Impl::tell(const std::string& error) {
  Reload reload{now_ms(), "", error, {}};
  const auto served = release();
  reload.artifact = served->artifact;
  for (const Served& arm : served->arms) reload.policies.push_back(arm.policy->version());
  const std::lock_guard lock(telling);
  last_error = error;
  loads.push_back(std::move(reload));
  if (loads.size() > kept_reloads) loads.pop_front();
}

// Asks a store that did not answer, since no page may come while /readyz is 503.
void Service::Impl::check_store() {
  if (store == nullptr || (store_checked && store->reachable())) return;
  try {
    store_checked = store->current() == release()->artifact;
  } catch (const StoreError&) {  // then it is not reachable, which /readyz says
  }
}

bool Service::Impl::refresh() {
  const std::lock_guard lock(refreshing);
  check_store();
  const Sources::Identity now = sources.identity();
  if (now == identity) {  // also after a failed load, if what is served stands there again
    failed = {};
    const std::lock_guard saying(telling);
    last_error.clear();
    return false;
  }
  if (now == failed && Clock::now() < next_try) return false;
  try {
    bool new_artifact = false;
    if (pipeline) {
      const Models before = pipeline->models();
      Models models = sources.load(&before, now.artifact != identity.artifact, metrics);
      new_artifact = models.version != before.version;
      if (new_artifact && store->current() != models.version)
        throw ArtifactError(store->url() + " serves version " + store->current().value_or("none") +
                            "; the artifact is " + models.version);
      publish(std::move(models));
    } else {
      publish(sources.load(metrics));
    }
    identity = now;
    failed = {};
    metrics.reloads.add();
    tell("");
    if (new_artifact) metrics.restart();
    return true;
  } catch (const std::exception& error) {
    failed = now;
    next_try = Clock::now() + retry_time;
    metrics.failures.add();
    tell(error.what());
    return false;
  }
}

void Service::Impl::drain() {
  draining = true;
  if (const auto served = release(); served->history_store != nullptr) try {
      served->history_store->flush();
    } catch (const StoreError&) {  // which it counts
    }
  for (const auto& log : exposures) log->flush();
  if (feedback) feedback->finish();
  if (shadow_log) shadow_log->finish();
}

Service::Service(const std::string& run, std::string_view config_json)
    : impl_(std::make_unique<Impl>(run, config_json, nullptr)) {}

Service::Service(const std::string& run, std::string_view config_json, std::shared_ptr<Store> store)
    : impl_(std::make_unique<Impl>(run, config_json, std::move(store))) {}

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
    return impl_->handle_next(request, batch, response);
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
    return impl_->refresh();
  } catch (...) {
    return false;
  }
}

void Service::drain() noexcept {
  impl_->draining = true;
  try {
    impl_->drain();
  } catch (...) {
  }
}

std::vector<std::string> Service::warnings() const { return impl_->warnings(); }

std::string Service::openapi() { return openapi_document(); }

void Service::set_gauges(std::function<void(std::vector<Gauge>&)> read) {
  const std::lock_guard lock(impl_->asking);
  impl_->gauges = std::move(read);
}

}  // namespace pygrade::inline v0_2
