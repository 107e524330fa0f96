// The schema of a feature set: what pygrade/features/{feature,schema,state}.py say, read from schema.json.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
struct Feature {
  enum class Entity : std::uint8_t { user, context, item, cross };
  enum class Kind : std::uint8_t { dense, categorical, list, vector, sequence, count, rate, recency };
  enum class Transform : std::uint8_t { none, log1p, age };

  std::string name, source;
  Entity entity = Entity::user;
  Kind kind = Kind::dense;
  Transform transform = Transform::none;
  std::vector<std::string> key;
  double smoothing = 20.0, window_hours = 0.0;
  std::int64_t length = 0, size = 0, min_count = 1, max_size = 1'000'000;

  bool per_request() const { return entity == Entity::user || entity == Entity::context; }
  bool is_id() const { return kind == Kind::categorical || kind == Kind::list; }
  bool has_history() const { return kind == Kind::count || kind == Kind::rate || kind == Kind::recency; }
  bool is_time() const { return source.starts_with("time:"); }
  // Columns that it makes, of dense features or ids.
  std::size_t width() const {
    return kind == Kind::list || kind == Kind::vector ? static_cast<std::size_t>(length) : 1;
  }
  std::vector<std::string> columns() const;  // their names
};

// One table of records, and where a record keeps what: the count, sums, last times, windows, latest items. `place`: of
// a field's first int64 in the record, of a sum from the count on. `outcome`: among Schema::outcomes, -1: every event.
struct Table {
  struct Field {
    std::string source;
    std::size_t place = 0;
    std::int64_t outcome = -1;
    bool measure = false;  // it may be unknown: before the total of a sum stands how many events have it

    std::size_t known_place() const { return measure ? place - 1 : 0; }
  };
  using Fields = std::vector<Field>;
  struct Window {
    double hours = 0.0;
    std::int64_t step = 0;  // ms of one of its slots
    Fields sums;
    std::size_t place = 0;
    std::size_t width() const { return 1 + Table::added(sums); }  // of a slot: its step, then the sums
  };
  struct Recent {
    Field field;
    std::size_t length = 0;  // first the times, then the items
  };

  std::string name;
  std::vector<std::string> key;
  Fields sums, lasts;
  std::vector<Window> windows;
  std::vector<Recent> recents;
  std::vector<std::int64_t> empty;  // the record of a key without events

  bool per_row() const;  // its keys name items: a request asks it once for every candidate
  std::size_t width() const { return empty.size(); }
  static std::size_t added(const Fields& sums) { return sums.empty() ? 1 : sums.back().place + 1; }
  static const Field& find(const Fields& fields, std::string_view source);
  const Window& window(double hours) const;
  const Recent& recent(std::string_view source) const;
};

// Whether an outcome may be unknown: a measure, of which tables also count the known ones.
inline bool is_measure(std::string_view source) { return source.starts_with("m_") || source.starts_with("log1p("); }

// An attribute of users or items that something reads, and its place in the stored row.
struct Attribute {
  std::string column, kind;  // float: the bits of a double; code; codes: of a list; floats: of a vector, two a word
  std::size_t length = 1, place = 0;

  std::size_t words() const { return kind == "floats" ? (length + 1) / 2 : length; }  // of the row
};

struct Schema {
  std::vector<Feature> features;
  std::vector<std::string> tasks;
  std::map<std::string, std::string> dtypes;
  double utc_offset_hours = 0.0;

  // Derived from these.
  std::string hash;           // of the text, 16 hex digits
  std::vector<Table> tables;  // by name
  std::vector<std::string> outcomes, outcome_columns, key_parts;
  std::vector<std::pair<std::string, std::string>> context;  // column, float or str
  std::vector<Attribute> user_attributes, item_attributes;
  std::size_t user_width = 0, item_width = 0;  // int64 of a stored row

  // JsonError if the text is no schema, or one that contradicts itself.
  static Schema parse(std::string_view json);

  const Table& table(const std::vector<std::string>& key) const;
  const Attribute& attribute(Feature::Entity entity, std::string_view column, std::string_view kind) const;
  bool counts_over(std::string_view part) const;
  std::size_t context_place(std::string_view column) const;  // among `context`

 private:
  void make_tables();
  void make_attributes(Feature::Entity entity);
};

// The column whose type matters to the feature, such as "items.brand"; "" for ids, the time, the scenario and outcomes.
std::string column_of(const Feature& feature);

// The name of the table of a key.
std::string table_name(const std::vector<std::string>& key);

// The keys whose rates a rate is shrunk to, widest first.
std::vector<std::vector<std::string>> parent_keys(const Feature& feature);
}  // namespace pygrade::inline v0_2::detail
