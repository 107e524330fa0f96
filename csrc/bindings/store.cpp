// The stores of the core; pygrade.stores.Store is the face. Here keys become int64, and None an empty version.
#include "pygrade/store.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "families.hpp"
#include "pygrade/features.hpp"
#include "python_store.hpp"
#include "stores/backends.hpp"
#include "stores/record.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
using KeyArray = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

std::string to_table(py::handle table) {
  if (!py::isinstance<py::str>(table))
    throw py::type_error("table is a " + std::string(py::str(py::type::of(table).attr("__name__"))) +
                         "; expected a str");
  return table.cast<std::string>();
}

// [n] int64; integers of other widths are taken, floats are not.
KeyArray to_keys(const py::object& given) {
  const py::array keys = py::array::ensure(given);
  if (!keys || keys.ndim() != 1)
    throw py::value_error("keys have shape " + (keys ? std::string(py::str(keys.attr("shape"))) : "that varies") +
                          "; expected [n]");
  const bool whole = keys.dtype().kind() == 'i' || (keys.dtype().kind() == 'u' && keys.itemsize() < 8);
  if (keys.size() > 0 && !whole)
    throw py::type_error("keys are " + std::string(py::str(keys.dtype())) + "; expected int64");
  return KeyArray::ensure(keys);
}

std::span<const std::int64_t> key_span(const KeyArray& keys) {
  return {keys.data(), static_cast<std::size_t>(keys.size())};
}

// The bytes of a list of values; the objects must outlive them.
std::vector<std::string_view> to_values(const py::list& values, const std::string& what = "values") {
  std::vector<std::string_view> views;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const py::handle value = values[i];
    if (!PyBytes_Check(value.ptr()))
      throw py::type_error(what + "[" + std::to_string(i) + "] is a " +
                           std::string(py::str(py::type::of(value).attr("__name__"))) + "; expected bytes");
    views.emplace_back(PyBytes_AS_STRING(value.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(value.ptr())));
  }
  return views;
}

// The tables and keys of a sequence of (table, keys).
struct Queries {
  explicit Queries(const py::iterable& requests) {
    for (const py::handle request : requests) {
      const auto pair = request.cast<py::tuple>();
      if (pair.size() != 2)
        throw std::invalid_argument("a request has " + std::to_string(pair.size()) +
                                    " parts; expected a table and its keys");
      tables.push_back(to_table(pair[0]));
      keys.push_back(to_keys(pair[1]));
    }
    for (std::size_t i = 0; i < tables.size(); ++i) queries.push_back({tables[i], key_span(keys[i])});
  }

  std::vector<std::string> tables;
  std::vector<KeyArray> keys;
  std::vector<StoreQuery> queries;
};

// One list for each query.
py::list to_lists(const std::vector<StoreQuery>& queries, StoreValues values) {
  py::list lists;
  std::size_t at = 0;
  for (const auto& query : queries) {
    py::list list(query.keys.size());
    for (std::size_t i = 0; i < query.keys.size(); ++i, ++at)
      list[i] = values[at].data() == nullptr ? py::object(py::none()) : py::bytes(values[at].data(), values[at].size());
    lists.append(std::move(list));
  }
  return lists;
}

py::list get(const std::shared_ptr<Store>& store, const py::iterable& requests,
             const std::optional<std::string>& version, std::optional<double> seconds) {
  const Queries wanted(requests);
  std::optional<std::chrono::steady_clock::time_point> deadline;
  if (seconds)
    deadline = std::chrono::steady_clock::now() +
               std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(*seconds));
  py::list lists;
  const py::gil_scoped_release unlocked;
  const auto read = [&](StoreValues values) {
    const py::gil_scoped_acquire locked;
    lists = to_lists(wanted.queries, values);
  };
  (version ? store->at(*version) : store)->get(wanted.queries, read, deadline);
  return lists;
}

void update_records(Store& store, const py::iterable& requests, const py::function& change, std::optional<double> ttl) {
  const Queries wanted(requests);
  const py::gil_scoped_release unlocked;
  store.update(
      wanted.queries,
      [&](StoreValues values, std::span<std::string> changed) {
        const py::gil_scoped_acquire locked;
        const auto updated = py::list(change(to_lists(wanted.queries, values)));
        if (updated.size() != wanted.queries.size())
          throw std::invalid_argument("update returned " + std::to_string(updated.size()) + " lists; expected " +
                                      std::to_string(wanted.queries.size()) + ", one per table");
        std::size_t at = 0;
        for (std::size_t t = 0; t < updated.size(); ++t) {
          const std::string what = "the result of update for table '" + wanted.tables[t] + "'";
          const auto list = py::list(updated[t]);
          detail::check_count(list.size(), wanted.queries[t].keys.size(), what);
          for (const std::string_view value : to_values(list, what)) changed[at++] = value;
        }
      },
      ttl);
}

void put(Store& store, const py::object& table, const py::object& keys, const py::iterable& values,
         const std::optional<std::string>& version, std::optional<double> ttl) {
  const std::string name = to_table(table);
  const KeyArray numbers = to_keys(keys);
  const py::list objects(values);
  const auto views = to_values(objects);
  if (version) detail::check_version(*version);
  const py::gil_scoped_release unlocked;
  store.put(name, key_span(numbers), views, version.value_or(""), ttl);
}

py::dict versions(Store& store) {
  constexpr const char* states[] = {"filling", "ready", "current"};
  std::vector<StoreVersion> all;
  {
    const py::gil_scoped_release unlocked;
    all = store.versions();
  }
  py::dict by_name;
  for (const auto& [name, state] : all) by_name[py::str(name)] = states[static_cast<std::size_t>(state)];
  return by_name;
}

// A class of errors, shown as one of pygrade.stores, where users find it.
template <class Error>
void add_error(py::module_& module, const char* name, const char* text, const char* base = nullptr) {
  const py::object above = base == nullptr ? py::reinterpret_borrow<py::object>(PyExc_Exception) : module.attr(base);
  const std::string whole = std::string("pygrade.stores.") + name;
  static py::handle type = PyErr_NewExceptionWithDoc(whole.c_str(), text, above.ptr(), nullptr);
  if (!type) throw py::error_already_set();
  module.attr(name) = type;
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      py::set_error(type, error.what());
    }
  });
}
}  // namespace

void bind_store(py::module_& module) {
  // The last translator is asked first, so the base comes before what derives from it.
  add_error<StoreError>(
      module, "StoreError",
      "The store failed: it is not there or no store, it is damaged or of another format, or it lacks "
      "the version; the message names the store and the reason.");
  add_error<StoreUnreachableError>(module, "StoreUnreachableError",
                                   "No answer in time: the server is down, hangs, or refuses the login, or the "
                                   "deadline of the call has passed.",
                                   "StoreError");
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const SchemaMismatchError& error) {
      py::set_error(py::module_::import("pygrade.features.center").attr("SchemaMismatchError"), error.what());
    }
  });
  module.def("store_kinds", [] {
    py::list kinds;
    for (const StoreKind& kind : store_kinds())
      kinds.append(py::make_tuple(kind.scheme, kind.address, kind.help, kind.built));
    return kinds;
  });
  module.def("without_secret", &detail::without_secret, "url"_a);
  using unlocked = py::call_guard<py::gil_scoped_release>;
  py::class_<Store, std::shared_ptr<Store>>(module, "Store")
      .def("get", &get, "requests"_a, "version"_a = py::none(), "seconds"_a = py::none())
      .def("put", &put, "table"_a, "keys"_a, "values"_a, "version"_a = py::none(), "ttl"_a = py::none())
      .def("update", &update_records, "requests"_a, "change"_a, "ttl"_a = py::none())
      .def("sweep", &Store::sweep, unlocked())
      .def("begin", &Store::begin, "version"_a, unlocked())
      .def("switch_to", &Store::switch_to, "version"_a, unlocked())
      .def("versions", &versions)
      .def("drop", &Store::drop, "version"_a, unlocked())
      .def("at", &Store::at, "version"_a, unlocked())
      .def("current", &Store::current, unlocked())
      .def_property_readonly("reachable", &Store::reachable)
      .def_property_readonly("url", &Store::url);
  py::class_<PythonStore, Store, std::shared_ptr<PythonStore>>(module, "PythonStore")
      .def(py::init<const py::object&>(), "store"_a);
  module.def(
      "open_store",
      [](const std::string& url, bool create, bool read_only, double timeout_seconds,
         std::optional<std::size_t> max_bytes, bool wait_for_server) {
        StoreOptions options{.create = create, .read_only = read_only, .wait_for_server = wait_for_server};
        options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(timeout_seconds * 1000));
        if (max_bytes) options.max_bytes = *max_bytes;
        return open_store(url, options);
      },
      "url"_a, "create"_a = false, "read_only"_a = false, "timeout"_a = 0.1, "max_bytes"_a = py::none(),
      "wait_for_server"_a = true, unlocked());
}
}  // namespace pygrade::inline v0_2::bindings
