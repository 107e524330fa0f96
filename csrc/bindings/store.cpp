// The stores of the core, for tests and diagnosis. The package reads and writes by pygrade.stores.
#include "pygrade/store.hpp"

#include <pybind11/stl.h>

#include <memory>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {

namespace {

// The tables and keys of a list of (table, int64 array), which must outlive this.
struct Queries {
  explicit Queries(const py::list& requests) {
    for (const py::handle request : requests) {
      const auto pair = request.cast<py::tuple>();
      if (pair.size() != 2)
        throw std::invalid_argument("a request has " + std::to_string(pair.size()) +
                                    " parts; want a table and its keys");
      tables.push_back(pair[0].cast<std::string>());
      keys.push_back(array(pair[1], "keys", Dtype::int64, {any_size}).span<const std::int64_t>());
    }
    for (std::size_t i = 0; i < tables.size(); ++i) queries.push_back({tables[i], keys[i]});
  }

  std::vector<std::string> tables;
  std::vector<std::span<const std::int64_t>> keys;
  std::vector<StoreQuery> queries;
};

// One list for each query.
py::list to_lists(const std::vector<StoreQuery>& queries, StoreValues values) {
  py::list lists;
  std::size_t at = 0;
  for (const auto& query : queries) {
    py::list list;
    for (std::size_t i = 0; i < query.keys.size(); ++i, ++at) {
      if (values[at].data() == nullptr)
        list.append(py::none());
      else
        list.append(py::bytes(values[at].data(), values[at].size()));
    }
    lists.append(std::move(list));
  }
  return lists;
}

py::list get(Store& store, const py::list& requests, std::optional<double> seconds) {
  const Queries wanted(requests);
  std::optional<std::chrono::steady_clock::time_point> deadline;
  if (seconds)
    deadline = std::chrono::steady_clock::now() +
               std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(*seconds));
  py::list lists;
  {
    const py::gil_scoped_release unlocked;
    store.get(
        wanted.queries,
        [&](StoreValues values) {
          const py::gil_scoped_acquire locked;
          lists = to_lists(wanted.queries, values);
        },
        deadline);
  }
  return lists;
}

void update(Store& store, const py::list& requests, const py::function& change, std::optional<double> ttl) {
  const Queries wanted(requests);
  const py::gil_scoped_release unlocked;
  store.update(
      wanted.queries,
      [&](StoreValues values, std::span<std::string> changed) {
        const py::gil_scoped_acquire locked;
        std::size_t at = 0;
        for (const py::handle list : change(to_lists(wanted.queries, values)))
          for (const py::handle value : list) {
            if (at == changed.size()) throw std::invalid_argument("change returned too many values");
            changed[at++] = value.cast<std::string>();
          }
        if (at != changed.size()) throw std::invalid_argument("change returned too few values");
      },
      ttl);
}

}  // namespace

void bind_store(py::module_& module) {
  static py::handle error = py::exception<StoreError>(module, "StoreError").release();
  static py::handle timeout = py::exception<StoreTimeout>(module, "StoreTimeout", error).release();
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const StoreTimeout& fault) {
      py::set_error(timeout, fault.what());
    } catch (const StoreError& fault) {
      py::set_error(error, fault.what());
    }
  });
  module.def("store_libraries", [] {
    std::vector<std::string> names;
    for (const auto name : store_libraries()) names.emplace_back(name);
    return names;
  });
  py::class_<Store, std::shared_ptr<Store>>(module, "Store")
      .def("get", &get, py::arg("requests"), py::arg("seconds") = py::none())
      .def("update", &update, py::arg("requests"), py::arg("change"), py::arg("ttl") = py::none())
      .def("at", &Store::at, py::arg("version"), py::call_guard<py::gil_scoped_release>())
      .def("current", &Store::current, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("url", &Store::url);
  module.def(
      "open_store",
      [](const std::string& url, bool read_only, double timeout_seconds, std::optional<std::size_t> max_bytes) {
        StoreOptions options;
        options.read_only = read_only;
        options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(timeout_seconds * 1000));
        if (max_bytes) options.max_bytes = *max_bytes;
        return open_store(url, options);
      },
      py::arg("url"), py::arg("read_only") = false, py::arg("timeout") = 0.1, py::arg("max_bytes") = py::none(),
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace pygrade::bindings
