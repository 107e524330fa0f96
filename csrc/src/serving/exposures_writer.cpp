#include "serving/exposures_writer.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <system_error>

#include "util/files.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

template <class T>
std::span<T> take(std::byte*& at, std::size_t count) {
  const std::span<T> part(reinterpret_cast<T*>(at), count);
  at += count * sizeof(T);
  return part;
}

std::string random_token() {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", std::random_device{}());
  return text;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + json_quote(name);
  return "[" + text + "]";
}

std::string metadata_of(const ExposureSchema& schema) {
  return R"({"format_version": 1, "tasks": )" + list_of(schema.tasks) + R"(, "features": )" + list_of(schema.features) +
         R"(, "scales": )" + schema.scales + "}";
}

}  // namespace

// --- records ---

ExposureSchema::ExposureSchema(const Policy& policy)
    : tasks(policy.tasks()),
      features(policy.features()),
      item_columns(policy.own_items().begin(), policy.own_items().end()),
      priced(policy.takes_prices()),
      valued(policy.takes_values()),
      categorized(policy.takes_categories()),
      scales(policy.scales().json()) {}

bool ExposureSchema::is_of(const Policy& policy) const {
  return valued == policy.takes_values() && priced == policy.takes_prices() &&
         categorized == policy.takes_categories() && tasks == policy.tasks() && features == policy.features() &&
         std::ranges::equal(item_columns, policy.own_items()) && scales == policy.scales().json();
}

ExposureRecord::ExposureRecord(std::byte* memory, const ExposureHead& head) {
  const ExposureSchema& schema = *head.schema;
  const std::size_t tasks = schema.tasks.size();
  std::byte* at = memory + sizeof(ExposureHead);
  items = take<std::int64_t>(at, head.rows);
  predictions = take<float>(at, head.rows * tasks);
  prices = take<float>(at, schema.priced ? head.rows : 0);
  item_columns = take<float>(at, head.rows * schema.item_columns.size());
  context = take<float>(at, schema.features.size());
  weights = take<float>(at, tasks);
  concentration = take<float>(at, head.explored ? tasks : 0);
  values = take<float>(at, schema.valued ? tasks : 0);
  shown = take<std::int32_t>(at, head.shown);
  request_id = take<char>(at, head.request_id);
  user_id = take<char>(at, head.user_id);
  scenario = take<char>(at, head.scenario);
  categories = take<char>(at, head.categories);
}

std::size_t ExposureRecord::bytes(const ExposureHead& head) {
  const ExposureSchema& schema = *head.schema;
  const std::size_t tasks = schema.tasks.size();
  const std::size_t floats = head.rows * (tasks + schema.priced + schema.item_columns.size()) + schema.features.size() +
                             tasks * (1 + head.explored + schema.valued) + head.shown;
  return sizeof(ExposureHead) + 8 * std::size_t{head.rows} + 4 * floats + head.request_id + head.user_id +
         head.scenario + head.categories;
}

// --- files ---

ExposureWriter::ExposureWriter(const std::filesystem::path& directory, const ExposureOptions& options)
    : directory_(directory), options_(options), token_(random_token()) {}

ExposureWriter::~ExposureWriter() { give_up(); }

std::uint64_t ExposureWriter::give_up() {
  if (file_ != nullptr) unlink((directory_ / ("." + name_ + ".tmp")).c_str());
  file_.reset();
  columns_.clear();
  return std::exchange(requests_, 0) + std::exchange(adding_, false);
}

void ExposureWriter::open(const ExposureSchema& schema) {
  using namespace std::chrono;
  const auto now = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  char text[64];
  std::snprintf(text, sizeof text, "-%013lld-%s-%06llu.parquet", static_cast<long long>(now), token_.c_str(),
                static_cast<unsigned long long>(number_++));
  name_ = options_.name + text;
  file_ = std::make_unique<ParquetFile>((directory_ / ("." + name_ + ".tmp")).string());
  file_start_ = group_start_ = Clock::now();
  schema_ = &schema;
  columns_.clear();
  const auto column = [&](const std::string& name, ParquetType type, bool runs, bool nulls = false) {
    columns_.emplace_back(name, type, runs, nulls);
  };
  const auto numbers = [&](const char* prefix, const std::vector<std::string>& names, bool runs, bool nulls = false) {
    for (const auto& name : names) column(prefix + name, ParquetType::float32, runs, nulls);
  };
  column("request_id", ParquetType::text, true);
  column("user_id", ParquetType::text, true);
  column("item_id", ParquetType::int64, false);
  column("position", ParquetType::int32, false, true);
  numbers("x_", schema.features, true);
  numbers("p_", schema.tasks, false);
  numbers("y_", schema.tasks, true, true);
  numbers("i_", schema.item_columns, false);
  if (schema.priced) column("value", ParquetType::float32, false);
  if (schema.categorized) column("category", ParquetType::text, true, true);
  column("scenario", ParquetType::text, true);
  numbers("w_", schema.tasks, true);
  numbers("a_", schema.tasks, true);
  column("seed", ParquetType::uint64, true);
  column("policy_version", ParquetType::text, true);
  column("exploration", ParquetType::text, true);
  column("timestamp", ParquetType::int64, true, true);
  column("trust", ParquetType::float32, true);
  column("baseline", ParquetType::text, true);
  column("verdict", ParquetType::text, true);
  if (schema.valued) numbers("v_", schema.tasks, true);
  column("candidates", ParquetType::int32, true);
  column("share", ParquetType::float32, true);
  if (!options_.arm.empty()) column("arm", ParquetType::text, true);
}

void ExposureWriter::add(std::byte* memory) {
  ExposureHead head;
  std::memcpy(&head, memory, sizeof head);
  adding_ = true;
  if (file_ != nullptr && schema_ != head.schema) finish_file();
  if (file_ == nullptr) open(*head.schema);
  if (columns_.front().rows() == 0) group_start_ = Clock::now();
  add_rows(head, ExposureRecord(memory, head));
  ++requests_;
  adding_ = false;
  std::size_t bytes = 0;
  for (const auto& column : columns_) bytes += column.bytes();
  if (columns_.front().rows() >= options_.group_rows || bytes >= options_.group_bytes) write_group();
}

void ExposureWriter::add_rows(const ExposureHead& head, const ExposureRecord& record) {
  const std::size_t rows = head.rows, tasks = schema_->tasks.size();
  if (rows == 0) return;
  auto next = columns_.begin();
  const auto text = [&](std::string_view value) { (next++)->add_run(value, rows); };
  const auto same = [&](auto value) { (next++)->add_run(value, rows); };
  const auto all_same = [&](std::span<const float> values) {
    for (const float value : values) same(value);
  };
  const auto view = [](std::span<const char> part) { return std::string_view(part.data(), part.size()); };

  text(view(record.request_id));
  text(view(record.user_id));
  (next++)->add(std::span<const std::int64_t>(record.items));
  // Runs of rows that were shown and rows that were not.
  position_.assign(rows, -1);
  for (std::size_t p = 0; p < record.shown.size(); ++p)
    position_[static_cast<std::size_t>(record.shown[p])] = static_cast<std::int32_t>(p);
  const auto by_runs = [&](auto&& shown, auto&& hidden) {
    for (std::size_t start = 0, end = 0; start < rows; start = end) {
      const bool is_shown = position_[start] >= 0;
      for (end = start + 1; end < rows && (position_[end] >= 0) == is_shown;) ++end;
      if (is_shown)
        shown(start, end);
      else
        hidden(end - start);
    }
  };
  by_runs([&](std::size_t start,
              std::size_t end) { next->add(std::span<const std::int32_t>(position_).subspan(start, end - start)); },
          [&](std::size_t count) { next->add_nulls(count); });
  ++next;
  all_same(record.context);
  column_.resize(rows);
  for (std::size_t t = 0; t < tasks; ++t) {
    for (std::size_t row = 0; row < rows; ++row) column_[row] = record.predictions[row * tasks + t];
    (next++)->add(std::span<const float>(column_));
  }
  for (std::size_t t = 0; t < tasks; ++t, ++next)
    by_runs([&](std::size_t start, std::size_t end) { next->add_run(0.0f, end - start); },
            [&](std::size_t count) { next->add_nulls(count); });
  const std::size_t item_columns = schema_->item_columns.size();
  for (std::size_t i = 0; i < item_columns; ++i) {
    for (std::size_t row = 0; row < rows; ++row) column_[row] = record.item_columns[row * item_columns + i];
    (next++)->add(std::span<const float>(column_));
  }
  if (schema_->priced) (next++)->add(std::span<const float>(record.prices));
  if (schema_->categorized) {
    const char* at = record.categories.data();
    for (std::size_t row = 0; row < rows; ++row) {
      const std::string_view name(at);
      if (name.empty())
        next->add_nulls(1);
      else
        next->add_run(name, 1);
      at += name.size() + 1;
    }
    ++next;
  }
  text(view(record.scenario));
  all_same(record.weights);
  if (head.explored)
    all_same(record.concentration);
  else
    for (std::size_t t = 0; t < tasks; ++t) same(std::numeric_limits<float>::quiet_NaN());
  same(head.seed);
  text({head.version.data(), head.version.size()});
  text(head.exploration);
  if (head.has_timestamp)
    same(head.timestamp);
  else
    (next++)->add_nulls(rows);
  same(head.trust);
  text(head.baseline.data());
  text(verdict_names[static_cast<std::size_t>(head.verdict)]);
  all_same(record.values);
  same(static_cast<std::int32_t>(head.candidates));
  same(static_cast<float>(options_.share));
  if (!options_.arm.empty()) text(options_.arm);
}

void ExposureWriter::write_group() {
  if (columns_.front().rows() > 0) file_->write_group(columns_);
  if (file_->bytes() >= options_.file_bytes) finish_file();
}

void ExposureWriter::check_time() {
  if (file_ == nullptr) return;
  const auto now = Clock::now();
  if (now - file_start_ >= options_.file_time)
    finish_file();
  else if (columns_.front().rows() > 0 && now - group_start_ >= options_.group_time)
    write_group();
}

void ExposureWriter::finish_file() {
  if (file_ == nullptr) return;
  if (columns_.front().rows() > 0) file_->write_group(columns_);
  const std::filesystem::path hidden = directory_ / ("." + name_ + ".tmp");
  if (file_->rows() == 0) {  // requests without a row
    give_up();
    return;
  }
  file_->finish(columns_, "pygrade", metadata_of(*schema_));
  if (std::rename(hidden.c_str(), (directory_ / name_).c_str()) != 0)
    throw std::system_error(errno, std::generic_category(), hidden.string());
  sync_directory(directory_);
  written_.requests += std::exchange(requests_, 0);
  written_.rows += file_->rows();
  written_.bytes += file_->bytes();
  ++written_.files;
  file_.reset();
  columns_.clear();
}

}  // namespace pygrade::inline v0_2::detail
