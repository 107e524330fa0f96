// A Store of Python, pygrade.stores.Store, as the core calls it.
#pragma once

#include <pybind11/pybind11.h>

#include "pygrade/store.hpp"

namespace pygrade::bindings {

namespace py = pybind11;

// A StoreError that Python raised; `restore` raises the same object again.
class PythonStoreError : public StoreError {
 public:
  explicit PythonStoreError(const py::error_already_set& raised);
  void restore() const;

 private:
  py::error_already_set raised_;
};

// Calls get_tables and update_tables with the interpreter's lock; the core computes without it. What Python raises is
// thrown: a StoreError as PythonStoreError, anything else as it is. Ignores deadlines.
class PythonStore final : public Store {
 public:
  // `version`: the one that `get` reads, or, if it is gone, the current one; nothing: the current one.
  explicit PythonStore(const py::object& store, std::optional<std::string> version = {});
  ~PythonStore() override;

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point> deadline) override;
  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override;
  std::shared_ptr<Store> at(const std::string& version) override;
  std::optional<std::string> current() override;
  const std::string& url() const override { return url_; }

 private:
  py::list ask(const py::list& requests) const;

  py::object store_;
  std::string url_;
  const std::optional<std::string> version_;
};

}  // namespace pygrade::bindings
