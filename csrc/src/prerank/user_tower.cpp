// pygrade/prerank/towers.py documents the tower. Every output of a layer is one chain of fused multiply-adds in the
// order of its inputs; the rest is correctly rounded, so that all instruction sets give the same bits.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "prerank/prerank.hpp"
#include "util/fpenv.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
constexpr float input_clip = 5.0f;
constexpr float min_norm = 1e-12f;  // as torch.nn.functional.normalize

// A linear layer as the kernel reads it: weights by input, outputs padded to whole blocks.
struct Layer {
  Layer(std::span<const float> weight, std::span<const float> given_bias, std::size_t num_inputs)
      : inputs(num_inputs), outputs(detail::whole_blocks(given_bias.size())), bias(outputs), weights(inputs * outputs) {
    std::ranges::copy(given_bias, bias.begin());
    for (std::size_t j = 0; j < given_bias.size(); ++j)
      for (std::size_t i = 0; i < inputs; ++i) weights[i * outputs + j] = weight[j * inputs + i];
  }
  void run(const detail::PrerankKernels& kernels, const float* x, float* out) const {
    kernels.linear(x, static_cast<std::int64_t>(inputs), weights.data(), bias.data(),
                   static_cast<std::int64_t>(outputs), out);
  }

  std::size_t inputs, outputs;
  std::vector<float> bias, weights;
};

void check(std::size_t size, std::size_t wanted, const char* name) {
  if (size != wanted)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " numbers; expected " +
                                std::to_string(wanted));
}
}  // namespace

struct UserTower::Impl {
  explicit Impl(const UserTowerParameters& p)
      : wide(p.width - 1),
        narrow(p.field_embedding),
        length(p.length),
        ids(p.item_ids.begin(), p.item_ids.end()),
        rows(ids),
        item_table(p.item_table.begin(), p.item_table.end()),
        mean(p.request_mean.begin(), p.request_mean.end()),
        std(p.request_std.begin(), p.request_std.end()),
        hidden(p.hidden_weight, p.hidden_bias, mean.size() + narrow * p.field_tables.size() + wide),
        output(p.output_weight, p.output_bias, p.hidden) {
    for (const auto table : p.field_tables) {
      fields.push_back({field_table.size(), static_cast<std::int64_t>(table.size() / narrow)});
      field_table.insert(field_table.end(), table.begin(), table.end());
    }
  }

  // The mean of the embeddings of the known items of a sequence; zeros if there is none.
  void history(std::span<const std::int64_t> sequence, float* out) const {
    std::fill_n(out, wide, 0.0f);
    std::size_t known = 0;
    for (const std::int64_t id : sequence) {
      const std::int32_t place = rows.find(id);
      if (place == detail::IdTable::absent) continue;
      const float* const row = item_table.data() + (static_cast<std::size_t>(place) + 1) * wide;
      for (std::size_t j = 0; j < wide; ++j) out[j] += row[j];
      ++known;
    }
    const auto divisor = static_cast<float>(std::max<std::size_t>(known, 1));
    for (std::size_t j = 0; j < wide; ++j) out[j] /= divisor;
  }

  struct Field {
    std::size_t start;  // in field_table
    std::int64_t size;
  };

  std::size_t wide, narrow, length;
  std::vector<std::int64_t> ids;
  detail::IdTable rows;
  std::vector<float> item_table, mean, std;
  std::vector<Field> fields;
  std::vector<float> field_table;
  Layer hidden, output;
};

UserTower::UserTower() = default;
UserTower::~UserTower() = default;

std::shared_ptr<const UserTower> UserTower::make(const UserTowerParameters& p) {
  if (p.width < 2) throw std::invalid_argument("width is " + std::to_string(p.width) + "; expected at least 2");
  if (p.hidden < 1) throw std::invalid_argument("hidden is 0; expected at least 1");
  if (p.field_embedding < 1) throw std::invalid_argument("field_embedding is 0; expected at least 1");
  constexpr std::size_t most = std::size_t{1} << 24;  // so that no product overflows
  if (p.width > most || p.hidden > most || p.field_embedding > most || p.field_tables.size() > most)
    throw std::invalid_argument("width, hidden, field_embedding or field_tables is above 2^24");
  const std::size_t wide = p.width - 1;
  detail::check_ascending(p.item_ids, "item_ids");
  detail::check_numbers(p.item_table, (p.item_ids.size() + 1) * wide, "item_table");
  detail::check_numbers(p.request_std, p.request_mean.size(), "request_std");
  detail::check_numbers(p.request_mean, p.request_mean.size(), "request_mean");
  for (const auto table : p.field_tables) {
    if (table.empty())
      throw std::invalid_argument("a table of field_tables is empty; expected a row for unknown values");
    detail::check_numbers(table, table.size() / p.field_embedding * p.field_embedding, "a table of field_tables");
  }
  const std::size_t inputs = p.request_mean.size() + p.field_embedding * p.field_tables.size() + wide;
  detail::check_numbers(p.hidden_bias, p.hidden, "hidden_bias");
  detail::check_numbers(p.hidden_weight, p.hidden * inputs, "hidden_weight");
  detail::check_numbers(p.output_bias, wide, "output_bias");
  detail::check_numbers(p.output_weight, wide * p.hidden, "output_weight");
  std::shared_ptr<UserTower> made(new UserTower);
  made->impl_ = std::make_unique<Impl>(p);
  return made;
}

std::size_t UserTower::width() const { return impl_->wide + 1; }
std::size_t UserTower::request_dense() const { return impl_->mean.size(); }
std::size_t UserTower::request_ids() const { return impl_->fields.size(); }
std::size_t UserTower::length() const { return impl_->length; }

void UserTower::user_vector(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                            std::span<const std::int64_t> sequence, std::span<float> vector) const {
  const Impl& tower = *impl_;
  check(request_dense.size(), tower.mean.size(), "request_dense");
  check(request_ids.size(), tower.fields.size(), "request_ids");
  check(sequence.size(), tower.length, "sequence");
  check(vector.size(), tower.wide + 1, "vector");
  const detail::FloatEnvironment environment;
  const auto& kernels = PYGRADE_KERNELS(prerank_kernels);
  const detail::Scratch scratch(tower.hidden.inputs + tower.hidden.outputs + tower.output.outputs);
  float* const x = scratch.data();
  float* const hidden = x + tower.hidden.inputs;
  float* const out = hidden + tower.hidden.outputs;
  float* to = x;
  for (std::size_t d = 0; d < request_dense.size(); ++d) {
    const float scaled = tower.std[d] > 0.0f ? (request_dense[d] - tower.mean[d]) / tower.std[d] : 0.0f;
    *to++ = std::isnan(scaled) ? 0.0f : std::clamp(scaled, -input_clip, input_clip);
  }
  for (std::size_t f = 0; f < request_ids.size(); ++f) {
    const Impl::Field& field = tower.fields[f];
    const std::int64_t index = request_ids[f] >= 0 && request_ids[f] < field.size ? request_ids[f] : 0;
    to = std::copy_n(tower.field_table.data() + field.start + static_cast<std::size_t>(index) * tower.narrow,
                     tower.narrow, to);
  }
  tower.history(sequence, to);
  tower.hidden.run(kernels, x, hidden);
  kernels.silu(hidden, static_cast<std::int64_t>(tower.hidden.outputs));
  tower.output.run(kernels, hidden, out);
  double square = 0.0;  // products of floats are exact in double
  for (std::size_t j = 0; j < tower.wide; ++j) {
    vector[j] = to[j] + out[j];
    square += static_cast<double>(vector[j]) * static_cast<double>(vector[j]);
  }
  const float norm = std::max(static_cast<float>(std::sqrt(square)), min_norm);
  for (std::size_t j = 0; j < tower.wide; ++j) vector[j] /= norm;
  vector[tower.wide] = 1.0f;
}
}  // namespace pygrade::inline v0_2
