// A store that Python implements, as the core calls it.
#pragma once

#include <pybind11/pybind11.h>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::bindings {
namespace py = pybind11;

// Calls an object with the interpreter's lock; the core computes without it. What Python raises is thrown: a StoreError
// as the core's, anything else as it is. Ignores deadlines. The object has `url` and, with arguments that were
// checked:
//
//     get([(table, keys int64 [n]), ...], version | None) → [[bytes | None, ...], ...]    as Store::get and Store::at
//     update(requests, change: values → new values, ttl | None)
//     put(table, keys, [bytes, ...], version | None, ttl | None)
//     begin(version), switch_to(version), drop(version), sweep() → int
//     versions() → {name: "filling" | "ready" | "current"}
class PythonStore final : public Store {
 public:
  // `version`: the one that `get` reads, or, if it is gone, the current one; nothing: the current one.
  explicit PythonStore(const py::object& store, std::optional<std::string> version = {});
  ~PythonStore() override;

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point> deadline) override;
  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override;
  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override;
  std::size_t sweep() override;
  void begin(const std::string& version) override;
  void switch_to(const std::string& version) override;
  std::vector<StoreVersion> versions() override;
  void drop(const std::string& version) override;
  std::shared_ptr<Store> at(const std::string& version) override;
  std::optional<std::string> current() override;
  const std::string& url() const override { return url_; }

 private:
  template <class Result, class... Arguments>
  Result call(const char* name, const Arguments&... arguments);

  py::object store_;
  std::string url_;
  const std::optional<std::string> version_;
};
}  // namespace pygrade::inline v0_2::bindings
