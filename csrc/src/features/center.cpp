#include "features/center.hpp"

#include <algorithm>
#include <bit>

#include "util/json.hpp"

namespace pygrade::inline v0_2 {
namespace {
std::shared_ptr<const Features> given(std::shared_ptr<const Features> features, const std::shared_ptr<Store>& store) {
  if (features == nullptr) throw std::invalid_argument("features is null");
  if (store == nullptr) throw std::invalid_argument("store is null");
  return features;
}

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}
}  // namespace

std::int64_t detail::scenario_code(std::optional<std::string_view> scenario) {
  if (!scenario) return null_code;
  const std::string_view name = scenario->substr(0, scenario->find_last_not_of('\0') + 1);
  return name.empty() ? null_code : text_code(name);
}

FeatureCenter::Impl::Impl(std::shared_ptr<const Features> features_given, std::shared_ptr<Store> store_given,
                          std::optional<double> ttl_given, std::size_t limit, const std::optional<std::string>& version)
    : id(next_id()),
      features(given(std::move(features_given), store_given)),
      plan(features->impl().plan),
      store(std::move(store_given)),
      reader(version ? store->at(*version) : store),
      ttl(ttl_given),
      wanted(version),
      reading(plan.schema.user_width, plan.items.width(), limit),
      apart(version ? std::make_unique<detail::AttributeCache>(plan.schema.user_width, plan.items.width(), limit)
                    : nullptr),
      writing(apart ? *apart : reading) {
  if (ttl && !(*ttl > 0.0)) throw std::invalid_argument("ttl is not positive; expected seconds, or nothing");
}

std::string FeatureCenter::Impl::version_name(std::string_view meta) const {
  if (meta.data() == nullptr)
    throw SchemaMismatchError(store->url() + ": the current version was not published by a FeatureCenter");
  std::string schema, name;
  try {
    const detail::Json record = detail::Json::parse(meta, {.bytes = 1 << 16, .values = 1 << 10, .depth = 8});
    schema = record.string_at("schema");
    name = record.string_at("version");
  } catch (const detail::JsonError& error) {
    throw DamagedRecordError(store->url() + ": the description of the version is damaged: " + error.what());
  }
  if (schema != plan.schema.hash)
    throw SchemaMismatchError(store->url() + ": version '" + name + "' was published for schema " + schema +
                              "; this center has " + plan.schema.hash);
  return name;
}

bool FeatureCenter::Impl::is_current(detail::AttributeCache& cache, std::string_view meta,
                                     const detail::AttributeVersion& seen) const {
  if (meta.data() != nullptr && !meta.empty() && meta == seen.description) return true;
  const std::string name = version_name(meta);
  cache.change_version(meta, &cache == &reading && wanted && name != *wanted);
  return false;
}

void FeatureCenter::Impl::read_attributes(std::string_view value, std::span<const std::int64_t> unknown,
                                          std::int64_t* row) const {
  if (value.data() == nullptr) {
    std::ranges::copy(unknown, row);
    return;
  }
  if (value.size() != unknown.size_bytes())
    throw DamagedRecordError("a row of attributes has another size than this schema's " +
                             std::to_string(unknown.size_bytes()) + " bytes");
  static_assert(std::endian::native == std::endian::little, "records are read without swapping bytes");
  if (!value.empty()) std::memcpy(row, value.data(), value.size());
}

const char* FeatureCenter::Impl::record(const detail::Table& table, std::string_view value) const {
  if (value.data() == nullptr) return reinterpret_cast<const char*>(table.empty.data());
  if (value.size() != 8 * table.empty.size())
    throw DamagedRecordError("a record of table '" + table.name + "' has " + std::to_string(value.size()) +
                             " bytes; this schema's have " + std::to_string(8 * table.empty.size()));
  return value.data();
}

void FeatureCenter::Impl::fail_restless(const char* during) const {
  throw StoreError(store->url() + ": the current version changed " + std::to_string(version_tries) + " times during " +
                   during);
}

// ---- FeatureBuffer

FeatureBuffer::FeatureBuffer() : work(std::make_unique<Work>()) {}
FeatureBuffer::~FeatureBuffer() = default;
FeatureBuffer::FeatureBuffer(FeatureBuffer&&) noexcept = default;
FeatureBuffer& FeatureBuffer::operator=(FeatureBuffer&&) noexcept = default;

// ---- FeatureCenter

FeatureCenter::FeatureCenter(std::shared_ptr<const Features> features, std::shared_ptr<Store> store,
                             std::optional<double> ttl, std::size_t cache, const std::optional<std::string>& version)
    : impl_(std::make_unique<Impl>(std::move(features), std::move(store), ttl, cache, version)) {}
FeatureCenter::~FeatureCenter() = default;

std::string FeatureCenter::read_version() {
  const StoreQuery query{meta_table, meta_key};
  std::string name;
  Impl::get(*impl_->reader, {&query, 1}, {}, [&](StoreValues values) { name = impl_->version_name(values[0]); });
  return name;
}

FeatureCounters FeatureCenter::counters() const {
  const auto& now = impl_->counts;
  return {now.reads, now.defaults, now.store_errors, now.user_misses, now.item_misses, now.updates};
}

const std::shared_ptr<const Features>& FeatureCenter::features() const { return impl_->features; }
const std::shared_ptr<Store>& FeatureCenter::store() const { return impl_->store; }
}  // namespace pygrade::inline v0_2
