#include "pygrade/history.hpp"

#include <pybind11/stl.h>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
History make_history(std::vector<std::string> tasks, bool categories, std::int64_t exposure_delay_ms,
                     std::int64_t feedback_delay_ms, std::int64_t half_life, std::vector<float> expected,
                     std::vector<float> user, std::vector<float> item, std::vector<float> category) {
  return History({std::move(tasks), categories, exposure_delay_ms, feedback_delay_ms, half_life, std::move(expected),
                  std::move(user), std::move(item), std::move(category)});
}

void read_history(HistoryPass& pass, py::handle user, py::handle time, py::handle request, py::handle offsets,
                  py::handle item, py::handle category, py::handle slot, py::handle predictions, py::handle feedback,
                  py::handle context, py::handle columns) {
  const auto times = span_of<const std::int64_t>(time, "time");
  const auto items = span_of<const std::int64_t>(item, "item");
  const std::size_t tasks = pass.history().spec().tasks.size();
  const Size requests = times.size(), rows = items.size();
  const HistoryLog log{span_of<const std::int64_t>(user, "user", {requests}),
                       times,
                       span_of<const std::int64_t>(request, "request", {requests}),
                       span_of<const std::int64_t>(offsets, "offsets"),
                       items,
                       optional_span<const std::int64_t>(category, "category", {rows}),
                       span_of<const std::int32_t>(slot, "slot", {rows}),
                       span_of<const float>(predictions, "predictions", {rows, tasks}),
                       span_of<const float>(feedback, "feedback", {rows, tasks})};
  const auto to = span_of<float>(context, "context", {requests, pass.history().context_columns().size()});
  const auto out = span_of<float>(columns, "columns", {rows, pass.history().item_columns().size()});
  const py::gil_scoped_release release;
  pass.read(log, to, out);
}
}  // namespace

void bind_history(py::module_& module) {
  py::class_<History>(module, "History")
      .def(py::init(&make_history), py::kw_only(), "tasks"_a, "categories"_a, "exposure_delay_ms"_a,
           "feedback_delay_ms"_a, "half_life"_a, "expected"_a, "user"_a, "item"_a, "category"_a)
      .def_property_readonly("context_columns", &History::context_columns)
      .def_property_readonly("item_columns", &History::item_columns);
  py::class_<HistoryPass>(module, "HistoryPass")
      .def(py::init<History>(), "history"_a)
      .def("read", &read_history, py::kw_only(), "user"_a, "time"_a, "request"_a, "offsets"_a, "item"_a, "category"_a,
           "slot"_a, "predictions"_a, "feedback"_a, "context"_a, "columns"_a);
}
}  // namespace pygrade::inline v0_2::bindings
