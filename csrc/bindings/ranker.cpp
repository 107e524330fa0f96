#include "pygrade/ranker.hpp"

#include <pybind11/stl.h>

#include <optional>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {

namespace {

// An optional array over the candidates: the part that belongs to one request.
template <class T>
struct Rows {
  std::span<T> values;
  std::size_t columns = 1;

  std::span<T> of(std::size_t begin, std::size_t count) const {
    return values.empty() ? values : values.subspan(begin * columns, count * columns);
  }
};

template <class T>
Rows<const T> optional_rows(py::handle value, const char* name, Dtype dtype, std::int64_t rows) {
  if (value.is_none()) return {};
  return {array(value, name, dtype, {rows}).span<const T>()};
}

void rank(Ranker& ranker, py::handle context, py::handle predictions, py::handle offsets,
          const std::optional<std::vector<std::string>>& scenario, py::handle mask, py::handle boost_mul,
          py::handle boost_add, py::handle groups, py::handle caps, bool explore, std::uint64_t first_draw,
          py::handle values, py::handle indices, py::handle weights, py::handle concentration, py::handle fallback,
          int num_threads) {
  const auto policy = ranker.policy();
  const auto tasks = static_cast<std::int64_t>(policy->tasks().size());
  const Array o = array(offsets, "offsets", Dtype::int64, {any_size});
  const std::int64_t batch = o.shape[0] - 1;
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, tasks});
  const std::int64_t total = p.shape[0];
  const Array c =
      array(context, "context", Dtype::float32, {batch, static_cast<std::int64_t>(policy->features().size())});
  const Array v = array(values, "values", Dtype::float32, {batch, any_size});
  const Array i = array(indices, "indices", Dtype::int32, {batch, v.shape[1]});
  const Array w = array(weights, "weights", Dtype::float32, {batch, tasks});
  const Array a = array(concentration, "concentration", Dtype::float32, {batch, tasks});
  const Array f = array(fallback, "fallback", Dtype::int32, {batch});
  const auto eligible = optional_rows<std::uint8_t>(mask, "mask", Dtype::boolean, total);
  const auto factor = optional_rows<float>(boost_mul, "boost_mul", Dtype::float32, total);
  const auto addend = optional_rows<float>(boost_add, "boost_add", Dtype::float32, total);
  Rows<const std::int32_t> member;
  std::span<const std::int32_t> most;
  if (!groups.is_none()) {
    const Array g = array(groups, "groups", Dtype::int32, {total, any_size});
    member = {g.span<const std::int32_t>(), static_cast<std::size_t>(g.shape[1])};
    most = array(caps, "caps", Dtype::int32, {g.shape[1]}).span<const std::int32_t>();
  }
  if (scenario && static_cast<std::int64_t>(scenario->size()) != batch)
    throw py::value_error("scenario must have one name for each request");
  const auto bounds = o.span<const std::int64_t>();
  for (std::size_t b = 0; b + 1 < bounds.size(); ++b)
    if (bounds[b] < 0 || bounds[b + 1] < bounds[b] || bounds[b + 1] > total)
      throw py::value_error("offsets must ascend from 0 to the number of prediction rows");

  const py::gil_scoped_release release;
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const std::size_t k = size(v.shape[1]);
  std::vector<Request> requests(size(batch));
  std::vector<PageBuffer> buffers(size(batch));
  std::vector<Page> pages(size(batch));
  for (std::size_t b = 0; b < requests.size(); ++b) {
    const std::size_t begin = size(bounds[b]);
    const std::size_t count = size(bounds[b + 1]) - begin;
    Request& request = requests[b];
    request.context = c.span<const float>().subspan(b * size(c.shape[1]), size(c.shape[1]));
    request.predictions = p.span<const float>().subspan(begin * size(tasks), count * size(tasks));
    request.rules = {eligible.of(begin, count), factor.of(begin, count), addend.of(begin, count),
                     member.of(begin, count), most};
    if (scenario) request.scenario = (*scenario)[b];
    request.explore = explore;
    request.draw = first_draw + b;
    buffers[b] = {v.span<float>().subspan(b * k, k), i.span<std::int32_t>().subspan(b * k, k),
                  w.span<float>().subspan(b * size(tasks), size(tasks)),
                  a.span<float>().subspan(b * size(tasks), size(tasks))};
  }
  ranker.rank(requests, buffers, pages, num_threads);
  for (std::size_t b = 0; b < pages.size(); ++b)
    f.span<std::int32_t>()[b] = static_cast<std::int32_t>(pages[b].fallback);
}

}  // namespace

void bind_ranker(py::module_& module) {
  py::class_<Ranker>(module, "Ranker")
      .def(py::init([](std::shared_ptr<Policy> policy, bool impute) {
             return std::make_unique<Ranker>(std::move(policy), RankerOptions{.impute = impute});
           }),
           py::arg("policy"), py::arg("impute"))
      .def("rank", &rank, py::arg("context"), py::arg("predictions"), py::arg("offsets"),
           py::arg("scenario").none(true), py::arg("mask").none(true), py::arg("boost_mul").none(true),
           py::arg("boost_add").none(true), py::arg("groups").none(true), py::arg("caps").none(true),
           py::arg("explore"), py::arg("first_draw"), py::arg("values"), py::arg("indices"), py::arg("weights"),
           py::arg("concentration"), py::arg("fallback"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
