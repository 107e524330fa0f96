#include "pygrade/pipeline.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "serving/counts.hpp"
#include "serving/draws.hpp"
#include "util/hot_swap.hpp"
#include "util/parallel.hpp"
#include "util/seed.hpp"

namespace pygrade::inline v0_2 {
namespace {
using Clock = std::chrono::steady_clock;

constexpr std::string_view evidence = "user_count";       // the feature that says how much is known of a user
constexpr std::string_view price_of_item = "item_value";  // the feature of items that has their prices
constexpr std::size_t default_items = 2000;               // that an unknown user may get when time runs out
constexpr std::size_t block = 128;                        // candidates predicted between two looks at the clock

// A store without data: every read fails, so the feature center returns defaults.
class NoStore final : public Store {
 public:
  void get(std::span<const StoreQuery>, FunctionRef<void(StoreValues)>, std::optional<Clock::time_point>) override {
    throw StoreError("there is no store");
  }
  void update(std::span<const StoreQuery>, FunctionRef<void(StoreValues, std::span<std::string>)>,
              std::optional<double>) override {
    throw StoreError("there is no store");
  }
  std::optional<std::string> current() override { return {}; }
  const std::string& url() const override { return url_; }

 private:
  const std::string url_ = "none";
};

std::shared_ptr<FeatureCenter> make_center(const Models& models, std::shared_ptr<Store> store,
                                           const PipelineOptions& options) {
  std::optional<std::string> version;
  if (!options.any_version && !models.version.empty()) version = models.version;
  return std::make_shared<FeatureCenter>(models.features, std::move(store), options.ttl, options.cache, version);
}

// The `given` columns and, of items that were read, the features that other columns of a policy are made of, in
// `memory`.
void add_features(const FeatureInputs& inputs, const Policy& policy, const FeatureBuffer& read, std::size_t rows,
                  const std::vector<ItemColumn>& given, std::vector<float>& memory, std::vector<ItemColumn>& all) {
  all = given;
  if (read.item_dense.empty() && read.item_ids.empty()) return;
  const auto names = policy.items();
  memory.resize(inputs.size() * rows);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs.known(i) || std::ranges::find(given, names[i], &ItemColumn::name) != given.end()) continue;
    const auto column = std::span(memory).subspan(i * rows, rows);
    inputs.take(i, read.item_dense, read.item_ids, column.data(), 1, rows);
    all.push_back({names[i], column});
  }
}
}  // namespace

struct PageWorkspace::Impl {
  // Parts of a lease: the pipeline, its models, and what holds them.
  const void* owner = nullptr;
  const void* state = nullptr;
  const Models* models = nullptr;
  void* slot = nullptr;

  FeatureBuffer features;
  std::vector<float> vector;                // [width] of the user
  std::vector<std::uint8_t> passes;         // [default items]
  std::vector<std::int64_t> items, sorted;  // [n] candidates; scratch
  std::vector<std::uint32_t> slots;         // scratch
  std::vector<float> request_dense, dense;  // normalized: [Du], [n, Di + Dx]
  std::vector<float> predictions;           // [n, T]
  std::vector<std::int32_t> indices;        // [k] places in items
  std::vector<float> columns;               // of given_columns
  std::vector<ItemColumn> given_columns;    // those of the request that corrections read
  std::vector<float> context;               // [F] of the policies
  std::vector<float> prices;                // [n], if they are features
  std::vector<float> item_rows;             // [n, I] of the policy that ranked
  std::vector<float> others;                // of other_columns
  std::vector<ItemColumn> other_columns;    // given_columns, and those of features that a policy reads
  std::vector<float> scores;                // [k]
  Request request;
  PageBuffer buffer;
  std::size_t policy = 0;  // that ranked
  std::size_t unknown_items = 0;
};

PageWorkspace::PageWorkspace() : impl_(std::make_unique<Impl>()) {}
PageWorkspace::~PageWorkspace() = default;
PageWorkspace::PageWorkspace(PageWorkspace&&) noexcept = default;
PageWorkspace& PageWorkspace::operator=(PageWorkspace&&) noexcept = default;
std::span<const std::int64_t> PageWorkspace::item_ids() const { return impl_->items; }
std::size_t PageWorkspace::unknown_items() const { return impl_->unknown_items; }
std::span<const float> PageWorkspace::predictions() const { return impl_->predictions; }
const FeatureBuffer& PageWorkspace::features() const { return impl_->features; }
const Models& PageWorkspace::models() const {
  if (impl_->models == nullptr) throw std::logic_error("the workspace has no lease");
  return *impl_->models;
}
const Request& PageWorkspace::request() const { return impl_->request; }
void PageWorkspace::item_columns(const Policy& policy, std::vector<float>& rows) const {
  Impl& work = *impl_;
  add_features(FeatureInputs(*models().features, policy.items(), false), policy, work.features, work.items.size(),
               work.given_columns, work.others, work.other_columns);
  policy.item_columns(work.items, work.other_columns, rows);
}
const PageBuffer& PageWorkspace::buffer() const { return impl_->buffer; }
const Policy& PageWorkspace::policy() const {
  const Models& served = models();
  return impl_->policy == 0 ? *served.policy : *served.alternatives[impl_->policy - 1];
}

// Counts of everything that has ever served: states that are in use, and the sums of those that are gone.
struct Pipeline::Totals {
  std::mutex mutex;
  std::vector<const State*> living;
  FeatureCounters features;
  RankerCounters ranker;
  std::atomic<std::uint64_t> degraded_store{0}, degraded_deadline{0}, degraded_version{0}, reloads{0};
};

// One set of models with the center that reads for them; everything a request needs, so that it changes in one step.
struct Pipeline::State {
  State(Models given, std::shared_ptr<FeatureCenter> reader, const PipelineOptions& chosen)
      : models(std::move(given)), center(std::move(reader)), options(chosen) {
    models.check();
    context.emplace(*models.features, models.policy->features(), true);
    const auto add_policy = [&](const std::shared_ptr<const Policy>& policy) {
      rankers.push_back(std::make_unique<Ranker>(policy, RankerOptions{.seed = 0}));
      inputs.emplace_back(*models.features, policy->items(), false);
      for (const std::string& name : policy->items())
        if (std::ranges::find(columns, name) == columns.end()) columns.push_back(name);
    };
    add_policy(models.policy);
    std::ranges::for_each(models.alternatives, add_policy);
    if (models.features != center->features())
      throw std::invalid_argument("the center reads other features than those of the models");
    const auto& names = models.features->request_features();
    if (const auto found = std::ranges::find(names, evidence); found != names.end())
      history = static_cast<std::size_t>(found - names.begin());
    const auto& of_items = models.features->item_features();
    if (const auto found = std::ranges::find(of_items, price_of_item); found != of_items.end())
      price = static_cast<std::size_t>(found - of_items.begin());
    models.version.copy(version.data(), version.size() - 1);
    if (searches() && predicts()) fill_defaults();
  }

  void check(const PipelineRequest& request, const PipelineBuffer& buffer) const;
  bool searches() const { return models.prerank != nullptr || options.retrieve; }
  bool predicts() const { return models.mtl != nullptr || options.predict; }
  bool reads_items() const { return models.mtl != nullptr || options.item_features; }
  bool reads_items(const PipelineRequest& request) const;
  bool reads_prices(const PipelineRequest& request) const {
    return price && !request.item_values && request.page.item_values.empty() &&
           any_of(request, [&](std::size_t place) { return policy(place).takes_prices(); });
  }
  // Whether the condition holds of the request's policy, or of one that it is compared with.
  template <class Condition>
  bool any_of(const PipelineRequest& request, Condition condition) const {
    bool found = condition(request.policy);
    for (std::size_t place = 0; request.compared && !found && place < rankers.size(); ++place) found = condition(place);
    return found;
  }
  void take_columns(const PipelineRequest& request, PageWorkspace::Impl& work) const;
  const Policy& policy(std::size_t place) const {
    return place == 0 ? *models.policy : *models.alternatives[place - 1];
  }
  void search(const FeatureBuffer& user, std::span<const std::int64_t> seen,
              std::optional<std::span<const std::int64_t>> eligible, std::size_t count,
              PageWorkspace::Impl& work) const;
  bool predict(const PipelineRequest* request, PageWorkspace::Impl& work,
               std::optional<Clock::time_point> deadline) const;
  template <class Lap>
  bool take_candidates(const PipelineRequest& request, PageWorkspace::Impl& work,
                       std::optional<Clock::time_point> deadline, Lap&& lap) const;
  void take_defaults(const PipelineRequest& request, PageWorkspace::Impl& work) const;
  std::size_t make_request(const PipelineRequest& request, Degraded& degraded, PageWorkspace::Impl& work) const;
  void fill_defaults();
  std::optional<std::size_t> default_place(std::int64_t item) const;

  std::size_t tasks() const { return models.policy->tasks().size(); }
  RankerCounters ranker_counters() const {
    RankerCounters sum;
    for (const auto& ranker : rankers) detail::add_counts(sum, ranker->counters(), detail::ranker_counts);
    return sum;
  }

  Models models;
  std::shared_ptr<FeatureCenter> center;
  const PipelineOptions& options;                // of the pipeline
  std::vector<std::unique_ptr<Ranker>> rankers;  // of the models' policy and the alternatives
  std::array<char, 16> version{};
  std::optional<FeatureInputs> context;  // of all policies
  std::vector<FeatureInputs> inputs;     // item columns of each policy's correction
  std::optional<std::size_t> history;    // place of `evidence` in the request's features
  std::optional<std::size_t> price;      // place of `price_of_item` in the features of items
  std::vector<std::string> columns;      // item columns of all policies' corrections

  // Candidates of an unknown user: items, best first by prerank, their predictions, and their places by ascending id.
  std::vector<std::int64_t> default_ids;
  std::vector<float> default_predictions;
  std::vector<std::uint32_t> by_id;
};

namespace {
// `slots`: a table of places + 1 by hash.
void check_items(std::span<const std::int64_t> items, std::vector<std::uint32_t>& slots) {
  const std::size_t mask = std::bit_ceil(2 * items.size() + 1) - 1;
  slots.assign(mask + 1, 0);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i] < 0) throw std::invalid_argument("item_ids holds " + std::to_string(items[i]) + "; expected ids >= 0");
    std::size_t at = static_cast<std::size_t>(detail::seeded_hash(items[i])) & mask;
    for (; slots[at] != 0; at = (at + 1) & mask)
      if (items[slots[at] - 1] == items[i])
        throw std::invalid_argument("item_ids holds " + std::to_string(items[i]) +
                                    " more than once; expected distinct ids");
    slots[at] = static_cast<std::uint32_t>(i + 1);
  }
}
}  // namespace

// Whether features of the candidates are wanted: by a model, by the policy's correction, or for their prices.
bool Pipeline::State::reads_items(const PipelineRequest& request) const {
  if ((!request.predictions && reads_items()) || reads_prices(request)) return true;
  return any_of(request, [&](std::size_t place) {
    const auto names = policy(place).items();
    for (std::size_t i = 0; i < names.size(); ++i)
      if (inputs[place].known(i) &&
          std::ranges::find(request.item_features, names[i], &ItemColumn::name) == request.item_features.end())
        return true;
    return false;
  });
}

// Everything that can be wrong with a request, before anything is read. The ranker checks values and rules.
void Pipeline::State::check(const PipelineRequest& request, const PipelineBuffer& buffer) const {
  if (buffer.items.empty() || buffer.scores.size() != buffer.items.size())
    throw std::invalid_argument("items and scores must have k >= 1 places each");
  const auto fits = [&](std::size_t size) { return size == 0 || size == tasks(); };
  if (!fits(buffer.weights.size()) || !fits(buffer.concentration.size()))
    throw std::invalid_argument("weights and concentration must have one place for each task, or none");
  if (request.candidates < 1) throw std::invalid_argument("candidates is 0; expected at least 1");
  for (const auto& [name, place] : {std::pair("policy", request.policy), {"without_history", request.without_history}})
    if (place >= rankers.size())
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(place) + "; the models have " +
                                  std::to_string(rankers.size()));
  if (!request.item_ids) {
    const auto refuse_rows = [](bool given, const char* name) {
      if (given) throw std::invalid_argument(std::string(name) + " is given without item_ids; expected both");
    };
    refuse_rows(request.predictions.has_value(), "predictions");
    refuse_rows(!request.item_features.empty(), "item_features");
#define PYGRADE_COLUMN(type, name, rows, width, json, text) refuse_rows(!request.page.name.empty(), #name);
#include "pygrade/request.def"
    refuse_rows(!request.page.pins.empty(), "pins");
    refuse_rows(!request.page.demoted.empty(), "demoted");
    if (!searches())
      throw std::invalid_argument("item_ids is missing; the models have no prerank and options no retrieve");
  }
  if (!request.predictions && !predicts())
    throw std::invalid_argument(
        "predictions is missing: the artifact has no multi-task model (--mtl own), and options no predict; expected "
        "predictions [n, T] of item_ids");
  if (request.predictions && request.predictions->size() != request.item_ids->size() * tasks())
    throw std::invalid_argument("predictions has " + std::to_string(request.predictions->size()) +
                                " values; expected " + std::to_string(request.item_ids->size()) + " items × " +
                                std::to_string(tasks()) + " tasks");
  if (request.predictions) policy(request.policy).scales().check(*request.predictions);
  const auto holds = [](const std::vector<std::string>& names, std::string_view name) {
    return std::ranges::find(names, name) != names.end();
  };
  const Features& features = *models.features;
  const bool with_features = reads_items(request);
  for (const ItemColumn& column : request.item_features) {
    if (column.values.size() != request.item_ids->size())
      throw std::invalid_argument("item_features '" + std::string(column.name) + "' has " +
                                  std::to_string(column.values.size()) + " values; expected " +
                                  std::to_string(request.item_ids->size()) + ", one for each of item_ids");
    if (std::ranges::count(request.item_features, column.name, &ItemColumn::name) > 1)
      throw std::invalid_argument("item_features names '" + std::string(column.name) + "' twice");
    if (!holds(columns, column.name) && !(with_features && (holds(features.item_features(), column.name) ||
                                                            holds(features.cross_features(), column.name))))
      throw SchemaError("item_features names '" + std::string(column.name) +
                        "', which nothing reads: it is no item column of a policy's correction" +
                        (with_features ? ", and no feature of items" : ""));
  }
}

// The request's columns: features of items in place of those read, and copies of what the corrections read.
void Pipeline::State::take_columns(const PipelineRequest& request, PageWorkspace::Impl& work) const {
  const bool with_features = reads_items(request);
  const auto replace = [](const std::vector<std::string>& names, const ItemColumn& column, std::vector<float>& rows) {
    const auto found = std::ranges::find(names, column.name);
    if (found == names.end()) return;
    const std::size_t width = names.size(), place = static_cast<std::size_t>(found - names.begin());
    for (std::size_t i = 0; i < column.values.size(); ++i) rows[i * width + place] = column.values[i];
  };
  const std::size_t rows = work.items.size();
  work.given_columns.clear();
  work.columns.resize(request.item_features.size() * rows);
  for (const ItemColumn& column : request.item_features) {
    if (with_features) {
      replace(models.features->item_features(), column, work.features.item_dense);
      replace(models.features->cross_features(), column, work.features.cross_dense);
    }
    const auto name = std::ranges::find(columns, column.name);
    if (name == columns.end()) continue;
    const auto copy = std::span(work.columns).subspan(work.given_columns.size() * rows, rows);
    std::ranges::copy(column.values, copy.begin());
    work.given_columns.push_back({*name, copy});
  }
}

void Pipeline::State::search(const FeatureBuffer& user, std::span<const std::int64_t> seen,
                             std::optional<std::span<const std::int64_t>> eligible, std::size_t count,
                             PageWorkspace::Impl& work) const {
  std::size_t found = 0;
  if (models.prerank == nullptr) {
    work.items.resize(count);
    found = std::min(options.retrieve(user, seen, eligible, work.items), count);
  } else {
    work.items.resize(std::min(count, models.prerank->num_items()));
    work.vector.resize(models.prerank->width());
    models.prerank->user_vector(user.request_dense, user.request_ids, user.sequences, work.vector);
    found = models.prerank->search(work.vector, seen, eligible, work.items);
  }
  work.items.resize(found);
}

// Predictions of the candidates; false if time ran out before they were all there. `request`: null of an unknown user.
bool Pipeline::State::predict(const PipelineRequest* request, PageWorkspace::Impl& work,
                              std::optional<Clock::time_point> deadline) const {
  const Features& features = *models.features;
  const FeatureBuffer& from = work.features;
  const bool with_features = reads_items();
  const std::size_t rows = work.items.size();
  const std::size_t width = with_features ? features.item_features().size() + features.cross_features().size() : 0;
  const std::size_t ids = with_features ? features.item_id_features().size() : 0;
  work.request_dense.resize(from.request_dense.size());
  work.dense.resize(rows * width);
  work.predictions.resize(rows * tasks());
  features.normalize_request(from.request_dense, work.request_dense);
  if (with_features) features.normalize_rows(from.item_dense, from.cross_dense, work.dense);
  const std::size_t step = deadline ? block : std::max<std::size_t>(rows, 1);
  for (std::size_t begin = 0; begin < rows; begin += step) {
    if (deadline && Clock::now() >= *deadline) return false;
    const std::size_t count = std::min(step, rows - begin);
    const auto dense = std::span<const float>(work.dense).subspan(begin * width, count * width);
    const auto item_ids = std::span<const std::int64_t>(from.item_ids).subspan(begin * ids, count * ids);
    const auto out = std::span(work.predictions).subspan(begin * tasks(), count * tasks());
    if (models.mtl == nullptr)
      options.predict(
          {count, work.request_dense, from.request_ids, dense, item_ids,
           std::span<const std::int64_t>(work.items).subspan(begin, count),
           request == nullptr ? nullptr : &request->user, begin, request == nullptr ? nullptr : request->user_data},
          out);
    else
      models.mtl->predict_request(work.request_dense, from.request_ids, dense, item_ids, out);
  }
  return !deadline || Clock::now() < *deadline;
}

// An unknown user's items and their predictions, without context, at the start of 1970.
void Pipeline::State::fill_defaults() {
  FeatureCenter nothing(models.features, std::make_shared<NoStore>());
  PageWorkspace::Impl work;
  nothing.read_user({}, work.features);
  search(work.features, {}, {}, default_items, work);
  if (reads_items()) nothing.read_items(work.items, work.features);
  predict(nullptr, work, {});
  default_ids = std::move(work.items);
  default_predictions = std::move(work.predictions);
  by_id.resize(default_ids.size());
  std::iota(by_id.begin(), by_id.end(), 0u);
  std::ranges::sort(by_id, {}, [&](std::uint32_t place) { return default_ids[place]; });
}

// The place of an item among the default ones, if it is there.
std::optional<std::size_t> Pipeline::State::default_place(std::int64_t item) const {
  const auto found = std::ranges::lower_bound(by_id, item, {}, [&](std::uint32_t place) { return default_ids[place]; });
  if (found == by_id.end() || default_ids[*found] != item) return {};
  return *found;
}

// The candidates and predictions of the page for which there was no time: those given, or the default items without the
// seen and ineligible ones; if none is left, eligible ones. Items without a default prediction get none, and rank last.
void Pipeline::State::take_defaults(const PipelineRequest& request, PageWorkspace::Impl& work) const {
  if (request.item_ids) {
    work.items.assign(request.item_ids->begin(), request.item_ids->end());
  } else {
    work.passes.assign(default_ids.size(), !request.eligible);
    const auto mark = [&](std::span<const std::int64_t> items, bool passes) {
      for (const std::int64_t item : items)
        if (const auto place = default_place(item)) work.passes[*place] = passes;
    };
    if (request.eligible) mark(*request.eligible, true);
    mark(request.seen, false);
    work.items.clear();
    for (std::size_t place = 0; place < default_ids.size() && work.items.size() < request.candidates; ++place)
      if (work.passes[place]) work.items.push_back(default_ids[place]);
    if (work.items.empty() && request.eligible) {
      work.sorted.assign(request.seen.begin(), request.seen.end());
      std::ranges::sort(work.sorted);
      for (const std::int64_t item : *request.eligible)
        if (work.items.size() < request.candidates && !std::ranges::binary_search(work.sorted, item))
          work.items.push_back(item);
    }
  }
  const std::size_t width = tasks(), rows = work.items.size();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  FeatureBuffer& unread = work.features;
  unread.defaults = true;
  unread.request_dense.assign(models.features->request_features().size(), nan);
  unread.request_ids.assign(models.features->request_id_features().size(), 0);
  unread.sequences.assign(models.features->sequence_length(), -1);
  const std::size_t read = reads_items(request) ? rows : 0;
  unread.item_dense.assign(read * models.features->item_features().size(), nan);
  unread.item_ids.assign(read * models.features->item_id_features().size(), 0);
  unread.cross_dense.assign(read * models.features->cross_features().size(), nan);
  if (request.predictions) {
    work.predictions.resize(request.predictions->size());
    policy(request.policy).scales().read(*request.predictions, work.predictions);
    return;
  }
  work.predictions.assign(rows * width, nan);
  for (std::size_t row = 0; row < rows; ++row) {
    if (const auto place = default_place(work.items[row]))
      std::copy_n(default_predictions.begin() + static_cast<std::ptrdiff_t>(*place * width), width,
                  work.predictions.begin() + static_cast<std::ptrdiff_t>(row * width));
  }
}

// The features of the user, the candidates with theirs, and their predictions; false if time ran out. `lap` ends a step
// and says whether it did.
template <class Lap>
bool Pipeline::State::take_candidates(const PipelineRequest& request, PageWorkspace::Impl& work,
                                      std::optional<Clock::time_point> deadline, Lap&& lap) const {
  const bool with_features = reads_items(request);
  if (deadline && Clock::now() >= *deadline) return false;
  center->read_user(request.user, work.features, deadline);
  if (lap(step_user)) return false;
  if (request.item_ids)
    work.items.assign(request.item_ids->begin(), request.item_ids->end());
  else
    search(work.features, request.seen, request.eligible, request.candidates, work);
  if (lap(step_prerank)) return false;
  if (work.items.empty()) return true;
  if (with_features) {
    center->read_items(work.items, work.features, deadline);
  } else {
    work.features.item_dense.clear();
    work.features.item_ids.clear();
    work.features.cross_dense.clear();
  }
  if (lap(step_items)) return false;
  take_columns(request, work);
  if (request.predictions) {
    work.predictions.resize(request.predictions->size());
    policy(request.policy).scales().read(*request.predictions, work.predictions);
    return true;
  }
  const bool predicted = predict(&request, work, deadline);
  lap(step_predictions);
  return predicted;
}

// Makes the request to the ranker for the candidates; returns the policy that ranks it.
std::size_t Pipeline::State::make_request(const PipelineRequest& request, Degraded& degraded,
                                          PageWorkspace::Impl& work) const {
  work.request = request.page;
  const bool has_features = degraded == Degraded::none || degraded == Degraded::version;
  if (has_features) {
    work.context.resize(context->size());
    context->take_all(work.features.request_dense, work.features.request_ids, work.context);
    work.request.context = work.context;
  }
  work.request.predictions = work.predictions;
  work.request.as_logged = true;
  const Policy& own = policy(request.policy);
  add_features(inputs[request.policy], own, work.features, work.items.size(), work.given_columns, work.others,
               work.other_columns);
  work.unknown_items = own.item_columns(work.items, work.other_columns, work.item_rows);
  if (request.history && own.correction() && work.item_rows.empty())
    work.item_rows.assign(work.items.size() * own.items().size(), std::numeric_limits<float>::quiet_NaN());
  work.request.items = work.item_rows;
  const bool without =
      request.history && !(has_features && (*request.history)(work.items, work.context, work.item_rows));
  if (without && has_features) {
    if (request.without_history == request.policy)  // which may read what a failing call has written
      throw std::invalid_argument("history is not there, and without_history is the policy that reads it");
    degraded = Degraded::history;
  }
  if (request.rules) work.request.rules = (*request.rules)(work.items);
  if (request.item_values) work.request.item_values = (*request.item_values)(work.items);
  if (reads_prices(request)) {
    const std::size_t width = models.features->item_features().size();
    work.prices.resize(work.items.size());
    for (std::size_t i = 0; i < work.prices.size(); ++i) {  // an unknown price counts as 0
      const float known = work.features.item_dense[i * width + *price];
      work.prices[i] = known > 0.0f && std::isfinite(known) ? known : 0.0f;
    }
    work.request.item_values = work.prices;
  }
  work.request.scenario = request.user.scenario;
  return without ? request.without_history : request.policy;
}

Pipeline::Pipeline(Models models, std::shared_ptr<FeatureCenter> center, const PipelineOptions& options)
    : options_(options), totals_(std::make_unique<Totals>()), stream_(detail::first_draw(options.seed)) {
  if (center == nullptr) throw std::invalid_argument("center is null");
  auto state = make_state(std::move(models), std::move(center));
  num_tasks_ = state->tasks();
  states_ = std::make_unique<detail::HotSwap<State, Nothing>>(std::move(state));
}

std::unique_ptr<Pipeline> Pipeline::load(const std::string& artifact, std::shared_ptr<Store> store,
                                         const PipelineOptions& options) {
  return load(Models::load(artifact), std::move(store), options);
}

std::unique_ptr<Pipeline> Pipeline::load(Models models, std::shared_ptr<Store> store, const PipelineOptions& options) {
  if (store == nullptr) throw std::invalid_argument("store is null");
  const auto current = store->current();
  if (!options.any_version && current != models.version)
    throw ArtifactError(store->url() + " serves version " + current.value_or("none") + "; the artifact is " +
                        models.version + ": publish again");
  auto center = make_center(models, std::move(store), options);
  return std::make_unique<Pipeline>(std::move(models), std::move(center), options);
}

Pipeline::~Pipeline() = default;

std::unique_ptr<const Pipeline::State> Pipeline::make_state(Models models,
                                                            std::shared_ptr<FeatureCenter> center) const {
  auto state = std::make_unique<const State>(std::move(models), std::move(center), options_);
  const std::lock_guard lock(totals_->mutex);
  totals_->living.push_back(state.get());
  return state;
}

// Its counts outlive it; the center's only if no later state goes on with it.
void Pipeline::retire(std::unique_ptr<const State> state) {
  const std::lock_guard lock(totals_->mutex);
  std::erase(totals_->living, state.get());
  detail::add_counts(totals_->ranker, state->ranker_counters(), detail::ranker_counts);
  const bool goes_on =
      std::ranges::any_of(totals_->living, [&](const State* other) { return other->center == state->center; });
  if (!goes_on) detail::add_counts(totals_->features, state->center->counters(), detail::feature_counts);
}

Pipeline::Lease::Lease(const Pipeline& pipeline, PageWorkspace& workspace) : work_(workspace.impl_.get()) {
  if (work_->slot != nullptr) throw std::logic_error("the workspace has a lease");
  auto& slot = pipeline.states_->hold();
  const State* state = slot.value.load(std::memory_order_relaxed);
  work_->owner = &pipeline;
  work_->state = state;
  work_->models = &state->models;
  work_->slot = &slot;
}

Pipeline::Lease::~Lease() {
  if (work_ == nullptr) return;
  detail::HotSwap<State, Nothing>::release(*static_cast<detail::HotSlot<State, Nothing>*>(work_->slot));
  work_->owner = work_->state = work_->slot = nullptr;
  work_->models = nullptr;
}

const Models& Pipeline::Lease::models() const { return *work_->models; }

ServedPage Pipeline::rank(const PipelineRequest& request, const PipelineBuffer& buffer, PageWorkspace& workspace) {
  return rank(request, buffer, workspace, {});
}

// `draw`: the next of the stream, if it was taken before.
ServedPage Pipeline::rank(const PipelineRequest& request, const PipelineBuffer& buffer, PageWorkspace& workspace,
                          std::optional<std::uint64_t> draw) {
  auto last = Clock::now();
  std::optional<Clock::time_point> deadline;
  if (request.deadline) deadline = request.arrival.value_or(last) + *request.deadline;
  PageWorkspace::Impl& work = *workspace.impl_;
  std::optional<Lease> lease;
  if (work.slot == nullptr)
    lease.emplace(*this, workspace);
  else if (work.owner != this)
    throw std::logic_error("the workspace has a lease of another pipeline");
  const State& state = *static_cast<const State*>(work.state);
  state.check(request, buffer);
  if (request.item_ids) check_items(*request.item_ids, work.slots);

  ServedPage served;
  served.artifact_version = state.version;
  const auto lap = [&](Step step) {
    const auto now = Clock::now();
    served.seconds[step] += std::chrono::duration<float>(now - last).count();
    last = now;
    return deadline && now >= *deadline;
  };
  const bool in_time = state.take_candidates(request, work, deadline, lap);
  if (!in_time) {
    state.take_defaults(request, work);
    state.take_columns(request, work);
    served.degraded = Degraded::deadline;
  } else if (work.features.defaults) {
    served.degraded = Degraded::store;
  } else if (work.features.other_version) {
    served.degraded = Degraded::version;
  }
  if (work.items.empty())
    throw std::invalid_argument("no candidate is left: item_ids is empty, or every eligible item is among those seen");

  const std::size_t k = buffer.items.size();
  work.indices.resize(k);
  work.scores.resize(k);
  work.policy = state.make_request(request, served.degraded, work);
  if (work.policy != request.policy && !state.policy(work.policy).takes_values()) work.request.values = {};
  if (request.page.explore)
    work.request.draw = request.page.draw ? *request.page.draw : draw ? *draw : detail::reserve_draws(stream_, 1);
  work.buffer = {work.scores, work.indices, buffer.weights, buffer.concentration, buffer.effects};
  served.page = state.rankers[work.policy]->rank(work.request, work.buffer);
  for (std::size_t place = 0; place < k; ++place) {
    const std::int32_t index = work.indices[place];
    buffer.items[place] = index < 0 ? -1 : work.items[static_cast<std::size_t>(index)];
    buffer.scores[place] = work.scores[place];
  }
  served.filled = served.page.filled;
  served.candidates = static_cast<std::int32_t>(work.items.size());
  if (state.history && served.degraded != Degraded::deadline)
    served.history = work.features.request_dense[*state.history];
  if (served.degraded == Degraded::store) ++totals_->degraded_store;
  if (served.degraded == Degraded::deadline) ++totals_->degraded_deadline;
  if (served.degraded == Degraded::version) ++totals_->degraded_version;
  lap(step_ranking);
  return served;
}

void Pipeline::rank(std::span<const PipelineRequest> requests, std::span<const PipelineBuffer> buffers,
                    std::span<ServedPage> pages, std::span<PageWorkspace> workspaces) {
  if (buffers.size() != requests.size() || pages.size() != requests.size())
    throw std::invalid_argument("buffers and pages must have one entry for each request");
  if (workspaces.empty()) throw std::invalid_argument("workspaces is empty; expected one for each thread");
  const auto count = static_cast<std::int64_t>(requests.size());
  const auto threads = static_cast<int>(std::min<std::size_t>(workspaces.size(), 1 << 10));
  std::vector<std::optional<std::uint64_t>> draws(requests.size());  // in the order of the requests
  for (std::size_t r = 0; r < requests.size(); ++r)
    if (requests[r].page.explore && !requests[r].page.draw) draws[r] = detail::reserve_draws(stream_, 1);
  std::atomic<std::size_t> next{0};
  std::mutex failing;
  std::size_t first = requests.size();
  std::exception_ptr error;
  detail::parallel_for(threads, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t thread = begin; thread < end; ++thread)
      for (std::size_t r = next++; r < static_cast<std::size_t>(count); r = next++) try {
          pages[r] = rank(requests[r], buffers[r], workspaces[static_cast<std::size_t>(thread)], draws[r]);
        } catch (...) {
          const std::lock_guard lock(failing);
          if (r < first) {
            first = r;
            error = std::current_exception();
          }
        }
  });
  if (error) std::rethrow_exception(error);
}

std::size_t Pipeline::update(const FeedbackEvents& events) { return center()->update(events); }

void Pipeline::publish(Models models) {
  const std::lock_guard lock(publishing_);
  PageWorkspace workspace;
  std::unique_ptr<const State> next;
  {
    const Lease lease(*this, workspace);
    const State& now = *static_cast<const State*>(workspace.impl_->state);
    auto center = now.center;
    if (models.features != nullptr && models.features->fingerprint() == center->features()->fingerprint())
      models.features = center->features();
    if (models.features != center->features() || models.version != now.models.version)
      center = make_center(models, center->store(), options_);
    if (!options_.any_version && !models.version.empty() && center->read_version() != models.version)
      throw ArtifactError(center->store()->url() + " does not hold version " + models.version +
                          " of the artifact: publish it there first");
    next = make_state(std::move(models), std::move(center));
  }
  num_tasks_ = next->tasks();
  retire(states_->swap(std::move(next)));
  ++totals_->reloads;
}

Models Pipeline::models() const {
  PageWorkspace workspace;
  return Lease(*this, workspace).models();
}

std::shared_ptr<FeatureCenter> Pipeline::center() const {
  PageWorkspace workspace;
  const Lease lease(*this, workspace);
  return static_cast<const State*>(workspace.impl_->state)->center;
}

PipelineCounters Pipeline::counters() const {
  PipelineCounters counters;
  const std::lock_guard lock(totals_->mutex);
  counters.features = totals_->features;
  counters.ranker = totals_->ranker;
  std::vector<const FeatureCenter*> counted;
  for (const State* state : totals_->living) {
    detail::add_counts(counters.ranker, state->ranker_counters(), detail::ranker_counts);
    if (std::ranges::find(counted, state->center.get()) != counted.end()) continue;
    detail::add_counts(counters.features, state->center->counters(), detail::feature_counts);
    counted.push_back(state->center.get());
  }
  counters.degraded_store = totals_->degraded_store;
  counters.degraded_deadline = totals_->degraded_deadline;
  counters.degraded_version = totals_->degraded_version;
  counters.reloads = totals_->reloads;
  return counters;
}
}  // namespace pygrade::inline v0_2
