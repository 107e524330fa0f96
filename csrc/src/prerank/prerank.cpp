// Reads what pygrade.prerank.Prerank.save writes: prerank.json, which names the sha256 of prerank.safetensors. The
// index is used where it lies in the memory that the file was read into.
#include "prerank/prerank.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "util/artifact_record.hpp"
#include "util/files.hpp"
#include "util/safetensors.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2 {
struct Prerank::Impl {
  std::shared_ptr<const UserTower> tower;
  std::shared_ptr<const ItemIndex> index;
  std::string schema_hash;
};

namespace {
namespace fs = std::filesystem;
using detail::Json;
using detail::TensorView;

constexpr std::int64_t max_width = 1 << 20;
constexpr const char* tensors_name = "prerank.safetensors";

// 'record_sha256' is the sha256 of the file without its own line.
void check_hash(const Json& record, std::string_view text) {
  constexpr std::string_view key = "\n  \"record_sha256\": \"";
  const std::string& stated = record.string_at("record_sha256");
  const std::size_t at = text.find(key);
  const std::size_t end = at == text.npos ? at : text.find('\n', at + 1);
  if (end == text.npos) throw detail::JsonError("'record_sha256' is not as Prerank.save writes it");
  const std::string rest = std::string(text.substr(0, at)) + std::string(text.substr(end));
  if (detail::sha256_hex(std::as_bytes(std::span(rest))) != stated)
    throw detail::JsonError("it was changed after it was saved, or is corrupt: its checksum disagrees");
}

// Content of prerank.json.
struct Record {
  Record(std::string_view text, const std::string& given_path) : path(given_path) {
    try {
      const Json json = detail::parse_artifact_record(text, "pygrade.Prerank");
      check_hash(json, text);
      schema_hash = json.string_at("schema_hash");
      if (const Json* kind = json.find("index_kind"); kind != nullptr && kind->string != "flat")
        throw detail::JsonError("its index is of kind " + detail::json_quote(kind->string) +
                                ", of an older pygrade; expected flat: run pygrade pipeline again");
      const Json& config = json.object_at("config");
      width = size_at(config, "width", 2);
      hidden = size_at(config, "hidden", 1);
      field_embedding = size_at(config, "field_embedding", 1);
      tensors = json.object_at("sha256").string_at(tensors_name);
    } catch (const detail::JsonError& error) {
      throw ArtifactError(path + ": " + error.what());
    }
  }

  static std::size_t size_at(const Json& config, std::string_view key, std::int64_t low) {
    const double value = config.finite_at(key);
    if (!(value >= static_cast<double>(low) && value <= static_cast<double>(max_width)) ||
        value != static_cast<double>(static_cast<std::int64_t>(value)))
      throw detail::JsonError("'" + std::string(key) + "' is " + detail::plain_number(value) +
                              "; expected a whole number from " + std::to_string(low) + " to " +
                              std::to_string(max_width));
    return static_cast<std::size_t>(value);
  }

  std::string path;
  std::string schema_hash, tensors;  // the latter: sha256 of the file
  std::size_t width = 0, hidden = 0, field_embedding = 0;
};

const TensorView& tensor_of(std::span<const TensorView> tensors, std::string_view name, detail::TensorType type,
                            std::size_t dimensions) {
  const TensorView& found = detail::find_tensor(tensors, name);
  if (found.type != type || found.shape.size() != dimensions)
    throw detail::SafetensorsError("tensor " + detail::json_quote(name) + " is not " +
                                   (type == detail::TensorType::int64 ? "I64" : "F32") + " of " +
                                   std::to_string(dimensions) + " dimensions");
  return found;
}

using Integers = detail::TensorValues<std::int64_t>;
using Floats = detail::TensorValues<float>;

Integers integers(std::span<const TensorView> tensors, std::string_view name) {
  return Integers(tensor_of(tensors, name, detail::TensorType::int64, 1).bytes);
}

// A tensor of any lengths; UserTower::make checks how many numbers it has.
Floats floats(std::span<const TensorView> tensors, std::string_view name, std::size_t dimensions) {
  return Floats(tensor_of(tensors, name, detail::TensorType::float32, dimensions).bytes);
}

std::shared_ptr<const UserTower> read_tower(const Record& record, std::span<const TensorView> tensors) {
  const auto item_ids = integers(tensors, "inputs.item_id");
  const auto length = integers(tensors, "inputs.length");
  if (length.size() != 1 || length[0] < 0)
    throw detail::SafetensorsError("tensor \"inputs.length\" is not one number >= 0");
  const auto item_table = floats(tensors, "towers.item_table.weight", 2);
  const auto mean = floats(tensors, "inputs.request_mean", 1), std = floats(tensors, "inputs.request_std", 1);
  const auto sizes = integers(tensors, "inputs.request_sizes");
  std::vector<std::vector<float>> fields;
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    const std::string name = "towers.request_fields." + std::to_string(f) + ".weight";
    const std::int64_t shape[] = {sizes[f], static_cast<std::int64_t>(record.field_embedding)};
    fields.push_back(detail::float_tensor(tensors, name, shape));
  }
  const auto hidden_weight = floats(tensors, "towers.user_tower.0.weight", 2);
  const auto hidden_bias = floats(tensors, "towers.user_tower.0.bias", 1);
  const auto output_weight = floats(tensors, "towers.user_tower.3.weight", 2);
  const auto output_bias = floats(tensors, "towers.user_tower.3.bias", 1);
  const std::vector<std::span<const float>> tables(fields.begin(), fields.end());
  return UserTower::make({record.width, record.hidden, record.field_embedding, static_cast<std::size_t>(length[0]),
                          item_ids, item_table, mean, std, tables, hidden_weight, hidden_bias, output_weight,
                          output_bias});
}

std::shared_ptr<const ItemIndex> read_index(const Record& record, std::span<const TensorView> tensors,
                                            const std::shared_ptr<const void>& owner) {
  const Integers item_ids = integers(tensors, "index.item_id");
  const TensorView& blocks = tensor_of(tensors, "index.vectors", detail::TensorType::float32, 3);
  if (static_cast<std::size_t>(blocks.shape[1]) != record.width ||
      static_cast<std::size_t>(blocks.shape[2]) != detail::item_block)
    throw detail::SafetensorsError("tensor \"index.vectors\" is not of width " + std::to_string(record.width));
  const Floats vectors(blocks.bytes);
  const bool copied = item_ids.copied() || vectors.copied();
  return ItemIndex::make({record.width, item_ids, vectors}, copied ? nullptr : owner);
}
}  // namespace

Prerank::Prerank() = default;
Prerank::~Prerank() = default;

std::shared_ptr<const Prerank> Prerank::make(std::shared_ptr<const UserTower> tower,
                                             std::shared_ptr<const ItemIndex> index, std::string schema_hash) {
  if (tower == nullptr || index == nullptr) throw std::invalid_argument("tower or index is null; expected both");
  if (tower->width() != index->width())
    throw std::invalid_argument("index has vectors of width " + std::to_string(index->width()) +
                                "; expected that of the tower, " + std::to_string(tower->width()));
  std::shared_ptr<Prerank> made(new Prerank);
  made->impl_ = std::make_unique<Impl>(std::move(tower), std::move(index), std::move(schema_hash));
  return made;
}

std::shared_ptr<const Prerank> Prerank::parse(std::string_view json, const FileContent& safetensors,
                                              std::string_view name) {
  const std::string folder = std::string(name) + "/";
  const Record record(json, folder + "prerank.json");
  const std::string path = folder + tensors_name;
  if (const std::string& actual = safetensors.sha256(); actual != record.tensors)
    throw ArtifactError(path + " has sha256 " + actual.substr(0, 12) + "; expected " + record.tensors.substr(0, 12) +
                        " (truncated, corrupt or of another save)");
  try {
    const auto tensors = detail::read_safetensors(safetensors);
    auto tower = read_tower(record, tensors);
    return make(std::move(tower), read_index(record, tensors, safetensors.owner()), record.schema_hash);
  } catch (const detail::SafetensorsError& error) {
    throw ArtifactError(path + ": " + error.what());
  } catch (const std::invalid_argument& error) {
    throw ArtifactError(path + ": " + error.what());
  }
}

std::shared_ptr<const Prerank> Prerank::load(const std::string& directory) {
  const auto json =
      detail::OpenFile(fs::path(directory) / "prerank.json", "; expected a directory that Prerank.save wrote")
          .content();
  const detail::OpenFile tensors(fs::path(directory) / tensors_name, "; prerank.json beside it names it");
  return parse(detail::text_of(json), tensors.large_content(), directory);
}

const std::string& Prerank::schema_hash() const { return impl_->schema_hash; }
const std::shared_ptr<const UserTower>& Prerank::tower() const { return impl_->tower; }
const std::shared_ptr<const ItemIndex>& Prerank::index() const { return impl_->index; }
std::size_t Prerank::width() const { return impl_->index->width(); }
std::size_t Prerank::num_items() const { return impl_->index->size(); }

void Prerank::user_vector(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                          std::span<const std::int64_t> sequence, std::span<float> vector) const {
  impl_->tower->user_vector(request_dense, request_ids, sequence, vector);
}

std::size_t Prerank::search(std::span<const float> vector, std::span<const std::int64_t> seen,
                            std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items,
                            std::span<float> scores) const {
  return impl_->index->search(vector, seen, eligible, items, scores);
}
}  // namespace pygrade::inline v0_2
