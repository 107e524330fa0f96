#include "pygrade/features.hpp"

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
using Ids = std::span<const std::int64_t>;

// Buffers that requests are done with, for later ones.
using Buffers = detail::Pool<FeatureBuffer>;

Buffers& buffers() {
  static Buffers all;
  return all;
}

// request_dense, request_ids, sequences, item_dense, item_ids, cross_dense, defaults.
py::tuple to_tuple(const FeatureBuffer& buffer, const Features& features, std::size_t rows) {
  return py::make_tuple(copy_to_array(buffer.request_dense, {1, features.request_features().size()}),
                        copy_to_array(buffer.request_ids, {1, features.request_id_features().size()}),
                        copy_to_array(buffer.sequences, {1, features.sequence_length()}),
                        copy_to_array(buffer.item_dense, {rows, features.item_features().size()}),
                        copy_to_array(buffer.item_ids, {rows, features.item_id_features().size()}),
                        copy_to_array(buffer.cross_dense, {rows, features.cross_features().size()}), buffer.defaults);
}

py::tuple read(const std::shared_ptr<FeatureCenter>& center, std::int64_t user_id, py::handle item_ids,
               std::int64_t timestamp, const std::optional<std::string>& scenario, const py::dict& context) {
  const detail::Loan<Buffers> loan{buffers()};
  FeatureBuffer& buffer = *loan;
  const auto values = context_of(context);
  const Ids items = span_of<const std::int64_t>(item_ids, "item_ids");
  {
    const py::gil_scoped_release unlocked;
    center->read({user_id, timestamp, scenario, values}, items, buffer);
  }
  return to_tuple(buffer, *center->features(), items.size());
}

std::size_t update(FeatureCenter& center, py::handle user_id, py::handle item_id, py::handle event_time,
                   const std::optional<std::vector<std::string>>& scenario, const py::dict& outcomes) {
  FeedbackEvents events{span_of<const std::int64_t>(user_id, "user_id"),
                        span_of<const std::int64_t>(item_id, "item_id"),
                        span_of<const std::int64_t>(event_time, "event_time")};
  std::vector<std::string_view> scenarios;
  if (scenario) scenarios.assign(scenario->begin(), scenario->end());
  events.scenario = scenarios;
  std::vector<FeedbackEvents::Outcome> columns;
  for (const auto& [name, values] : outcomes) {
    const auto column = py::cast<std::string_view>(name);
    columns.push_back({column, span_of<const double>(values, "an outcome")});
  }
  events.outcomes = columns;
  const py::gil_scoped_release unlocked;
  return center.update(events);
}

py::dict counters(const FeatureCenter& center) {
  py::dict result;
  add_counts(result, center.counters(), detail::feature_counts);
  return result;
}

// [rows, names] of dense[rows, D] and ids[rows, F]; of items NaN where no feature has the name.
py::array_t<float> inputs(const Features& features, const std::vector<std::string>& names, bool of_requests,
                          py::handle dense, py::handle ids) {
  const FeatureInputs made(features, names, of_requests);
  for (std::size_t i = 0; of_requests && i < names.size(); ++i)
    if (!made.known(i)) throw SchemaError("no feature of requests has the name '" + names[i] + "'");
  const std::size_t rows = py::len(dense);
  const auto numbers = span_of<const float>(dense, "dense", {rows, any_size});
  const auto codes = span_of<const std::int64_t>(ids, "ids", {rows, any_size});
  auto out = new_array_of<float>({rows, names.size()});
  made.take_all(numbers, codes, {out.mutable_data(), rows * names.size()});
  return out;
}

// rows[n, width] normalized into out.
void normalize(const Features& features, py::handle request_dense, py::handle item_dense, py::handle cross_dense,
               py::handle request_out, py::handle rows_out) {
  const auto floats = [](py::handle value, const char* name) {
    return span_of<float>(value, name, {any_size, any_size});
  };
  features.normalize_request(floats(request_dense, "request_dense"), floats(request_out, "request_out"));
  features.normalize_rows(floats(item_dense, "item_dense"), floats(cross_dense, "cross_dense"),
                          floats(rows_out, "rows_out"));
}
}  // namespace

void bind_features(py::module_& module) {
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const SchemaError& error) {
      py::set_error(py::module_::import("pygrade.features.feature").attr("SchemaError"), error.what());
    }
  });
  py::class_<Features, std::shared_ptr<Features>>(module, "Features")
      .def(py::init([](const std::string& schema, const py::bytes& fitted, const std::string& name) {
             return mutable_of(Features::parse(schema, bytes_of(fitted), name));
           }),
           "schema"_a, "fitted"_a, "name"_a = "features")
      .def_static(
          "load", [](const std::string& path) { return mutable_of(Features::load(path)); }, "path"_a)
      .def_property_readonly("hash", &Features::hash)
      .def("inputs", &inputs, "names"_a, "of_requests"_a, "dense"_a, "ids"_a)
      .def("normalize", &normalize, "request_dense"_a, "item_dense"_a, "cross_dense"_a, "request_out"_a, "rows_out"_a);
  py::class_<FeatureCenter, std::shared_ptr<FeatureCenter>>(module, "FeatureCenter")
      .def(py::init<const std::shared_ptr<Features>&, const std::shared_ptr<Store>&, std::optional<double>, std::size_t,
                    const std::optional<std::string>&>(),
           "features"_a, "store"_a, "ttl"_a, "cache"_a, "version"_a)
      .def_property_readonly("counters", &counters)
      .def("read", &read, "user_id"_a, "item_ids"_a, "timestamp"_a, "scenario"_a, "context"_a)
      .def("update", &update, "user_id"_a, "item_id"_a, "event_time"_a, "scenario"_a, "outcomes"_a);
}
}  // namespace pygrade::inline v0_2::bindings
