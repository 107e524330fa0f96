// Plan of a schema and its fitted values for a request: where each feature comes from, resolved once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "features/numbers.hpp"
#include "features/schema.hpp"
#include "pygrade/features.hpp"

namespace pygrade::inline v0_2::detail {
inline std::int64_t signed_size(std::size_t size) { return static_cast<std::int64_t>(size); }

// Map from codes to ids.
struct IdCoding {
  std::vector<std::int64_t> vocabulary;  // ascending; an id is the place + 1, 0 elsewhere
  bool plain = false;                    // nothing is fitted: the code itself

  std::int64_t id_of(std::int64_t code) const;
};

// A column of key parts or ids. `at`: place in a row of attributes, among the context's columns, or nothing.
struct CodeSource {
  enum class From : std::uint8_t { user_id, item_id, scenario, context, user, item };
  From from = From::user_id;
  std::size_t at = 0;
};

// The codes that keys and ids of a request and of one of its rows are made of.
struct Codes {
  std::int64_t user_id = 0, item_id = 0, scenario = null_code;
  const std::int64_t *context = nullptr, *user = nullptr;  // of the context's columns; the row of attributes
  const std::int64_t* item = nullptr;                      // the row of ItemLayout

  std::int64_t of(const CodeSource& source) const;
};

struct IdColumn {
  CodeSource source;
  std::size_t coding = 0;  // among Plan::codings
};

// A number that does not come from a history, before its transform. lower, upper: a half of a word of attributes.
struct NumberColumn {
  enum class From : std::uint8_t { sine, cosine, weekend, context, attribute, lower, upper };
  From from = From::attribute;
  std::size_t at = 0;      // as in CodeSource
  std::size_t column = 0;  // of request_dense or item_dense
  Feature::Transform transform = Feature::Transform::none;
};

// One table: its keys, and the features that are made of its records.
struct TablePlan {
  const Table* table = nullptr;
  std::string stored_name;  // in the store
  bool per_row = false, cross = false;
  std::vector<CodeSource> key;  // of items: `at` is a place among the codes of an ItemLayout row
  std::vector<HistoryField> fields;
  std::vector<HistoryWindow> windows;
  std::vector<std::int64_t> steps;  // ms of a window's slots
  std::vector<HistoryFeature> features;
  std::vector<ColumnRun> runs;  // from the features to request_dense, item_dense or cross_dense
  std::uint64_t FeatureCounters::* misses = nullptr;

  std::size_t width() const { return table->empty.size(); }
  std::int64_t key_of(const Codes& codes) const;  // 0 of the table of all events
};

// A mean of the request's records that other means are shrunk to.
struct PriorPlan {
  std::size_t table = 0;              // among Plan::tables
  std::int64_t total = 0, known = 0;  // places in the record
  double weight = 0.0;
  std::int64_t prior = -1;  // -1: 0
};

// Layout of what is remembered of an item: int64 codes that keys are made of, its ids, the bits of times, then floats.
struct ItemLayout {
  std::vector<std::size_t> codes;     // places in the stored row
  std::vector<IdColumn> ids;          // of item_ids; `at`: a place in the stored row
  std::vector<NumberColumn> ages;     // features that depend on the time of the request
  std::vector<NumberColumn> numbers;  // all others
  std::vector<ColumnRun> runs;        // from the numbers to item_dense

  std::size_t ids_at() const { return codes.size(); }
  std::size_t ages_at() const { return ids_at() + ids.size(); }
  std::size_t numbers_at() const { return ages_at() + ages.size(); }
  std::size_t width() const { return numbers_at() + (numbers.size() + 1) / 2; }
};

struct SequencePlan {
  std::size_t place = 0, length = 0;  // in the record of the user
};

struct Normalization {
  std::vector<double> mean, std;
};

struct Plan {
  Schema schema;
  std::vector<std::string> request_features, request_id_features, item_features, item_id_features, cross_features;
  Normalization request, item, cross;
  std::vector<IdCoding> codings;
  std::vector<TablePlan> tables;          // in the order of the schema's
  std::vector<std::size_t> record_place;  // of the tables that a request asks once, among their records; [tables]
  std::size_t records = 0;                // int64 of these records in all
  std::size_t user_table = 0;             // of the sequences
  std::vector<PriorPlan> priors;
  std::vector<NumberColumn> numbers;  // of the request
  std::vector<IdColumn> ids;          // of the request
  std::vector<SequencePlan> sequences;
  std::size_t sequence_length = 0;
  ItemLayout items;
  std::vector<std::int64_t> empty_user, empty_item;  // stored rows of the unknown
  std::string user_table_name, item_table_name;      // of the attributes, in the store
  bool keys_need_users = false, keys_need_items = false;
  std::size_t most_fields = 0, most_features = 0;  // of any table
  std::int64_t utc_offset = 0;                     // ms

  // SafetensorsError if the fitted values are damaged or of another schema.
  Plan(Schema schema_given, std::span<const std::byte> fitted);
  // Plan of features whose ids are the codes.
  explicit Plan(Schema schema_given);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Fills `row` with what is remembered of an item with this stored row.
  void remember(std::int64_t item_id, std::span<const std::int64_t> stored, std::span<std::int64_t> row) const;

 private:
  void read_fitted(std::span<const std::byte> fitted);
  void add_table(const Table& table);
  void add_feature(const Feature& feature);
  void add_history(const Feature& feature, std::int64_t column);
  std::vector<CodeSource> code_sources(const Feature& feature) const;
  std::vector<NumberColumn> numbers_of(const Feature& feature, std::size_t column) const;
  std::int64_t prior_of(const Feature& feature);
};

// The number of a column in a row of attributes.
double number_in(const std::int64_t* row, const NumberColumn& column);

// The float32 of a number after its transform, `time` being that of the request.
float transformed(double number, Feature::Transform transform, std::int64_t time);

// Adds column `from` → `to` to runs, joining neighbors.
void add_run(std::vector<ColumnRun>& runs, std::size_t from, std::size_t to);
}  // namespace pygrade::inline v0_2::detail

namespace pygrade::inline v0_2 {
struct Features::Impl {
  detail::Plan plan;
  std::string fingerprint;
};
}  // namespace pygrade::inline v0_2
