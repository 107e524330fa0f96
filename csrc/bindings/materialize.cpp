// Features of a whole log: records in memory, and the arithmetic of pygrade.features.compute and fitted.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "families.hpp"
#include "features/record_table.hpp"
#include "features/records.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

using Column = std::span<const std::int64_t>;
using Matrix = py::array_t<std::int64_t>;
using Floats = py::array_t<double>;

Column column(py::handle value, const char* name) {
  return array(value, name, Dtype::int64, {any_size}).span<const std::int64_t>();
}

Column column(py::handle value, const char* name, std::size_t size) {
  return array(value, name, Dtype::int64, {static_cast<std::int64_t>(size)}).span<const std::int64_t>();
}

Matrix matrix(std::size_t rows, std::size_t columns) {
  return Matrix({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

Matrix copied(Column values) {
  Matrix made(static_cast<py::ssize_t>(values.size()));
  std::ranges::copy(values, made.mutable_data());
  return made;
}

// values and known: for each outcome an int64 array [e], or None where no field of the table reads it.
detail::EventColumns events_of(py::handle time, py::handle item, const py::list& values, const py::list& known) {
  detail::EventColumns events{column(time, "time"), column(item, "item"), {}, {}};
  const std::size_t count = events.time.size();
  if (events.item.size() != count) throw py::value_error("item has another length than time");
  const auto columns = [&](const py::list& given, const char* name) {
    std::vector<Column> spans;
    for (const py::handle one : given) spans.push_back(one.is_none() ? Column{} : column(one, name, count));
    return spans;
  };
  events.values = columns(values, "values");
  events.known = columns(known, "known");
  return events;
}

class Records {
 public:
  Records(const std::string& schema, const std::string& name) : schema_(detail::Schema::parse(schema)) {
    const auto found = std::ranges::find(schema_.tables, name, &detail::Table::name);
    if (found == schema_.tables.end()) throw py::value_error("table is '" + name + "', which the schema has not");
    table_ = std::make_unique<detail::RecordTable>(schema_, *found);
  }

  std::size_t size() const { return table_->keys().size(); }
  Matrix keys() const { return copied(table_->keys()); }

  void apply(py::handle keys, py::handle time, py::handle item, const py::list& values, const py::list& known) {
    const auto events = checked(time, item, values, known);
    const Column of = column(keys, "keys", events.time.size());
    const py::gil_scoped_release unlocked;
    table_->apply(of, events);
  }

  void merge(py::handle keys, py::handle records) {
    const Column of = column(keys, "keys");
    const auto width = static_cast<std::int64_t>(table_->layout().width());
    const auto given = array(records, "records", Dtype::int64, {static_cast<std::int64_t>(of.size()), width});
    const py::gil_scoped_release unlocked;
    table_->merge(of, given.span<const std::int64_t>().data());
  }

  // Records [q, width], and which of the keys are known.
  py::tuple get(py::handle keys) const {
    const Column of = column(keys, "keys");
    Matrix records = matrix(of.size(), table_->layout().width());
    py::array_t<bool> known(static_cast<py::ssize_t>(of.size()));
    std::int64_t* const out = records.mutable_data();
    bool* const flags = known.mutable_data();
    {
      const py::gil_scoped_release unlocked;
      table_->get(of, out, flags);
    }
    return py::make_tuple(records, known);
  }

  // values [q, V] and items [q, L].
  py::tuple view(py::handle asked, py::handle times) const {
    const Column of = column(asked, "asked"), at = column(times, "times", of.size());
    Matrix values = matrix(of.size(), table_->layout().view_width());
    Matrix items = matrix(of.size(), table_->layout().recent_width());
    std::int64_t *const out = values.mutable_data(), *const latest = items.mutable_data();
    {
      const py::gil_scoped_release unlocked;
      table_->view(of, at, out, latest);
    }
    return py::make_tuple(values, items);
  }

  py::tuple stream(py::handle asked, py::handle times, py::handle keys, py::handle time, py::handle item,
                   const py::list& outcomes, const py::list& known) {
    const Column of = column(asked, "asked"), at = column(times, "times", of.size());
    const auto events = checked(time, item, outcomes, known);
    const Column changed = column(keys, "keys", events.time.size());
    Matrix values = matrix(of.size(), table_->layout().view_width());
    Matrix items = matrix(of.size(), table_->layout().recent_width());
    std::int64_t *const out = values.mutable_data(), *const latest = items.mutable_data();
    {
      const py::gil_scoped_release unlocked;
      table_->stream(of, at, changed, events, out, latest);
    }
    return py::make_tuple(values, items);
  }

 private:
  detail::EventColumns checked(py::handle time, py::handle item, const py::list& values, const py::list& known) const {
    if (values.size() != schema_.outcomes.size() || known.size() != schema_.outcomes.size())
      throw py::value_error("values and known want one column for each of " + std::to_string(schema_.outcomes.size()) +
                            " outcomes");
    for (std::size_t i = 0; i < values.size(); ++i)
      if (values[i].is_none() || known[i].is_none() == detail::is_measure(schema_.outcomes[i]))
        throw py::value_error("outcome " + schema_.outcomes[i] + " lacks a column, or has one too many");
    return events_of(time, item, values, known);
  }

  detail::Schema schema_;
  std::unique_ptr<detail::RecordTable> table_;
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
    Matrix made(static_cast<py::ssize_t>(numbers.size()));
    std::ranges::transform(numbers, made.mutable_data(), [](std::uint32_t number) {
      return number == detail::KeyIndex::none ? -1 : static_cast<std::int64_t>(number);
    });
    return made;
  }
  Matrix keys() const { return copied(index_.keys()); }
  std::size_t size() const { return index_.keys().size(); }

 private:
  detail::KeyIndex index_;
};

Floats floats(std::size_t rows, std::size_t columns) {
  return Floats({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

// log(1 + max(x, 0)) of every value [q, k], in place.
void log1p(py::handle values) {
  const auto all = array(values, "values", Dtype::float64, {any_size, any_size}).span<double>();
  const py::gil_scoped_release unlocked;
  for (double& value : all) value = detail::log1p_of(detail::from_zero(value));
}

// (s + m·g) / (n + m) [q, k] of columns of views [q, V], g being the prior [q, k].
Floats shrunk_means(py::handle view, const std::vector<std::size_t>& counts, const std::vector<std::size_t>& sums,
                    double weight, py::handle prior) {
  const auto given = array(view, "view", Dtype::int64, {any_size, any_size});
  const auto rows = static_cast<std::size_t>(given.shape[0]), width = static_cast<std::size_t>(given.shape[1]);
  const auto count = static_cast<std::int64_t>(sums.size());
  const auto priors = array(prior, "prior", Dtype::float64, {given.shape[0], count}).span<const double>();
  for (const auto* columns : {&counts, &sums})
    if (columns->size() != sums.size() || std::ranges::any_of(*columns, [&](std::size_t c) { return c >= width; }))
      throw py::value_error("counts and sums name other columns than the view has");
  Floats means = floats(rows, sums.size());
  double* out = means.mutable_data();
  const py::gil_scoped_release unlocked;
  const std::int64_t* values = given.span<const std::int64_t>().data();
  const double* own = priors.data();
  for (std::size_t i = 0; i < rows; ++i, values += width)
    for (std::size_t k = 0; k < sums.size(); ++k)
      *out++ = detail::shrunk_mean(static_cast<double>(values[sums[k]]), static_cast<double>(values[counts[k]]), weight,
                                   *own++);
  return means;
}

// Of the columns of values [q, D]: known values, their mean, and the sum of squares around it, [3, D].
Floats moments(py::handle values) {
  const auto given = array(values, "values", Dtype::float32, {any_size, any_size});
  const auto all = given.span<const float>();
  const auto width = static_cast<std::size_t>(given.shape[1]);
  Floats made = floats(3, width);
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

}  // namespace

void bind_materialize(py::module_& module) {
  py::class_<Records>(module, "Records")
      .def(py::init<const std::string&, const std::string&>(), py::arg("schema"), py::arg("table"))
      .def("__len__", &Records::size)
      .def("keys", &Records::keys)
      .def("apply", &Records::apply, py::arg("keys"), py::arg("time"), py::arg("item"), py::arg("values"),
           py::arg("known"))
      .def("merge", &Records::merge, py::arg("keys"), py::arg("records"))
      .def("get", &Records::get, py::arg("keys"))
      .def("view", &Records::view, py::arg("asked"), py::arg("times"))
      .def("stream", &Records::stream, py::arg("asked"), py::arg("times"), py::arg("keys"), py::arg("time"),
           py::arg("item"), py::arg("values"), py::arg("known"));
  py::class_<Keys>(module, "KeyIndex")
      .def(py::init<>())
      .def("__len__", &Keys::size)
      .def("add", &Keys::add, py::arg("keys"))
      .def("keys", &Keys::keys);
  module.def("log1p", &log1p, py::arg("values"));
  module.def("shrunk_means", &shrunk_means, py::arg("view"), py::arg("counts"), py::arg("sums"), py::arg("weight"),
             py::arg("prior"));
  module.def("moments", &moments, py::arg("values"));
}

}  // namespace pygrade::inline v0_2::bindings
