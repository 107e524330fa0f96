#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "families.hpp"
#include "pygrade/isa.hpp"
#include "pygrade/version.hpp"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The C++ core of pygrade. Private: call the functions of the package, which check and convert.";
  module.attr("__version__") = PYGRADE_VERSION;
  module.def("active_isa", [] { return std::string(pygrade::isa_name(pygrade::active_isa())); });
  module.def("available_isas", [] {
    std::vector<std::string> names;
    for (auto isa : {pygrade::Isa::baseline, pygrade::Isa::avx2, pygrade::Isa::avx512})
      if (pygrade::isa_available(isa)) names.emplace_back(pygrade::isa_name(isa));
    return names;
  });
  pygrade::bindings::bind_dispatch(module);
  pygrade::bindings::bind_correction(module);
  pygrade::bindings::bind_policy(module);
  pygrade::bindings::bind_ranker(module);
  pygrade::bindings::bind_features(module);
  pygrade::bindings::bind_history(module);
  pygrade::bindings::bind_materialize(module);
  pygrade::bindings::bind_prerank(module);
  pygrade::bindings::bind_store(module);
  pygrade::bindings::bind_mtl(module);
  pygrade::bindings::bind_pipeline(module);
  pygrade::bindings::bind_service(module);
  pygrade::bindings::bind_dirichlet(module);
  pygrade::bindings::bind_fusion(module);
  pygrade::bindings::bind_policy_network(module);
  pygrade::bindings::bind_ranking(module);
  pygrade::bindings::bind_training(module);
}
