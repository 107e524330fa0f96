#include "pygrade/prerank.hpp"

#include <pybind11/stl.h>

#include "families.hpp"
#include "new_arrays.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

using Ids = std::span<const std::int64_t>;

std::shared_ptr<UserTower> make_tower(std::size_t width, std::size_t hidden, std::size_t field_embedding,
                                      std::size_t length, py::handle item_id, py::handle item_table,
                                      py::handle request_mean, py::handle request_std, const py::list& field_tables,
                                      py::handle hidden_weight, py::handle hidden_bias, py::handle output_weight,
                                      py::handle output_bias) {
  const Shape matrix{any_size, any_size};
  std::vector<std::span<const float>> tables;
  for (const py::handle table : field_tables) tables.push_back(span_of<const float>(table, "field_tables", matrix));
  const UserTowerParameters parameters{width,
                                       hidden,
                                       field_embedding,
                                       length,
                                       span_of<const std::int64_t>(item_id, "item_id"),
                                       span_of<const float>(item_table, "item_table", matrix),
                                       span_of<const float>(request_mean, "request_mean"),
                                       span_of<const float>(request_std, "request_std"),
                                       tables,
                                       span_of<const float>(hidden_weight, "hidden_weight", matrix),
                                       span_of<const float>(hidden_bias, "hidden_bias"),
                                       span_of<const float>(output_weight, "output_weight", matrix),
                                       span_of<const float>(output_bias, "output_bias")};
  const py::gil_scoped_release release;
  return mutable_of(UserTower::make(parameters));
}

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

void read_items(const ItemIndex& index, py::handle item_id, py::handle vectors) {
  index.read_items(span_of<std::int64_t>(item_id, "item_id", {index.size()}),
                   optional_span<float>(vectors, "vectors", {index.size(), index.width()}));
}

void has(const ItemIndex& index, py::handle item_id, py::handle found) {
  const Ids items = span_of<const std::int64_t>(item_id, "item_id");
  const auto out = span_of<bool>(found, "found", {items.size()});
  std::ranges::transform(items, out.begin(), [&](std::int64_t id) { return index.has(id); });
}

// Copies of what a file holds, by the names of its tensors.
py::dict layout(const ItemIndex& index) {
  const ItemIndexLayout of = index.layout();
  py::dict result;
  result["item_id"] = copy_to_array(of.item_ids);
  result["vectors"] = copy_to_array(of.vectors, {of.item_ids.size() / 16, of.width, 16});
  return result;
}

void score_rows(py::handle vector, py::handle vectors, py::handle scores) {
  const auto query = span_of<const float>(vector, "vector");
  const auto out = span_of<float>(scores, "scores");
  const auto rows = span_of<const float>(vectors, "vectors", {out.size(), query.size()});
  const py::gil_scoped_release release;
  item_scores(query, rows, out);
}

}  // namespace

void bind_prerank(py::module_& module) {
  py::class_<UserTower, std::shared_ptr<UserTower>>(module, "UserTower")
      .def(py::init(&make_tower), py::kw_only(), "width"_a, "hidden"_a, "field_embedding"_a, "length"_a, "item_id"_a,
           "item_table"_a, "request_mean"_a, "request_std"_a, "field_tables"_a, "hidden_weight"_a, "hidden_bias"_a,
           "output_weight"_a, "output_bias"_a)
      .def("user_vectors", &user_vectors, "request_dense"_a, "request_ids"_a, "sequences"_a, "vectors"_a);
  py::class_<ItemIndex, std::shared_ptr<ItemIndex>>(module, "ItemIndex")
      .def(py::init(&make_index), "item_id"_a, "vectors"_a)
      .def("__len__", &ItemIndex::size)
      .def_property_readonly("width", &ItemIndex::width)
      .def("search", &search, "vectors"_a, "seen"_a, "eligible"_a, "items"_a, "scores"_a)
      .def("has", &has, "item_id"_a, "found"_a)
      .def("read_items", &read_items, "item_id"_a, "vectors"_a = py::none())
      .def("layout", &layout);
  py::class_<Prerank, std::shared_ptr<Prerank>>(module, "Prerank")
      .def(
          py::init([](const std::shared_ptr<UserTower>& tower, const std::shared_ptr<ItemIndex>& index,
                      const std::string& schema_hash) { return mutable_of(Prerank::make(tower, index, schema_hash)); }),
          "tower"_a, "index"_a, "schema_hash"_a)
      .def_static(
          "load", [](const std::string& path) { return mutable_of(Prerank::load(path)); }, "path"_a,
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("tower", [](const Prerank& prerank) { return mutable_of(prerank.tower()); })
      .def_property_readonly("index", [](const Prerank& prerank) { return mutable_of(prerank.index()); });
  module.def("item_scores", &score_rows, "vector"_a, "vectors"_a, "scores"_a);
}

}  // namespace pygrade::inline v0_2::bindings
