#include "pygrade/service.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
namespace py = pybind11;

void bind_service(py::module_& module) {
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
