#include "python_store.hpp"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "stores/record.hpp"

namespace pygrade::inline v0_2::bindings {
using detail::check_put, detail::check_queries, detail::check_ttl, detail::check_version;

namespace {
py::array_t<std::int64_t> array_of(std::span<const std::int64_t> keys) {
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(keys.size()), keys.data());
}

py::list requests_of(std::span<const StoreQuery> queries) {
  py::list requests;
  for (const StoreQuery& query : queries) requests.append(py::make_tuple(query.table, array_of(query.keys)));
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
    const auto stores = py::module_::import("pygrade.stores");
    const std::string text = py::str(error.value());
    if (error.matches(stores.attr("StoreUnreachableError"))) throw StoreUnreachableError(text);
    if (error.matches(stores.attr("StoreError"))) throw StoreError(text);
    throw;
  }
}
}  // namespace

PythonStore::PythonStore(const py::object& store, std::optional<std::string> version)
    : store_(store), url_(py::str(store.attr("url"))), version_(std::move(version)) {}

template <class Result, class... Arguments>
Result PythonStore::call(const char* name, const Arguments&... arguments) {
  const py::gil_scoped_acquire locked;
  return guarded([&]() -> Result {
    const py::object result = store_.attr(name)(arguments...);
    if constexpr (!std::is_void_v<Result>) return result.cast<Result>();
  });
}

PythonStore::~PythonStore() {
  const py::gil_scoped_acquire locked;  // the last reference may be dropped without it
  store_ = py::object();
}

void PythonStore::get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
                      std::optional<std::chrono::steady_clock::time_point>) {
  check_queries(queries);
  const py::gil_scoped_acquire locked;
  guarded([&] {
    const py::list answers = checked(store_.attr("get")(requests_of(queries), version_));
    const auto values = values_of(answers, queries);
    const py::gil_scoped_release unlocked;
    read(values);
  });
}

std::shared_ptr<Store> PythonStore::at(const std::string& version) {
  const py::gil_scoped_acquire locked;
  return std::make_shared<PythonStore>(store_, version);
}

void PythonStore::update(std::span<const StoreQuery> queries,
                         FunctionRef<void(StoreValues, std::span<std::string>)> change, std::optional<double> ttl) {
  check_queries(queries, true);
  check_ttl(ttl);
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
    store_.attr("update")(requests_of(queries), merge, ttl);
  });
}

void PythonStore::put(std::string_view table, std::span<const std::int64_t> keys,
                      std::span<const std::string_view> values, const std::string& version, std::optional<double> ttl) {
  check_put(table, keys.size(), values.size(), version, ttl);
  const py::gil_scoped_acquire locked;
  guarded([&] {
    py::list bytes;
    for (const std::string_view value : values) bytes.append(py::bytes(value.data(), value.size()));
    const auto given = version.empty() ? std::nullopt : std::optional(version);
    store_.attr("put")(table, array_of(keys), bytes, given, ttl);
  });
}

std::size_t PythonStore::sweep() { return call<std::size_t>("sweep"); }

void PythonStore::begin(const std::string& version) {
  check_version(version);
  call<void>("begin", version);
}

void PythonStore::switch_to(const std::string& version) {
  check_version(version);
  call<void>("switch_to", version);
}

void PythonStore::drop(const std::string& version) {
  check_version(version);
  call<void>("drop", version);
}

std::vector<StoreVersion> PythonStore::versions() {
  const py::gil_scoped_acquire locked;
  return guarded([&] {
    std::vector<StoreVersion> all;
    for (const auto& [name, given] : py::dict(store_.attr("versions")())) {
      const auto state = given.cast<std::string>();
      all.push_back({name.cast<std::string>(), state == "current" ? VersionState::current
                                               : state == "ready" ? VersionState::ready
                                                                  : VersionState::filling});
    }
    return all;
  });
}

std::optional<std::string> PythonStore::current() {
  for (auto& [name, state] : versions())
    if (state == VersionState::current) return std::move(name);
  return {};
}
}  // namespace pygrade::inline v0_2::bindings
