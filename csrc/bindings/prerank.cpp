#include "pygrade/prerank.hpp"

#include <pybind11/stl.h>

#include "families.hpp"
#include "new_arrays.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
using Ids = std::span<const std::int64_t>;

void user_vectors(const UserTower& tower, py::handle request_dense, py::handle request_ids, py::handle sequences,
                  py::handle vectors) {
  const Array out = array(vectors, "vectors", Dtype::float32, {any_size, tower.width()});
  const auto rows = static_cast<std::size_t>(out.shape[0]);
  const auto dense = span_of<const float>(request_dense, "request_dense", {rows, tower.request_dense()});
  const auto fields = span_of<const std::int64_t>(request_ids, "request_ids", {rows, tower.request_ids()});
  const auto items = span_of<const std::int64_t>(sequences, "sequences", {rows, tower.length()});
  const py::gil_scoped_release release;
  for (std::size_t r = 0; r < rows; ++r)
    tower.user_vector(dense.subspan(r * tower.request_dense(), tower.request_dense()),
                      fields.subspan(r * tower.request_ids(), tower.request_ids()),
                      items.subspan(r * tower.length(), tower.length()),
                      out.span<float>().subspan(r * tower.width(), tower.width()));
}

std::shared_ptr<ItemIndex> make_index(py::handle item_id, py::handle vectors) {
  const Ids items = span_of<const std::int64_t>(item_id, "item_id");
  const Array rows = array(vectors, "vectors", Dtype::float32, {items.size(), any_size});
  const py::gil_scoped_release release;
  return mutable_of(ItemIndex::make(items, rows.span<const float>(), static_cast<std::size_t>(rows.shape[1])));
}

void search(const ItemIndex& index, py::handle vectors, const py::list& seen, py::handle eligible, py::handle items,
            py::handle scores) {
  std::vector<Ids> drop;
  for (const py::handle row : seen) drop.push_back(span_of<const std::int64_t>(row, "seen"));
  const std::size_t rows = drop.size();
  const auto queries = span_of<const float>(vectors, "vectors", {rows, index.width()});
  std::optional<Ids> allowed;
  if (!eligible.is_none()) allowed = span_of<const std::int64_t>(eligible, "eligible");
  const Array found = array(items, "items", Dtype::int64, {rows, any_size});
  const auto values = span_of<float>(scores, "scores", {rows, found.shape[1]});
  const py::gil_scoped_release release;
  index.search_all(queries, drop, allowed, found.span<std::int64_t>(), values);
}

// Copies of what a file holds, by the names of its tensors.
py::dict layout(const ItemIndex& index) {
  const ItemIndexLayout of = index.layout();
  py::dict result;
  result["item_id"] = copy_to_array(of.item_ids);
  result["vectors"] = copy_to_array(of.vectors, {of.item_ids.size() / 16, of.width, 16});
  return result;
}
}  // namespace

void bind_prerank(py::module_& module) {
  py::class_<UserTower, std::shared_ptr<UserTower>>(module, "UserTower")
      .def("user_vectors", &user_vectors, "request_dense"_a, "request_ids"_a, "sequences"_a, "vectors"_a);
  py::class_<ItemIndex, std::shared_ptr<ItemIndex>>(module, "ItemIndex")
      .def(py::init(&make_index), "item_id"_a, "vectors"_a)
      .def("__len__", &ItemIndex::size)
      .def_property_readonly("width", &ItemIndex::width)
      .def("search", &search, "vectors"_a, "seen"_a, "eligible"_a, "items"_a, "scores"_a)
      .def("layout", &layout);
  py::class_<Prerank, std::shared_ptr<Prerank>>(module, "Prerank")
      .def(py::init([](const py::bytes& json, const py::bytes& tensors, const std::string& name) {
             return mutable_of(Prerank::parse(std::string_view(json), bytes_of(tensors), name));
           }),
           "json"_a, "tensors"_a, "name"_a = "prerank")
      .def_static(
          "load", [](const std::string& path) { return mutable_of(Prerank::load(path)); }, "path"_a,
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("tower", [](const Prerank& prerank) { return mutable_of(prerank.tower()); })
      .def_property_readonly("index", [](const Prerank& prerank) { return mutable_of(prerank.index()); });
}
}  // namespace pygrade::inline v0_2::bindings
