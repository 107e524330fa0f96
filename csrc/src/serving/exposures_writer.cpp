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

namespace {
bool any_policy(const Policy& policy, std::span<const ExposurePage> arms, bool (Policy::*takes)() const) {
  const auto does = [&](const ExposurePage& arm) { return arm.policy != nullptr && (arm.policy->*takes)(); };
  return (policy.*takes)() || std::ranges::any_of(arms, does);
}

std::span<const std::string> items_of_arm(const ExposurePage& arm) {
  return arm.policy == nullptr ? std::span<const std::string>() : arm.policy->own_items();
}
}  // namespace

ExposureSchema::ExposureSchema(const Policy& policy, bool with_scores, std::span<const ExposurePage> pages)
    : tasks(policy.tasks()),
      features(policy.features()),
      priced(any_policy(policy, pages, &Policy::takes_prices)),
      takes_values(any_policy(policy, pages, &Policy::takes_values)),
      categorized(any_policy(policy, pages, &Policy::takes_categories)),
      scored(with_scores),
      arms(pages.size()),
      scales(policy.scales().json()) {
  const auto add = [&](std::span<const std::string> names) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (std::ranges::find(item_columns, names[i]) != item_columns.end()) continue;
      item_columns.push_back(names[i]);
      sources.push_back({items_of.size(), i});
    }
    items_of.emplace_back(names.begin(), names.end());
  };
  add(policy.own_items());
  for (const ExposurePage& page : pages) add(items_of_arm(page));
}

bool ExposureSchema::is_of(const Policy& policy, bool with_scores, std::span<const ExposurePage> pages) const {
  if (!(scored == with_scores && arms == pages.size() && priced == any_policy(policy, pages, &Policy::takes_prices) &&
        takes_values == any_policy(policy, pages, &Policy::takes_values) &&
        categorized == any_policy(policy, pages, &Policy::takes_categories) && tasks == policy.tasks() &&
        features == policy.features() && std::ranges::equal(items_of[0], policy.own_items()) &&
        scales == policy.scales().json()))
    return false;
  for (std::size_t a = 0; a < pages.size(); ++a)
    if (!std::ranges::equal(items_of[1 + a], items_of_arm(pages[a]))) return false;
  return true;
}

ExposureRecord::ExposureRecord(std::byte* memory, const ExposureHead& head) {
  const ExposureSchema& schema = *head.schema;
  const std::size_t tasks = schema.tasks.size();
  std::byte* at = memory + sizeof(ExposureHead);
  items = take<std::int64_t>(at, head.rows);
  predictions = take<float>(at, head.rows * tasks);
  prices = take<float>(at, head.priced ? head.rows : 0);
  item_columns = take<float>(at, head.rows * schema.item_columns.size());
  context = take<float>(at, schema.features.size());
  weights = take<float>(at, tasks);
  concentration = take<float>(at, head.explored ? tasks : 0);
  values = take<float>(at, schema.takes_values ? tasks : 0);
  scores = take<float>(at, head.scored ? head.rows : 0);
  shares = take<float>(at, schema.arms);
  shown = take<std::int32_t>(at, head.shown);
  slots = take<std::int32_t>(at, schema.arms * head.rows);
  request_id = take<char>(at, head.request_id);
  user_id = take<char>(at, head.user_id);
  scenario = take<char>(at, head.scenario);
  categories = take<char>(at, head.categories);
}

std::size_t ExposureRecord::bytes(const ExposureHead& head) {
  const ExposureSchema& schema = *head.schema;
  const std::size_t tasks = schema.tasks.size();
  const std::size_t of_row = tasks + head.priced + schema.item_columns.size() + head.scored + schema.arms;
  const std::size_t floats = head.rows * of_row + schema.features.size() + schema.arms +
                             tasks * (1 + head.explored + schema.takes_values) + head.shown;
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
  if (schema.priced) column("value", ParquetType::float32, false, true);
  if (schema.categorized) column("category", ParquetType::text, true, true);
  if (schema.scored) column("production_score", ParquetType::float32, false, true);
  column("scenario", ParquetType::text, true);
  numbers("w_", schema.tasks, true);
  numbers("a_", schema.tasks, true);
  column("seed", ParquetType::uint64, true);
  column("policy_version", ParquetType::text, true);
  column("exploration", ParquetType::text, true);
  column("timestamp", ParquetType::int64, true, true);
  column("mixture_weight", ParquetType::float32, true);
  column("baseline", ParquetType::text, true);
  column("verdict", ParquetType::text, true);
  if (schema.takes_values) numbers("v_", schema.tasks, true);
  column("candidates", ParquetType::int32, true);
  column("share", ParquetType::float32, true);
  if (!options_.arm.empty()) column("arm", ParquetType::text, true);
  for (const ExposureArm& arm : options_.arms) {
    columns_.emplace_back("slot_" + arm.name, ParquetType::int32, false, true, true);
    column("share_" + arm.name, ParquetType::float32, true);
  }
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
  position_.assign(rows, -1);
  for (std::size_t p = 0; p < record.shown.size(); ++p)
    position_[static_cast<std::size_t>(record.shown[p])] = static_cast<std::int32_t>(p);
  // Runs of rows on a page and rows that are not, by their places on it.
  const auto by_runs = [&](std::span<const std::int32_t> places, auto&& add) {
    for (std::size_t start = 0, end = 0; start < rows; start = end) {
      const bool is_shown = places[start] >= 0;
      for (end = start + 1; end < rows && (places[end] >= 0) == is_shown;) ++end;
      if (is_shown)
        add(places.subspan(start, end - start));
      else
        next->add_nulls(end - start);
    }
    ++next;
  };
  const auto add_places = [&](std::span<const std::int32_t> places) { next->add(places); };
  by_runs(position_, add_places);
  all_same(record.context);
  column_.resize(rows);
  for (std::size_t t = 0; t < tasks; ++t) {
    for (std::size_t row = 0; row < rows; ++row) column_[row] = record.predictions[row * tasks + t];
    (next++)->add(std::span<const float>(column_));
  }
  for (std::size_t t = 0; t < tasks; ++t)
    by_runs(position_, [&](std::span<const std::int32_t> shown) { next->add_run(0.0f, shown.size()); });
  const std::size_t item_columns = schema_->item_columns.size();
  for (std::size_t i = 0; i < item_columns; ++i) {
    for (std::size_t row = 0; row < rows; ++row) column_[row] = record.item_columns[row * item_columns + i];
    (next++)->add(std::span<const float>(column_));
  }
  const auto known = [&](bool in_schema, std::span<const float> values) {
    if (!values.empty())
      (next++)->add(values);
    else if (in_schema)
      (next++)->add_nulls(rows);
  };
  known(schema_->priced, record.prices);
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
  known(schema_->scored, record.scores);
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
  same(head.mixture_weight);
  text(head.baseline.data());
  text(verdict_names[static_cast<std::size_t>(head.verdict)]);
  all_same(record.values);
  same(static_cast<std::int32_t>(head.candidates));
  same(static_cast<float>(options_.share));
  if (!options_.arm.empty()) text(options_.arm);
  for (std::size_t a = 0; a < schema_->arms; ++a) {
    by_runs(record.slots.subspan(a * rows, rows), add_places);
    same(record.shares[a]);
  }
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
