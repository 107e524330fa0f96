#include "pygrade/features.hpp"

#include <algorithm>
#include <charconv>

#include "features/plan.hpp"
#include "util/files.hpp"
#include "util/fpenv.hpp"
#include "util/json.hpp"
#include "util/safetensors.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2 {
namespace {
detail::Schema read_schema(std::string_view json, const std::string& path) {
  try {
    return detail::Schema::parse(json);
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + " is no feature schema: " + error.what());
  }
}

// See NormalizeTask.
void normalize(std::span<const float> rows, std::size_t count, const detail::Normalization& fitted, float* out,
               std::size_t stride) {
  using namespace detail;
  const FloatEnvironment environment;
  PYGRADE_KERNELS(feature_kernels)
      .normalize({rows.data(), static_cast<std::int64_t>(count), static_cast<std::int64_t>(fitted.mean.size()),
                  fitted.mean.data(), fitted.std.data(), out, static_cast<std::int64_t>(stride)});
}

void check_size(std::size_t size, std::size_t wanted, const char* name) {
  if (size != wanted)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " numbers; expected " +
                                std::to_string(wanted));
}
}  // namespace

namespace {
// The code of a level by its text, as the column has it; nothing if it is no value of the column.
std::optional<std::int64_t> code_of_level(const detail::Schema& schema, const detail::Feature& feature,
                                          std::string_view level) {
  const std::string column = column_of(feature);
  const auto type = schema.dtypes.find(column);
  const bool number =
      type == schema.dtypes.end() ? feature.source != "scenario" : type->second.find("int") != std::string::npos;
  if (!number) return detail::text_code(level);
  std::int64_t code = 0;
  const auto [end, error] = std::from_chars(level.data(), level.data() + level.size(), code);
  if (error != std::errc() || end != level.data() + level.size()) return {};
  return code;
}
}  // namespace

FeatureInputs::FeatureInputs(const Features& features, std::span<const std::string> names, bool of_requests) {
  const detail::Plan& plan = features.impl().plan;
  const auto& numbers = of_requests ? plan.request_features : plan.item_features;
  dense_ = numbers.size();
  ids_ = (of_requests ? plan.request_id_features : plan.item_id_features).size();
  for (const std::string& name : names) {
    Input input;
    if (const auto found = std::ranges::find(numbers, name); found != numbers.end())
      input = {Kind::number, static_cast<std::size_t>(found - numbers.begin())};
    const std::size_t equals = name.find('=');
    std::size_t column = 0, coding = 0;
    for (const detail::Feature& f : plan.schema.features) {
      if (!f.is_id()) continue;
      const detail::IdCoding& own = plan.codings[coding++];
      if (f.per_request() != of_requests) continue;
      if (equals != name.npos && f.name == std::string_view(name).substr(0, equals)) {
        const auto code = code_of_level(plan.schema, f, std::string_view(name).substr(equals + 1));
        const std::int64_t id = code ? own.id_of(*code) : 0;
        input = {Kind::level, column, f.width(), id > 0 ? id : -1};
      }
      column += f.width();
    }
    inputs_.push_back(input);
  }
}

void FeatureInputs::take(std::size_t input, std::span<const float> dense, std::span<const std::int64_t> ids, float* out,
                         std::size_t stride, std::size_t rows) const {
  const auto [kind, column, width, id] = inputs_[input];
  for (std::size_t row = 0; row < rows; ++row, out += stride) {
    if (kind == Kind::unknown) {
      *out = std::numeric_limits<float>::quiet_NaN();
    } else if (kind == Kind::number) {
      *out = dense[row * dense_ + column];
    } else {
      const auto own = ids.subspan(row * ids_ + column, width);
      *out = std::ranges::find(own, id) == own.end() ? 0.0f : 1.0f;
    }
  }
}

void FeatureInputs::take_all(std::span<const float> dense, std::span<const std::int64_t> ids,
                             std::span<float> out) const {
  if (inputs_.empty()) return;
  const std::size_t rows = out.size() / inputs_.size();
  check_size(dense.size(), rows * dense_, "dense");
  check_size(ids.size(), rows * ids_, "ids");
  for (std::size_t input = 0; input < inputs_.size(); ++input)
    take(input, dense, ids, out.data() + input, inputs_.size(), rows);
}

Features::Features() = default;
Features::~Features() = default;

std::shared_ptr<const Features> Features::parse(std::string_view schema_json, std::span<const std::byte> fitted,
                                                std::string_view name) {
  const std::string folder(name);
  detail::Schema schema = read_schema(schema_json, folder + "/schema.json");
  const std::shared_ptr<Features> made(new Features);
  try {
    detail::Sha256 digest;
    digest.update(std::as_bytes(std::span(schema_json)));
    digest.update(fitted);
    made->impl_.reset(new Impl{detail::Plan(std::move(schema), fitted), digest.hex()});
  } catch (const detail::SafetensorsError& error) {
    throw ArtifactError(folder + "/fitted.safetensors: " + error.what());
  } catch (const detail::JsonError& error) {
    throw ArtifactError(folder + "/schema.json is no feature schema: " + error.what());
  }
  return made;
}

std::shared_ptr<const Features> Features::load(const std::string& directory) {
  const auto schema =
      detail::OpenFile(std::filesystem::path(directory) / "schema.json", "; expected the features of an artifact")
          .content();
  const auto fitted =
      detail::OpenFile(std::filesystem::path(directory) / "fitted.safetensors", "; schema.json lies beside it")
          .large_content();
  return parse(detail::text_of(schema), fitted, directory);
}

const std::string& Features::fingerprint() const { return impl_->fingerprint; }
const std::string& Features::hash() const { return impl_->plan.schema.hash; }
const std::vector<std::string>& Features::tasks() const { return impl_->plan.schema.tasks; }
const std::vector<std::string>& Features::request_features() const { return impl_->plan.request_features; }
const std::vector<std::string>& Features::request_id_features() const { return impl_->plan.request_id_features; }
const std::vector<std::string>& Features::item_features() const { return impl_->plan.item_features; }
const std::vector<std::string>& Features::item_id_features() const { return impl_->plan.item_id_features; }
const std::vector<std::string>& Features::cross_features() const { return impl_->plan.cross_features; }
std::size_t Features::sequence_length() const { return impl_->plan.sequence_length; }

void Features::normalize_request(std::span<const float> request_dense, std::span<float> out) const {
  const auto& fitted = impl_->plan.request;
  const std::size_t width = fitted.mean.size();
  if (width == 0) return;
  const std::size_t requests = out.size() / width;
  check_size(out.size(), requests * width, "out");
  check_size(request_dense.size(), requests * width, "request_dense");
  normalize(request_dense, requests, fitted, out.data(), width);
}

void Features::normalize_rows(std::span<const float> item_dense, std::span<const float> cross_dense,
                              std::span<float> out) const {
  const auto &item = impl_->plan.item, &cross = impl_->plan.cross;
  const std::size_t items = item.mean.size(), crosses = cross.mean.size(), width = items + crosses;
  if (width == 0) return;
  const std::size_t rows = out.size() / width;
  check_size(out.size(), rows * width, "out");
  check_size(item_dense.size(), rows * items, "item_dense");
  check_size(cross_dense.size(), rows * crosses, "cross_dense");
  normalize(item_dense, rows, item, out.data(), width);
  normalize(cross_dense, rows, cross, out.data() + items, width);
}
}  // namespace pygrade::inline v0_2
