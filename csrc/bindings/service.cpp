#include "pygrade/service.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "../src/service/experiment.hpp"
#include "families.hpp"
#include "new_arrays.hpp"

namespace pygrade::inline v0_2::bindings {

namespace py = pybind11;

namespace {

// Cohorts and settings [U], int32, of users by their ids as in the log.
py::tuple assign_users(const std::string& experiment, const std::vector<std::vector<double>>& cohorts,
                       const std::vector<std::string>& users) {
  detail::check_cohorts(cohorts, cohorts.empty() ? 0 : cohorts.front().size(), "cohorts");
  std::vector<std::int32_t> cohort, setting;
  for (const auto& user : users) {
    const Assignment found = detail::assign_user(experiment, cohorts, user);
    cohort.push_back(found.cohort);
    setting.push_back(found.setting);
  }
  return py::make_tuple(copy_to_array(std::span<const std::int32_t>(cohort)),
                        copy_to_array(std::span<const std::int32_t>(setting)));
}

}  // namespace

void bind_service(py::module_& module) {
  module.def("assign_users", &assign_users, "experiment"_a, "cohorts"_a, "users"_a);
  py::class_<Service>(module, "Service")
      .def(py::init([](const std::string& run, const std::string& config) {
             const py::gil_scoped_release unlocked;
             return std::make_unique<Service>(run, config);
           }),
           "run"_a, "config"_a)
      .def(
          "handle",
          [](Service& service, const std::string& method, const std::string& path, const py::bytes& body,
             const std::string& content_type, const std::string& request_id, double waited, const std::string& accept) {
            using Clock = std::chrono::steady_clock;
            ServiceRequest request{method, path, body, content_type, accept, request_id};
            request.arrival = Clock::now() - std::chrono::duration_cast<Clock::duration>(
                                                 std::chrono::duration<double>(std::clamp(waited, 0.0, 86'400.0)));
            Response response;
            {
              const py::gil_scoped_release unlocked;
              response = service.handle(request);
            }
            return py::make_tuple(response.status, response.content_type, py::bytes(response.body),
                                  response.request_id);
          },
          "method"_a, "path"_a, "body"_a, "content_type"_a = "", "request_id"_a = "", "waited"_a = 0.0, "accept"_a = "")
      .def_static("openapi", &Service::openapi)
      .def("refresh", &Service::refresh, py::call_guard<py::gil_scoped_release>())
      .def("drain", &Service::drain, py::call_guard<py::gil_scoped_release>());
}

}  // namespace pygrade::inline v0_2::bindings
