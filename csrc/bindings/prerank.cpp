#include "pygrade/prerank.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

using Ids = std::span<const std::int64_t>;

// pybind11 holds no pointers to const; nothing here changes what they point to.
template <class T>
std::shared_ptr<T> unlocked(std::shared_ptr<const T> made) {
  return std::const_pointer_cast<T>(std::move(made));
}

std::span<const float> floats(py::handle value, const char* name, const Shape& shape) {
  return array(value, name, Dtype::float32, shape).span<const float>();
}

Ids ids(py::handle value, const char* name) {
  return array(value, name, Dtype::int64, {any_size}).span<const std::int64_t>();
}

std::shared_ptr<UserTower> make_tower(std::size_t width, std::size_t hidden, std::size_t field_embedding,
                                      std::size_t length, py::handle item_id, py::handle item_table,
                                      py::handle request_mean, py::handle request_std, const py::list& field_tables,
                                      py::handle hidden_weight, py::handle hidden_bias, py::handle output_weight,
                                      py::handle output_bias) {
  std::vector<std::span<const float>> tables;
  for (const py::handle table : field_tables) tables.push_back(floats(table, "field_tables", {any_size, any_size}));
  const UserTowerParameters parameters{width,
                                       hidden,
                                       field_embedding,
                                       length,
                                       ids(item_id, "item_id"),
                                       floats(item_table, "item_table", {any_size, any_size}),
                                       floats(request_mean, "request_mean", {any_size}),
                                       floats(request_std, "request_std", {any_size}),
                                       tables,
                                       floats(hidden_weight, "hidden_weight", {any_size, any_size}),
                                       floats(hidden_bias, "hidden_bias", {any_size}),
                                       floats(output_weight, "output_weight", {any_size, any_size}),
                                       floats(output_bias, "output_bias", {any_size})};
  const py::gil_scoped_release release;
  return unlocked(UserTower::make(parameters));
}

void user_vectors(const UserTower& tower, py::handle request_dense, py::handle request_ids, py::handle sequences,
                  py::handle vectors) {
  const Array out = array(vectors, "vectors", Dtype::float32, {any_size, static_cast<std::int64_t>(tower.width())});
  const std::int64_t rows = out.shape[0];
  const auto width_of = [](std::size_t size) { return static_cast<std::int64_t>(size); };
  const auto dense = floats(request_dense, "request_dense", {rows, width_of(tower.request_dense())});
  const auto fields =
      array(request_ids, "request_ids", Dtype::int64, {rows, width_of(tower.request_ids())}).span<const std::int64_t>();
  const auto items =
      array(sequences, "sequences", Dtype::int64, {rows, width_of(tower.length())}).span<const std::int64_t>();
  const py::gil_scoped_release release;
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    tower.user_vector(dense.subspan(r * tower.request_dense(), tower.request_dense()),
                      fields.subspan(r * tower.request_ids(), tower.request_ids()),
                      items.subspan(r * tower.length(), tower.length()),
                      out.span<float>().subspan(r * tower.width(), tower.width()));
}

std::int64_t signed_size(std::size_t count) { return static_cast<std::int64_t>(count); }

std::shared_ptr<ItemIndex> make_index(py::handle item_id, py::handle vectors, py::handle centroids, std::size_t nprobe,
                                      int threads) {
  const Ids items = ids(item_id, "item_id");
  const Array rows = array(vectors, "vectors", Dtype::float32, {signed_size(items.size()), any_size});
  std::span<const float> lists;
  if (!centroids.is_none()) lists = floats(centroids, "centroids", {any_size, rows.shape[1]});
  const py::gil_scoped_release release;
  return unlocked(ItemIndex::make(items, rows.span<const float>(), static_cast<std::size_t>(rows.shape[1]), lists,
                                  nprobe, threads));
}

std::shared_ptr<ItemIndex> added(const ItemIndex& index, py::handle item_id, py::handle vectors) {
  const Ids items = ids(item_id, "item_id");
  const auto rows = floats(vectors, "vectors", {signed_size(items.size()), signed_size(index.width())});
  const py::gil_scoped_release release;
  return unlocked(index.added(items, rows));
}

void search(const ItemIndex& index, py::handle vectors, const py::list& seen, py::handle eligible, py::handle items,
            py::handle scores) {
  std::vector<Ids> drop;
  for (const py::handle row : seen) drop.push_back(ids(row, "seen"));
  const std::int64_t rows = signed_size(drop.size());
  const auto queries = floats(vectors, "vectors", {rows, signed_size(index.width())});
  std::optional<Ids> allowed;
  if (!eligible.is_none()) allowed = ids(eligible, "eligible");
  const Array found = array(items, "items", Dtype::int64, {rows, any_size});
  const Array values = array(scores, "scores", Dtype::float32, {rows, found.shape[1]});
  const py::gil_scoped_release release;
  index.search_all(queries, drop, allowed, found.span<std::int64_t>(), values.span<float>());
}

void read_items(const ItemIndex& index, py::handle item_id, py::handle vectors) {
  const std::int64_t size = signed_size(index.size());
  const auto out = array(item_id, "item_id", Dtype::int64, {size}).span<std::int64_t>();
  std::span<float> rows;
  if (!vectors.is_none())
    rows = array(vectors, "vectors", Dtype::float32, {size, signed_size(index.width())}).span<float>();
  index.read_items(out, rows);
}

void has(const ItemIndex& index, py::handle item_id, py::handle found) {
  const Ids items = ids(item_id, "item_id");
  const auto out = array(found, "found", Dtype::boolean, {signed_size(items.size())}).span<bool>();
  std::ranges::transform(items, out.begin(), [&](std::int64_t id) { return index.has(id); });
}

// Copies of what a file holds, by the names of its tensors.
py::dict layout(const ItemIndex& index) {
  const ItemIndexLayout of = index.layout();
  const auto copy = [](auto values, std::vector<py::ssize_t> shape) {
    return py::array_t<typename decltype(values)::value_type>(std::move(shape), values.data());
  };
  const auto width = static_cast<py::ssize_t>(of.width), slots = std::ssize(of.item_ids);
  py::dict result;
  result["list_size"] = copy(of.list_size, {std::ssize(of.list_size)});
  result["item_id"] = copy(of.item_ids, {slots});
  result["vectors"] = copy(of.vectors, {slots / 16, width, 16});
  result["centroids"] = copy(of.centroids, {std::ssize(of.centroids) / width, width});
  return result;
}

void centroids_of(py::handle vectors, py::handle centroids, int threads) {
  const Array rows = array(vectors, "vectors", Dtype::float32, {any_size, any_size});
  const Array out = array(centroids, "centroids", Dtype::float32, {any_size, rows.shape[1]});
  const py::gil_scoped_release release;
  std::ranges::copy(fit_centroids(rows.span<const float>(), static_cast<std::size_t>(rows.shape[1]),
                                  static_cast<std::size_t>(out.shape[0]), threads),
                    out.span<float>().begin());
}

void score_rows(py::handle vector, py::handle vectors, py::handle scores) {
  const auto query = floats(vector, "vector", {any_size});
  const Array out = array(scores, "scores", Dtype::float32, {any_size});
  const auto rows = floats(vectors, "vectors", {out.shape[0], static_cast<std::int64_t>(query.size())});
  const py::gil_scoped_release release;
  item_scores(query, rows, out.span<float>());
}

}  // namespace

void bind_prerank(py::module_& module) {
  py::class_<UserTower, std::shared_ptr<UserTower>>(module, "UserTower")
      .def(py::init(&make_tower), py::kw_only(), py::arg("width"), py::arg("hidden"), py::arg("field_embedding"),
           py::arg("length"), py::arg("item_id"), py::arg("item_table"), py::arg("request_mean"),
           py::arg("request_std"), py::arg("field_tables"), py::arg("hidden_weight"), py::arg("hidden_bias"),
           py::arg("output_weight"), py::arg("output_bias"))
      .def("user_vectors", &user_vectors, py::arg("request_dense"), py::arg("request_ids"), py::arg("sequences"),
           py::arg("vectors"));
  py::class_<ItemIndex, std::shared_ptr<ItemIndex>>(module, "ItemIndex")
      .def(py::init(&make_index), py::arg("item_id"), py::arg("vectors"), py::arg("centroids") = py::none(),
           py::arg("nprobe") = 0, py::arg("threads") = 1)
      .def("__len__", &ItemIndex::size)
      .def_property_readonly("width", &ItemIndex::width)
      .def_property_readonly("nprobe", [](const ItemIndex& index) { return index.layout().nprobe; })
      .def("added", &added, py::arg("item_id"), py::arg("vectors"))
      .def("search", &search, py::arg("vectors"), py::arg("seen"), py::arg("eligible").none(true), py::arg("items"),
           py::arg("scores"))
      .def("has", &has, py::arg("item_id"), py::arg("found"))
      .def("read_items", &read_items, py::arg("item_id"), py::arg("vectors") = py::none())
      .def("layout", &layout);
  py::class_<Prerank, std::shared_ptr<Prerank>>(module, "Prerank")
      .def(py::init([](const std::shared_ptr<UserTower>& tower, const std::shared_ptr<ItemIndex>& index,
                       const std::string& schema_hash) { return unlocked(Prerank::make(tower, index, schema_hash)); }),
           py::arg("tower"), py::arg("index"), py::arg("schema_hash"))
      .def_static(
          "load", [](const std::string& path) { return unlocked(Prerank::load(path)); }, py::arg("path"),
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("tower", [](const Prerank& prerank) { return unlocked(prerank.tower()); })
      .def_property_readonly("index", [](const Prerank& prerank) { return unlocked(prerank.index()); });
  module.def("fit_centroids", &centroids_of, py::arg("vectors"), py::arg("centroids"), py::arg("threads"));
  module.def("item_scores", &score_rows, py::arg("vector"), py::arg("vectors"), py::arg("scores"));
}

}  // namespace pygrade::inline v0_2::bindings
