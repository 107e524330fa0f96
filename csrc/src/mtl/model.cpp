#include "mtl/model.hpp"

#include <algorithm>
#include <cstring>

#include "pygrade/mtl.hpp"
#include "util/files.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::MtlNetwork;

constexpr double nanoseconds_per_weight = 0.012;  // of one row, on AVX-512

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

void check_size(const char* name, std::size_t size, std::size_t rows, std::int64_t columns) {
  if (size != rows * size_of(columns))
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " values; expected " +
                                std::to_string(rows) + " rows of " + std::to_string(columns));
}

std::int64_t rows_of(std::span<float> probabilities, const MtlNetwork& network) {
  if (probabilities.size() % size_of(network.tasks) != 0)
    throw std::invalid_argument("probabilities has room for " + std::to_string(probabilities.size()) +
                                " values; expected a multiple of " + std::to_string(network.tasks) + " tasks");
  return static_cast<std::int64_t>(probabilities.size()) / network.tasks;
}

// Rows that do the work of a share of 20 µs.
std::int64_t grain_of(const MtlNetwork& network) {
  return detail::grain_of(nanoseconds_per_weight * static_cast<double>(network.initial * network.inputs));
}

// Tests if two rows have the same request, by their bits.
struct SameRequest {
  const MtlNetwork& network;
  const float* dense;
  const std::int64_t* ids;

  bool operator()(std::int64_t a, std::int64_t b) const {
    return same(dense, network.dense, network.request_dense, a, b) && same(ids, network.ids, network.request_ids, a, b);
  }

 private:
  template <class T>
  static bool same(const T* values, std::int64_t columns, std::int64_t count, std::int64_t a, std::int64_t b) {
    return count == 0 || std::memcmp(values + a * columns, values + b * columns, size_of(count) * sizeof(T)) == 0;
  }
};
}  // namespace

struct MultiTaskModel::Impl : detail::MtlModel {};

MultiTaskModel::MultiTaskModel() : impl_(std::make_unique<Impl>()) {}
MultiTaskModel::~MultiTaskModel() = default;

std::shared_ptr<const MultiTaskModel> MultiTaskModel::parse(std::string_view json, const FileContent& safetensors,
                                                            std::string_view name) {
  std::shared_ptr<MultiTaskModel> model(new MultiTaskModel);
  detail::read_mtl(json, safetensors, name, *model->impl_);
  return model;
}

std::shared_ptr<const MultiTaskModel> MultiTaskModel::load(const std::string& directory) {
  for (;;) {
    const detail::OpenFile json(std::filesystem::path(directory) / "mtl.json",
                                "; expected a directory that pygrade.mtl.save wrote");
    try {
      const auto text = json.content();
      const detail::OpenFile tensors(std::filesystem::path(directory) / "mtl.safetensors",
                                     "; mtl.json beside it names it");
      return parse(detail::text_of(text), tensors.large_content(), directory);
    } catch (const ArtifactError&) {
      if (!json.replaced()) throw;  // else the files were of two saves
    }
  }
}

const std::vector<std::string>& MultiTaskModel::tasks() const { return impl_->tasks; }
const std::vector<std::string>& MultiTaskModel::dense_columns() const { return impl_->dense; }
const std::vector<std::string>& MultiTaskModel::id_columns() const { return impl_->ids; }
const std::string& MultiTaskModel::features() const { return impl_->features; }
const std::string& MultiTaskModel::schema_hash() const { return impl_->schema_hash; }
std::size_t MultiTaskModel::request_dense() const { return size_of(impl_->network.request_dense); }
std::size_t MultiTaskModel::request_ids() const { return size_of(impl_->network.request_ids); }

void MultiTaskModel::predict(std::span<const float> dense, std::span<const std::int64_t> ids,
                             std::span<float> probabilities, bool calibrated, int num_threads) const {
  const MtlNetwork& network = impl_->network;
  const std::int64_t count = rows_of(probabilities, network);
  check_size("dense", dense.size(), size_of(count), network.dense);
  check_size("ids", ids.size(), size_of(count), network.ids);
  const detail::MtlKernels& kernels = PYGRADE_KERNELS(mtl_kernels);
  const SameRequest same{network, dense.data(), ids.data()};
  detail::parallel_for(count, num_threads, grain_of(network), [&](std::int64_t begin, std::int64_t end) {
    const detail::Scratch scratch(size_of(network.scratch.size));
    float* initial = scratch.data() + network.scratch.initial;
    std::int64_t known = -1;  // the row whose request `initial` is of
    for (std::int64_t first = begin; first < end; first += detail::mtl_block) {
      const std::int64_t rows = std::min(detail::mtl_block, end - first);
      std::int64_t alike = 1;
      while (alike < rows && same(first, first + alike)) ++alike;
      const float* row_dense = dense.data() + first * network.dense;
      const std::int64_t* row_ids = ids.data() + first * network.ids;
      detail::MtlRows block{.dense = row_dense,
                            .dense_stride = network.dense,
                            .ids = row_ids,
                            .ids_stride = network.ids,
                            .count = rows,
                            .initial = nullptr,
                            .calibrated = calibrated,
                            .probabilities = probabilities.data() + first * network.tasks};
      if (alike == rows) {
        if (known < 0 || !same(known, first)) kernels.request(network, row_dense, row_ids, scratch.data(), initial);
        known = first;
        block.initial = initial;
        block.dense += network.request_dense;
        block.ids += network.request_ids;
      }
      kernels.rows(network, block, scratch.data());
    }
  });
}

void MultiTaskModel::predict_request(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                                     std::span<const float> dense, std::span<const std::int64_t> ids,
                                     std::span<float> probabilities, bool calibrated) const {
  const MtlNetwork& network = impl_->network;
  const std::int64_t count = rows_of(probabilities, network);
  const std::int64_t row_dense = network.dense - network.request_dense, row_ids = network.ids - network.request_ids;
  check_size("request_dense", request_dense.size(), 1, network.request_dense);
  check_size("request_ids", request_ids.size(), 1, network.request_ids);
  check_size("dense", dense.size(), size_of(count), row_dense);
  check_size("ids", ids.size(), size_of(count), row_ids);
  if (count == 0) return;
  const detail::FloatEnvironment environment;
  const detail::MtlKernels& kernels = PYGRADE_KERNELS(mtl_kernels);
  const detail::Scratch scratch(size_of(network.scratch.size));
  float* initial = scratch.data() + network.scratch.initial;
  kernels.request(network, request_dense.data(), request_ids.data(), scratch.data(), initial);
  for (std::int64_t first = 0; first < count; first += detail::mtl_block)
    kernels.rows(network,
                 {.dense = dense.data() + first * row_dense,
                  .dense_stride = row_dense,
                  .ids = ids.data() + first * row_ids,
                  .ids_stride = row_ids,
                  .count = std::min(detail::mtl_block, count - first),
                  .initial = initial,
                  .calibrated = calibrated,
                  .probabilities = probabilities.data() + first * network.tasks},
                 scratch.data());
}
}  // namespace pygrade::inline v0_2
