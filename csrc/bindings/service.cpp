#include "pygrade/service.hpp"

#include <pybind11/pybind11.h>

#include "families.hpp"

namespace pygrade::bindings {

namespace py = pybind11;

void bind_service(py::module_& module) {
  py::class_<Service>(module, "Service")
      .def(py::init([](const std::string& run, const std::string& config) {
             const py::gil_scoped_release unlocked;
             return std::make_unique<Service>(run, config);
           }),
           py::arg("run"), py::arg("config"))
      .def(
          "handle",
          [](Service& service, const std::string& method, const std::string& path, const py::bytes& body) {
            const std::string_view given = body;
            Response response;
            {
              const py::gil_scoped_release unlocked;
              response = service.handle(method, path, given);
            }
            return py::make_tuple(response.status, response.content_type, py::bytes(response.body));
          },
          py::arg("method"), py::arg("path"), py::arg("body"))
      .def("refresh", &Service::refresh, py::call_guard<py::gil_scoped_release>())
      .def("drain", &Service::drain, py::call_guard<py::gil_scoped_release>());
}

}  // namespace pygrade::bindings
