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
  explicit PythonStore(const py::object& store);
  ~PythonStore() override;

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point> deadline) override;
  void get_version(const std::string& version, std::span<const StoreQuery> queries,
                   FunctionRef<void(StoreValues)> read,
                   std::optional<std::chrono::steady_clock::time_point> deadline) override;
  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override;
  std::optional<std::string> current() override;
  const std::string& url() const override { return url_; }

 private:
  py::object store_;
  std::string url_;
};

// Sets Python's error to an instance of a class of the package, with the message of the exception.
void raise_python(const char* module, const char* name, const std::exception& error);

}  // namespace pygrade::bindings
