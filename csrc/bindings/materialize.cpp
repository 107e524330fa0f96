// Features of a whole log: records in memory, the reader of a log, and the moments of pygrade.features.fitted.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "families.hpp"
#include "features/feature_json.hpp"
#include "features/log_reader.hpp"
#include "new_arrays.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
using Column = std::span<const std::int64_t>;
using Matrix = py::array_t<std::int64_t>;

Column column(py::handle value, const char* name, Size size = any_size) {
  return span_of<const std::int64_t>(value, name, {size});
}

// Events [width, e] of a schema.
struct Events {
  const std::int64_t* columns;
  std::size_t count;
};

Events events_of(const detail::Schema& schema, py::handle value) {
  const auto given = array(value, "events", Dtype::int64, {detail::event_width(schema), any_size});
  return {given.span<const std::int64_t>().data(), static_cast<std::size_t>(given.shape[1])};
}

class Records {
 public:
  Records(const std::string& schema, const std::string& name) : schema_(detail::Schema::parse(schema)) {
    const auto found = std::ranges::find(schema_.tables, name, &detail::Table::name);
    if (found == schema_.tables.end()) throw py::value_error("table is '" + name + "', which the schema has not");
    number_ = static_cast<std::size_t>(found - schema_.tables.begin());
    table_ = std::make_unique<detail::RecordTable>(*found);
  }

  detail::RecordTable& table() { return *table_; }
  const std::string& hash() const { return schema_.hash; }

  std::size_t size() const { return table_->keys().size(); }
  Matrix keys() const { return copy_to_array(table_->keys()); }

  void apply(py::handle events) {
    const auto [columns, count] = events_of(schema_, events);
    const py::gil_scoped_release unlocked;
    table_->apply(detail::event_keys(columns, count, number_), detail::event_columns(schema_, columns, count));
  }

  void merge(py::handle keys, py::handle records) {
    const Column of = column(keys, "keys");
    const auto given = span_of<const std::int64_t>(records, "records", {of.size(), table_->width()});
    const py::gil_scoped_release unlocked;
    table_->merge(of, given.data());
  }

  // Records [q, width], and which of the keys are known.
  py::tuple get(py::handle keys) const {
    const Column of = column(keys, "keys");
    Matrix records = new_array_of<std::int64_t>({of.size(), table_->width()});
    auto known = new_array_of<bool>({of.size()});
    std::int64_t* const out = records.mutable_data();
    bool* const flags = known.mutable_data();
    {
      const py::gil_scoped_release unlocked;
      table_->get(of, out, flags);
    }
    return py::make_tuple(records, known);
  }

 private:
  detail::Schema schema_;
  std::size_t number_;
  std::unique_ptr<detail::RecordTable> table_;
};

class LogReader {
 public:
  LogReader(const std::string& schema, py::object user_ids, py::object user_rows, py::object item_ids,
            py::object item_rows)
      : kept_{user_ids, user_rows, item_ids, item_rows},
        reader_(detail::Schema::parse(schema), attributes(user_ids, user_rows), attributes(item_ids, item_rows)) {}

  // [width, e]
  Matrix events(py::handle user_id, py::handle item_id, py::handle event_time, py::handle scenario,
                const py::dict& outcomes) const {
    const Column users = column(user_id, "user_id");
    const Column scenarios = column(scenario, "scenario", users.size());
    FeedbackEvents given{users, column(item_id, "item_id", users.size()),
                         column(event_time, "event_time", users.size())};
    std::vector<std::pair<std::string, std::span<const double>>> named;
    for (const auto& [name, values] : outcomes)
      named.emplace_back(name.cast<std::string>(), span_of<const double>(values, "outcomes"));
    std::vector<FeedbackEvents::Outcome> columns;
    for (const auto& [name, values] : named) columns.push_back({name, values});
    given.outcomes = columns;
    Matrix made = new_array_of<std::int64_t>({detail::event_width(reader_.plan().schema), users.size()});
    std::int64_t* const out = made.mutable_data();
    const py::gil_scoped_release unlocked;
    reader_.events(given, scenarios, out);
    return made;
  }

  // request_dense, request_ids, sequences, item_dense, item_ids, cross_dense
  py::tuple read(const std::vector<Records*>& records, py::handle events, py::handle user_id, py::handle timestamp,
                 py::handle scenario, py::handle offsets, py::handle item_id, const py::list& context) const {
    const detail::Plan& plan = reader_.plan();
    if (records.size() != plan.tables.size()) throw py::value_error("records needs one of each table");
    std::vector<detail::RecordTable*> tables;
    for (Records* one : records) {
      if (one->hash() != plan.schema.hash) throw py::value_error("records are of another schema");
      tables.push_back(&one->table());
    }
    const auto [columns, count] = events_of(plan.schema, events);
    const std::size_t requests = py::len(user_id), rows = py::len(item_id);
    detail::LogRequests asked{column(user_id, "user_id"),
                              column(timestamp, "timestamp", requests),
                              column(scenario, "scenario", requests),
                              column(offsets, "offsets", requests + 1),
                              column(item_id, "item_id"),
                              {},
                              {}};
    if (!std::ranges::is_sorted(asked.offsets) || asked.offsets.front() != 0 ||
        asked.offsets.back() != static_cast<std::int64_t>(rows))
      throw py::value_error("offsets do not divide the rows");
    if (context.size() != plan.schema.context.size()) throw py::value_error("context needs one array of each column");
    for (std::size_t c = 0; c < context.size(); ++c) {
      const bool text = plan.schema.context[c].second == "str";
      asked.codes.push_back(text ? column(context[c], "context", requests) : Column{});
      asked.numbers.push_back(text ? std::span<const double>()
                                   : span_of<const double>(context[c], "context", {requests}));
    }
    auto request_dense = new_array_of<float>({requests, plan.request_features.size()});
    auto request_ids = new_array_of<std::int64_t>({requests, plan.request_id_features.size()});
    auto sequences = new_array_of<std::int64_t>({requests, plan.sequence_length});
    auto item_dense = new_array_of<float>({rows, plan.item_features.size()});
    auto item_ids = new_array_of<std::int64_t>({rows, plan.item_id_features.size()});
    auto cross_dense = new_array_of<float>({rows, plan.cross_features.size()});
    const detail::LogFeatures out{request_dense.mutable_data(), request_ids.mutable_data(), sequences.mutable_data(),
                                  item_dense.mutable_data(),    item_ids.mutable_data(),    cross_dense.mutable_data()};
    {
      const py::gil_scoped_release unlocked;
      reader_.read(tables, columns, count, asked, out);
    }
    return py::make_tuple(request_dense, request_ids, sequences, item_dense, item_ids, cross_dense);
  }

 private:
  static detail::AttributeRows attributes(py::handle ids, py::handle rows) {
    return {column(ids, "ids"), span_of<const std::int64_t>(rows, "rows", {any_size, any_size})};
  }

  const std::array<py::object, 4> kept_;  // the attributes
  detail::LogReader reader_;
};

class Keys {
 public:
  Matrix add(py::handle keys) {
    const Column of = column(keys, "keys");
    std::vector<std::uint32_t> numbers(of.size());
    {
      const py::gil_scoped_release unlocked;
      index_.add(of, numbers.data());
    }
    Matrix made = new_array_of<std::int64_t>({numbers.size()});
    std::ranges::transform(numbers, made.mutable_data(), [](std::uint32_t number) {
      return number == detail::KeyIndex::none ? -1 : static_cast<std::int64_t>(number);
    });
    return made;
  }
  Matrix keys() const { return copy_to_array(index_.keys()); }
  std::size_t size() const { return index_.keys().size(); }

 private:
  detail::KeyIndex index_;
};

// Counts known values in each column of values [q, D], with their mean and the sum of squares around it: [3, D].
py::array_t<double> moments(py::handle values) {
  const auto given = array(values, "values", Dtype::float32, {any_size, any_size});
  const auto all = given.span<const float>();
  const auto width = static_cast<std::size_t>(given.shape[1]);
  auto made = new_array_of<double>({3, width});
  double *const count = made.mutable_data(), *const mean = count + width, *const square = mean + width;
  const py::gil_scoped_release unlocked;
  std::fill_n(count, 3 * width, 0.0);
  for (std::size_t at = 0; at < all.size(); at += width)
    for (std::size_t d = 0; d < width; ++d) {
      const double value = all[at + d];
      count[d] += value == value ? 1.0 : 0.0;
      mean[d] += value == value ? value : 0.0;
    }
  for (std::size_t d = 0; d < width; ++d) mean[d] /= std::max(count[d], 1.0);
  for (std::size_t at = 0; at < all.size(); at += width)
    for (std::size_t d = 0; d < width; ++d) {
      const double value = all[at + d], away = value - mean[d];
      square[d] += value == value ? away * away : 0.0;
    }
  return made;
}

// Ids [q, F] of the codes [q, F] of the features with ids, of requests or of rows.
Matrix encode_ids(const Features& features, py::handle codes, bool of_requests) {
  const detail::Plan& plan = features.impl().plan;
  const auto width = (of_requests ? plan.request_id_features : plan.item_id_features).size();
  const auto given = array(codes, "codes", Dtype::int64, {any_size, width});
  const auto from = given.span<const std::int64_t>();
  Matrix made = new_array_of<std::int64_t>({given.shape[0], width});
  std::int64_t* const to = made.mutable_data();
  const py::gil_scoped_release unlocked;
  std::size_t column = 0;
  auto coding = plan.codings.begin();
  for (const detail::Feature& f : plan.schema.features) {
    if (!f.is_id()) continue;
    const detail::IdCoding& own = *coding++;
    if (f.per_request() != of_requests) continue;
    for (const std::size_t end = column + f.columns().size(); column < end; ++column)
      for (std::size_t at = column; at < from.size(); at += width) to[at] = own.id_of(from[at]);
  }
  return made;
}

// Parts of a schema that are used, by name; SchemaError if it contradicts itself.
py::dict read_schema(const std::string& json) {
  try {
    const detail::Schema schema = detail::Schema::parse(json);
    py::dict tables;
    for (const detail::Table& table : schema.tables) tables[py::str(table.name)] = copy_to_array(table.empty);
    const auto listed = [](const std::vector<detail::Attribute>& attributes) {
      py::list made;
      for (const auto& [column, kind, length, place] : attributes) made.append(py::make_tuple(column, kind, length));
      return py::tuple(made);
    };
    return py::dict("hash"_a = schema.hash, "tables"_a = tables, "outcome_columns"_a = schema.outcome_columns,
                    "key_parts"_a = schema.key_parts, "user"_a = listed(schema.user_attributes),
                    "item"_a = listed(schema.item_attributes));
  } catch (const detail::JsonError& error) {
    throw SchemaError(error.what());
  }
}

void check_feature(const std::string& json) {
  try {
    detail::read_feature(detail::Json::parse(json));
  } catch (const detail::JsonError& error) {
    throw SchemaError(error.what());
  }
}
}  // namespace

void bind_materialize(py::module_& module) {
  py::class_<Records>(module, "Records")
      .def(py::init<const std::string&, const std::string&>(), "schema"_a, "table"_a)
      .def("__len__", &Records::size)
      .def("keys", &Records::keys)
      .def("apply", &Records::apply, "events"_a)
      .def("merge", &Records::merge, "keys"_a, "records"_a)
      .def("get", &Records::get, "keys"_a);
  py::class_<LogReader>(module, "LogReader")
      .def(py::init<const std::string&, py::object, py::object, py::object, py::object>(), "schema"_a, "user_ids"_a,
           "user_rows"_a, "item_ids"_a, "item_rows"_a)
      .def("events", &LogReader::events, "user_id"_a, "item_id"_a, "event_time"_a, "scenario"_a, "outcomes"_a)
      .def("read", &LogReader::read, "records"_a, "events"_a, "user_id"_a, "timestamp"_a, "scenario"_a, "offsets"_a,
           "item_id"_a, "context"_a);
  py::class_<Keys>(module, "KeyIndex")
      .def(py::init<>())
      .def("__len__", &Keys::size)
      .def("add", &Keys::add, "keys"_a)
      .def("keys", &Keys::keys);
  module.def("moments", &moments, "values"_a);
  module.def("encode_ids", &encode_ids, "features"_a, "codes"_a, "of_requests"_a);
  module.def("read_schema", &read_schema, "json"_a);
  module.def("check_feature", &check_feature, "json"_a);
}
}  // namespace pygrade::inline v0_2::bindings
