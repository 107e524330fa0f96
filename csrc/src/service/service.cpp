// One run: what it is made of, and reloads.
#include "pygrade/service.hpp"

#include <algorithm>
#include <random>

#include "service/impl.hpp"
#include "util/files.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kept_reloads = 20;
constexpr std::size_t max_context = std::size_t{4} << 20;  // bytes that a context keeps for the next request

// Reads what the pipeline wrote beside the artifact.
Json store_record(const fs::path& run) {
  const fs::path path = run / "store.json";
  try {
    Json record = Json::parse(text_of(OpenFile(path, "; expected a run that has published").content()));
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

Service::Impl::Impl(const ServiceConfig& given, std::shared_ptr<Store> store_given)
    : config(given),
      run(config.run),
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
  Reload reload{static_cast<std::int64_t>(now_ms()), "", error, {}};
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
}  // namespace pygrade::inline v0_2
