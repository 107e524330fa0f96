#include "pygrade/pipeline.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../src/util/pool.hpp"
#include "context.hpp"
#include "counts.hpp"
#include "families.hpp"
#include "new_arrays.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
using Items = std::span<const std::int64_t>;

// [rows, values / rows]
auto table_of(const auto& values, std::size_t rows) {
  return copy_to_array(values, {rows, rows == 0 ? 0 : values.size() / rows});
}

// The values, None if there are none.
py::object optional_table(const auto& values, std::size_t rows) {
  return values.empty() ? py::object(py::none()) : py::object(table_of(values, rows));
}

// A pipeline and the workspaces of the threads that rank with it.
struct Served {
  explicit Served(std::unique_ptr<Pipeline> made) : pipeline(std::move(made)) {}

  const std::unique_ptr<Pipeline> pipeline;
  detail::Pool<PageWorkspace> workspaces;
};

// The last reference to a function may be dropped by a thread without the interpreter's lock.
std::shared_ptr<py::object> kept_of(const py::object& function) {
  return {new py::object(function), [](py::object* held) {
            const py::gil_scoped_acquire locked;
            delete held;
          }};
}

// A model in Python: predict(user_id or None, timestamp, scenario, item_ids, request_dense, request_ids, dense, ids,
// first, user_data) → probabilities [n, T].
auto predict_of(const py::object& function) -> decltype(PipelineOptions::predict) {
  if (function.is_none()) return {};
  return [kept = kept_of(function)](const ModelRows& rows, std::span<float> probabilities) {
    const py::gil_scoped_acquire locked;
    const FeatureRequest* request = rows.request;
    py::object user = py::none(), scenario = py::none();
    if (request != nullptr) user = py::int_(request->user_id);
    if (request != nullptr && request->scenario) scenario = py::str(std::string(*request->scenario));
    const py::object found =
        (*kept)(user, request == nullptr ? 0 : request->timestamp, scenario, copy_to_array(rows.item_ids),
                table_of(rows.request_dense, 1), table_of(rows.request_ids, 1), table_of(rows.dense, rows.rows),
                table_of(rows.ids, rows.rows), rows.first,
                rows.user_data == nullptr ? py::object(py::none()) : *static_cast<py::object*>(rows.user_data));
    const std::size_t tasks = rows.rows == 0 ? 0 : probabilities.size() / rows.rows;
    std::ranges::copy(span_of<const float>(found, "the predictions", {rows.rows, tasks}), probabilities.begin());
  };
}

template <class T>
std::shared_ptr<const T> part(const py::object& value) {
  return value.is_none() ? nullptr : std::const_pointer_cast<const T>(py::cast<std::shared_ptr<T>>(value));
}

Models models_of(const std::string& version, const py::object& features, const py::object& prerank,
                 const py::object& mtl, const py::object& policy) {
  return {version, part<Features>(features), part<Prerank>(prerank), part<MultiTaskModel>(mtl), part<Policy>(policy)};
}

py::dict rank_user(Served& served, std::int64_t user_id, std::int64_t timestamp,
                   const std::optional<std::string>& scenario, const py::dict& context, std::size_t k,
                   std::size_t candidates, py::handle item_ids, py::handle seen, py::handle eligible, bool explore,
                   py::handle values, std::optional<std::int64_t> deadline, const py::object& item_values,
                   py::handle predictions, const py::dict& item_features, const py::object& history,
                   py::object user_data) {
  const auto given = context_of(context);
  PipelineRequest request;
  request.user = {user_id, timestamp, scenario, given};
  request.candidates = candidates;
  if (!item_ids.is_none()) request.item_ids = span_of<const std::int64_t>(item_ids, "item_ids");
  request.seen = optional_span<const std::int64_t>(seen, "seen");
  if (!eligible.is_none()) request.eligible = span_of<const std::int64_t>(eligible, "eligible");
  request.page.explore = explore;
  request.page.values = optional_span<const float>(values, "values");
  if (deadline) request.deadline = std::chrono::microseconds(*deadline);
  if (!predictions.is_none())
    request.predictions = span_of<const float>(predictions, "predictions", {any_size, any_size});
  std::vector<ItemColumn> columns;
  for (const auto& [name, column] : item_features)
    columns.push_back({py::cast<std::string_view>(name), span_of<const float>(column, "item_features")});
  request.item_features = columns;
  request.user_data = &user_data;

  std::vector<float> prices;
  const auto priced = [&](Items ids) {
    const py::gil_scoped_acquire locked;
    const py::object found = item_values(copy_to_array(ids));
    const auto asked = span_of<const float>(found, "item_values", {ids.size()});
    prices.assign(asked.begin(), asked.end());
    return std::span<const float>(prices);
  };
  if (!item_values.is_none()) request.item_values = priced;
  const auto policy = history.is_none() ? nullptr : served.pipeline->models().policy;
  const auto remember = [&](Items ids, std::span<float> features, std::span<float> rows) {
    const py::gil_scoped_acquire locked;
    const auto [context, columns] = py::cast<std::pair<py::object, py::object>>(history(copy_to_array(ids)));
    const History& made = *policy->history();
    policy->put_history(span_of<const float>(context, "history's context", {made.context_columns().size()}),
                        span_of<const float>(columns, "history's columns", {ids.size(), made.item_columns().size()}),
                        features, rows);
    return true;
  };
  if (policy != nullptr && policy->history()) request.history = remember;

  const detail::Loan loan(served.workspaces);
  PageWorkspace& workspace = *loan;
  const std::size_t tasks = served.pipeline->num_tasks();
  std::vector<std::int64_t> items(k);
  auto scores = new_array_of<float>({1, k}), weights = new_array_of<float>({1, tasks}),
       concentration = new_array_of<float>({1, tasks});
  const PipelineBuffer buffer{
      items, {scores.mutable_data(), k}, {weights.mutable_data(), tasks}, {concentration.mutable_data(), tasks}};
  ServedPage page;
  Policy::RequestValues in_force;
  {
    const py::gil_scoped_release unlocked;
    const Pipeline::Lease lease(*served.pipeline, workspace);
    page = served.pipeline->rank(request, buffer, workspace);
    workspace.policy().find_values(request.page.values, request.user.scenario, in_force);
  }
  const FeatureBuffer& f = workspace.features();
  const std::size_t rows = workspace.item_ids().size();
  py::dict result;
  result["items"] = copy_to_array(std::span(items).first(static_cast<std::size_t>(page.filled)));
  result["values"] = scores;
  result["indices"] = table_of(workspace.buffer().indices, 1);
  result["weights"] = weights;
  result["concentration"] = concentration;
  result["fallback"] = page.page.fallback != Fallback::none;
  result["explored"] = page.page.explored;
  result["seed"] = page.page.seed;
  result["policy_version"] = std::string(page.page.version());
  result["item_ids"] = copy_to_array(workspace.item_ids());
  result["predictions"] = table_of(workspace.predictions(), rows);
  result["degraded"] = static_cast<int>(page.degraded);
  result["history"] = page.history;
  result["seconds"] = std::vector<float>(page.seconds.begin(), page.seconds.end());
  const auto priced_at = workspace.request().item_values;
  result["item_values"] = priced_at.empty() ? py::object(py::none()) : py::object(copy_to_array(priced_at));
  result["request_values"] = optional_table(in_force.values, 1);
  result["context"] = optional_table(workspace.request().context, 1);
  result["item_columns"] = optional_table(workspace.request().items, rows);
  result["request_dense"] = table_of(f.request_dense, 1);
  result["request_ids"] = table_of(f.request_ids, 1);
  result["sequences"] = table_of(f.sequences, 1);
  result["item_dense"] = table_of(f.item_dense, rows);
  result["item_id_features"] = table_of(f.item_ids, rows);
  result["cross_dense"] = table_of(f.cross_dense, rows);
  return result;
}

py::dict pipeline_counters(const Served& served) {
  const PipelineCounters now = served.pipeline->counters();
  py::dict result;
  add_counts(result, now.features, detail::feature_counts);
  add_counts(result, now.ranker, detail::ranker_counts);
  add_counts(result, now, detail::pipeline_counts);
  return result;
}
}  // namespace

void bind_pipeline(py::module_& module) {
  py::class_<Served>(module, "Pipeline")
      .def(py::init([](const std::string& version, const py::object& features, const py::object& prerank,
                       const py::object& mtl, const py::object& policy, const std::shared_ptr<FeatureCenter>& center,
                       std::optional<std::uint32_t> seed, const py::object& predict) {
             const PipelineOptions options{.seed = seed, .predict = predict_of(predict)};
             Models models = models_of(version, features, prerank, mtl, policy);
             const py::gil_scoped_release unlocked;
             return std::make_unique<Served>(std::make_unique<Pipeline>(std::move(models), center, options));
           }),
           "version"_a, "features"_a, "prerank"_a, "mtl"_a, "policy"_a, "center"_a, "seed"_a, "predict"_a = py::none())
      .def_static(
          "load",
          [](const std::string& artifact, const std::shared_ptr<Store>& store, bool any_version,
             std::optional<std::uint32_t> seed, const py::object& predict) {
            const PipelineOptions options{.seed = seed, .any_version = any_version, .predict = predict_of(predict)};
            const py::gil_scoped_release unlocked;
            return std::make_unique<Served>(Pipeline::load(artifact, store, options));
          },
          "artifact"_a, "store"_a, "any_version"_a = false, "seed"_a = py::none(), "predict"_a = py::none())
      .def_property_readonly("center", [](const Served& served) { return served.pipeline->center(); })
      .def("rank", &rank_user, "user_id"_a, "timestamp"_a, "scenario"_a, "context"_a, "k"_a, "candidates"_a,
           "item_ids"_a = py::none(), "seen"_a = py::none(), "eligible"_a = py::none(), "explore"_a = false,
           "values"_a = py::none(), "deadline"_a = py::none(), "item_values"_a = py::none(),
           "predictions"_a = py::none(), "item_features"_a = py::dict(), "history"_a = py::none(),
           "user_data"_a = py::none())
      .def_property_readonly("counters", &pipeline_counters);
}
}  // namespace pygrade::inline v0_2::bindings
