#include "python_store.hpp"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

namespace pygrade::bindings {

namespace {

py::list requests_of(std::span<const StoreQuery> queries) {
  py::list requests;
  for (const StoreQuery& query : queries)
    requests.append(
        py::make_tuple(py::str(query.table.data(), query.table.size()),
                       py::array_t<std::int64_t>(static_cast<py::ssize_t>(query.keys.size()), query.keys.data())));
  return requests;
}

// A list; TypeError for anything else.
py::list checked(const py::object& answers) {
  if (!py::isinstance<py::list>(answers)) throw py::type_error("the store answered no list");
  return answers;
}

// Views of the answers, a list of bytes or None for each query; they live as long as `answers`.
std::vector<std::string_view> values_of(const py::list& answers, std::span<const StoreQuery> queries) {
  if (answers.size() != queries.size()) throw py::type_error("the store answered another number of tables");
  std::vector<std::string_view> values;
  for (std::size_t t = 0; t < queries.size(); ++t) {
    const py::list table = checked(answers[t]);
    if (table.size() != queries[t].keys.size()) throw py::type_error("the store answered another number of keys");
    for (const py::handle value : table) {
      if (value.is_none())
        values.emplace_back();
      else if (PyBytes_Check(value.ptr()))
        values.emplace_back(PyBytes_AS_STRING(value.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(value.ptr())));
      else
        throw py::type_error("the store answered something that is not bytes");
    }
  }
  return values;
}

// Calls into Python, and throws its StoreErrors as the core's.
template <class Call>
auto guarded(const Call& call) {
  try {
    return call();
  } catch (const py::error_already_set& error) {
    if (error.matches(py::module_::import("pygrade.stores").attr("StoreError"))) throw PythonStoreError(error);
    throw;
  }
}

std::string text_of(const py::error_already_set& error) {
  const py::gil_scoped_acquire locked;
  return py::str(error.value());
}

}  // namespace

PythonStoreError::PythonStoreError(const py::error_already_set& raised)
    : StoreError(text_of(raised)), raised_(raised) {}

void PythonStoreError::restore() const { PyErr_SetObject(raised_.type().ptr(), raised_.value().ptr()); }

PythonStore::PythonStore(const py::object& store, std::optional<std::string> version)
    : store_(store), url_(py::str(store.attr("url"))), version_(std::move(version)) {}

PythonStore::~PythonStore() {
  const py::gil_scoped_acquire locked;  // the last reference may be dropped without it
  store_ = py::object();
}

void PythonStore::get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
                      std::optional<std::chrono::steady_clock::time_point>) {
  const py::gil_scoped_acquire locked;
  guarded([&] {
    const py::list answers = ask(requests_of(queries));
    const auto values = values_of(answers, queries);
    const py::gil_scoped_release unlocked;
    read(values);
  });
}

py::list PythonStore::ask(const py::list& requests) const {
  const py::object get_tables = store_.attr("get_tables");
  if (!version_) return checked(get_tables(requests));
  try {
    return checked(get_tables(requests, *version_));
  } catch (const py::error_already_set& error) {
    if (!error.matches(py::module_::import("pygrade.stores").attr("MissingVersionError"))) throw;
  }
  return checked(get_tables(requests));
}

std::shared_ptr<Store> PythonStore::at(const std::string& version) {
  const py::gil_scoped_acquire locked;
  return std::make_shared<PythonStore>(store_, version);
}

void PythonStore::update(std::span<const StoreQuery> queries,
                         FunctionRef<void(StoreValues, std::span<std::string>)> change, std::optional<double> ttl) {
  const py::gil_scoped_acquire locked;
  guarded([&] {
    const py::cpp_function merge([&](const py::list& answers) {
      const auto values = values_of(answers, queries);
      std::vector<std::string> changed(values.size());
      {
        const py::gil_scoped_release unlocked;
        change(values, changed);
      }
      py::list tables;
      std::size_t at = 0;
      for (const StoreQuery& query : queries) {
        py::list table;
        for (std::size_t i = 0; i < query.keys.size(); ++i) table.append(py::bytes(changed[at++]));
        tables.append(table);
      }
      return tables;
    });
    store_.attr("update_tables")(requests_of(queries), merge, ttl);
  });
}

std::optional<std::string> PythonStore::current() {
  const py::gil_scoped_acquire locked;
  return guarded([&] { return py::cast<std::optional<std::string>>(store_.attr("current")()); });
}

}  // namespace pygrade::bindings
