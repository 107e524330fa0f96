#include "pygrade/pipeline.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../src/util/pool.hpp"
#include "arrays.hpp"
#include "context.hpp"
#include "counts.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

using Items = std::span<const std::int64_t>;

template <class T>
py::array_t<T> to_array(std::span<const T> values, std::vector<py::ssize_t> shape) {
  py::array_t<T> array(std::move(shape));
  std::ranges::copy(values, array.mutable_data());
  return array;
}

Items items_of(py::handle value, const char* name) {
  return array(value, name, Dtype::int64, {any_size}).span<const std::int64_t>();
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
    const auto count = static_cast<py::ssize_t>(rows.rows);
    const auto table = [](const auto& values, py::ssize_t height) {
      using T = std::remove_const_t<typename std::decay_t<decltype(values)>::element_type>;
      const auto size = static_cast<py::ssize_t>(values.size());
      return to_array<T>(values, {height, height == 0 ? 0 : size / height});
    };
    const FeatureRequest* request = rows.request;
    py::object user = py::none(), scenario = py::none();
    if (request != nullptr) user = py::int_(request->user_id);
    if (request != nullptr && request->scenario) scenario = py::str(std::string(*request->scenario));
    const py::object found = (*kept)(
        user, request == nullptr ? 0 : request->timestamp, scenario, to_array<std::int64_t>(rows.item_ids, {count}),
        table(rows.request_dense, 1), table(rows.request_ids, 1), table(rows.dense, count), table(rows.ids, count),
        rows.first, rows.user_data == nullptr ? py::object(py::none()) : *static_cast<py::object*>(rows.user_data));
    const auto tasks = rows.rows == 0 ? 0 : static_cast<py::ssize_t>(probabilities.size() / rows.rows);
    const auto given = array(found, "the predictions", Dtype::float32, {count, tasks}).span<const float>();
    std::ranges::copy(given, probabilities.begin());
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

py::dict rank(Served& served, std::int64_t user_id, std::int64_t timestamp, const std::optional<std::string>& scenario,
              const py::dict& context, std::size_t k, std::size_t candidates, py::handle item_ids, py::handle seen,
              py::handle eligible, bool explore, py::handle values, std::optional<std::int64_t> deadline,
              const py::object& item_values, py::handle predictions, const py::dict& item_features,
              py::object user_data) {
  const auto given = context_of(context);
  PipelineRequest request;
  request.user = {user_id, timestamp, scenario, given};
  request.candidates = candidates;
  if (!item_ids.is_none()) request.item_ids = items_of(item_ids, "item_ids");
  if (!seen.is_none()) request.seen = items_of(seen, "seen");
  if (!eligible.is_none()) request.eligible = items_of(eligible, "eligible");
  request.explore = explore;
  if (!values.is_none()) request.values = array(values, "values", Dtype::float32, {any_size}).span<const float>();
  if (deadline) request.deadline = std::chrono::microseconds(*deadline);

  if (!predictions.is_none())
    request.predictions = array(predictions, "predictions", Dtype::float32, {any_size, any_size}).span<const float>();
  std::vector<ItemColumn> columns;
  for (const auto& [name, values] : item_features)
    columns.push_back({py::cast<std::string_view>(name),
                       array(values, "item_features", Dtype::float32, {any_size}).span<const float>()});
  request.item_features = columns;
  request.user_data = &user_data;

  std::vector<float> prices;
  const auto priced = [&](Items ids) {
    const py::gil_scoped_acquire locked;
    const auto count = static_cast<py::ssize_t>(ids.size());
    const py::object found = item_values(to_array<std::int64_t>(ids, {count}));
    const auto asked = array(found, "item_values", Dtype::float32, {count}).span<const float>();
    prices.assign(asked.begin(), asked.end());
    return std::span<const float>(prices);
  };
  if (!item_values.is_none()) request.item_values = priced;

  const detail::Loan loan(served.workspaces);
  PageWorkspace& workspace = *loan;
  const std::size_t tasks = served.pipeline->num_tasks();
  std::vector<std::int64_t> items(k);
  py::array_t<float> scores({py::ssize_t{1}, static_cast<py::ssize_t>(k)});
  py::array_t<float> weights({py::ssize_t{1}, static_cast<py::ssize_t>(tasks)}), concentration(weights.request().shape);
  const PipelineBuffer buffer{
      items, {scores.mutable_data(), k}, {weights.mutable_data(), tasks}, {concentration.mutable_data(), tasks}};
  ServedPage page;
  std::vector<float> in_force;  // multipliers
  {
    const py::gil_scoped_release unlocked;
    const Pipeline::Lease lease(*served.pipeline, workspace);
    page = served.pipeline->rank(request, buffer, workspace);
    const Policy& policy = workspace.policy();
    if (policy.trade_offs() || !request.values.empty()) {
      in_force.resize(tasks);
      policy.multipliers(request.values, request.user.scenario, in_force);
    }
  }
  const FeatureBuffer& f = workspace.features();
  const auto rows = static_cast<py::ssize_t>(workspace.item_ids().size());
  const auto wide = [&](const auto& all) {
    return std::vector<py::ssize_t>{rows, static_cast<py::ssize_t>(all.size()) / rows};
  };
  const auto once = [](const auto& all) { return std::vector<py::ssize_t>{1, static_cast<py::ssize_t>(all.size())}; };
  py::dict result;
  result["items"] =
      to_array<std::int64_t>(std::span(items).first(static_cast<std::size_t>(page.filled)), {page.filled});
  result["values"] = scores;
  result["indices"] = to_array<std::int32_t>(workspace.buffer().indices, {1, static_cast<py::ssize_t>(k)});
  result["weights"] = weights;
  result["concentration"] = concentration;
  result["fallback"] = page.page.fallback != Fallback::none;
  result["explored"] = page.page.explored;
  result["seed"] = page.page.seed;
  result["policy_version"] = std::string(page.page.version());
  result["item_ids"] = to_array<std::int64_t>(workspace.item_ids(), {rows});
  result["predictions"] = to_array<float>(workspace.predictions(), wide(workspace.predictions()));
  result["degraded"] = static_cast<int>(page.degraded);
  result["history"] = page.history;
  result["seconds"] = std::vector<float>(page.seconds.begin(), page.seconds.end());
  result["item_values"] = prices.empty() ? py::object(py::none()) : py::object(to_array<float>(prices, {rows}));
  result["multipliers"] = in_force.empty()
                              ? py::object(py::none())
                              : py::object(to_array<float>(in_force, {1, static_cast<py::ssize_t>(tasks)}));
  const auto columns_of = workspace.request().items;
  result["item_columns"] =
      columns_of.empty() ? py::object(py::none()) : py::object(to_array<float>(columns_of, wide(columns_of)));
  result["request_dense"] = to_array<float>(f.request_dense, once(f.request_dense));
  result["request_ids"] = to_array<std::int64_t>(f.request_ids, once(f.request_ids));
  result["sequences"] = to_array<std::int64_t>(f.sequences, once(f.sequences));
  result["item_dense"] = to_array<float>(f.item_dense, wide(f.item_dense));
  result["item_id_features"] = to_array<std::int64_t>(f.item_ids, wide(f.item_ids));
  result["cross_dense"] = to_array<float>(f.cross_dense, wide(f.cross_dense));
  return result;
}

py::dict counters(const Served& served) {
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
           py::arg("version"), py::arg("features"), py::arg("prerank"), py::arg("mtl").none(true), py::arg("policy"),
           py::arg("center"), py::arg("seed").none(true), py::arg("predict") = py::none())
      .def_static(
          "load",
          [](const std::string& artifact, const std::shared_ptr<Store>& store, bool any_version,
             std::optional<std::uint32_t> seed, const py::object& predict) {
            const PipelineOptions options{.seed = seed, .any_version = any_version, .predict = predict_of(predict)};
            const py::gil_scoped_release unlocked;
            return std::make_unique<Served>(Pipeline::load(artifact, store, options));
          },
          py::arg("artifact"), py::arg("store"), py::arg("any_version") = false, py::arg("seed") = py::none(),
          py::arg("predict") = py::none())
      .def_property_readonly("center", [](const Served& served) { return served.pipeline->center(); })
      .def("rank", &rank, py::arg("user_id"), py::arg("timestamp"), py::arg("scenario").none(true), py::arg("context"),
           py::arg("k"), py::arg("candidates"), py::arg("item_ids") = py::none(), py::arg("seen") = py::none(),
           py::arg("eligible") = py::none(), py::arg("explore") = false, py::arg("values") = py::none(),
           py::arg("deadline") = py::none(), py::arg("item_values") = py::none(), py::arg("predictions") = py::none(),
           py::arg("item_features") = py::dict(), py::arg("user_data") = py::none())
      .def(
          "publish",
          [](Served& served, const std::string& version, const py::object& features, const py::object& prerank,
             const py::object& mtl, const py::object& policy) {
            Models models = models_of(version, features, prerank, mtl, policy);
            const py::gil_scoped_release unlocked;
            served.pipeline->publish(std::move(models));
          },
          py::arg("version"), py::arg("features"), py::arg("prerank"), py::arg("mtl").none(true), py::arg("policy"))
      .def_property_readonly("counters", &counters);
}

}  // namespace pygrade::inline v0_2::bindings
