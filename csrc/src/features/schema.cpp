#include "features/schema.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "features/feature_json.hpp"
#include "features/records.hpp"
#include "util/json.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using Names = std::vector<std::string>;
using Entity = Feature::Entity;
using Kind = Feature::Kind;

constexpr std::size_t max_record = std::size_t{1} << 20;  // int64 of a record or a row of attributes

bool contains(const Names& names, std::string_view name) { return std::ranges::find(names, name) != names.end(); }

std::string joined(const Names& names, std::string_view between) {
  std::string text;
  for (const auto& name : names) text.append(text.empty() ? "" : between).append(name);
  return text;
}

Names sorted(const std::set<std::string>& names) { return {names.begin(), names.end()}; }

std::string replaced(std::string text, std::string_view from, std::string_view to, bool all) {
  for (std::size_t at = text.find(from); at != text.npos; at = all ? text.find(from, at + to.size()) : text.npos)
    text.replace(at, from.size(), to);
  return text;
}

// The sums of a count, in order.
Table::Fields sums_of(const std::set<std::string>& sources) {
  Table::Fields sums;
  for (const std::string& source : sources)
    sums.push_back({source, Table::added(sums) + is_measure(source), -1, is_measure(source)});
  return sums;
}

std::int64_t step_of(double hours) {
  const double step = std::nearbyint(hours * hour / static_cast<double>(window_slots));
  if (!(step < 0x1p62)) throw JsonError("a window of " + plain_number(hours) + " hours is too long");
  return std::max(static_cast<std::int64_t>(step), std::int64_t{1});
}

void check_type(const Feature& f, const std::map<std::string, std::string>& dtypes) {
  const std::string column = column_of(f);
  if (column.empty()) return;
  const auto found = dtypes.find(column);
  if (found == dtypes.end()) refuse(f, "it reads " + column + ", which dtypes does not name");
  Names wanted{"int", "str"};
  if (f.kind == Kind::dense) wanted = {"float", "int"};
  if (f.kind == Kind::list) wanted = {"list[int]", "list[str]", "str"};
  if (f.kind == Kind::vector) wanted = {"list[float]"};
  if (f.entity == Entity::context) wanted = {f.kind == Kind::dense ? "float" : "str"};
  const bool several = f.kind == Kind::list || f.kind == Kind::vector;
  if (f.entity == Entity::context && (several || !f.source.starts_with("c_"))) wanted = {"an attribute"};
  if (!contains(wanted, found->second))
    refuse(f, column + " is " + found->second + "; it needs " + joined(wanted, " or "));
}
}  // namespace

std::string column_of(const Feature& f) {
  if (f.has_history() || f.kind == Kind::sequence || f.is_time() || f.source == "user_id" || f.source == "item_id" ||
      f.source == "scenario")
    return "";
  constexpr std::string_view owners[] = {"users.", "events.", "items."};
  return std::string(owners[static_cast<std::size_t>(f.entity)]) + f.source;
}

Names Feature::columns() const {
  if (kind != Kind::list && kind != Kind::vector) return {name};
  Names names;
  for (std::int64_t i = 0; i < length; ++i) names.push_back(name + "_" + std::to_string(i));
  return names;
}

std::string table_name(const Names& key) {
  if (key.empty()) return "all";
  Names names;
  for (const auto& part : key) {
    if (part == "user_id") {
      names.emplace_back("user");
    } else if (part == "item_id") {
      names.emplace_back("item");
    } else {
      names.push_back(replaced(part.starts_with("item.") ? part.substr(5) : part, ".", "_", true));
    }
  }
  return names.size() == 1 ? names[0] : "cross:" + joined(names, "*");
}

std::vector<Names> parent_keys(const Feature& feature) {
  std::vector<Names> keys(1);
  if (feature.entity == Entity::cross && contains(feature.key, "user_id")) keys.push_back(Names{"user_id"});
  return keys;
}

// ---- tables

bool Table::per_row() const {
  return std::ranges::any_of(key, [](const std::string& part) { return part.starts_with("item"); });
}

const Table::Field& Table::find(const Fields& fields, std::string_view source) {
  const auto found = std::ranges::find(fields, source, &Field::source);
  if (found == fields.end()) throw JsonError("no table has the field " + json_quote(source));
  return *found;
}

const Table::Window& Table::window(double hours) const {
  const auto found = std::ranges::find(windows, hours, &Window::hours);
  if (found == windows.end()) throw JsonError("table " + json_quote(name) + " has no window of that length");
  return *found;
}

const Table::Recent& Table::recent(std::string_view source) const {
  const auto found = std::ranges::find(recents, source, [](const Recent& recent) { return recent.field.source; });
  if (found == recents.end()) throw JsonError("table " + json_quote(name) + " keeps no latest items");
  return *found;
}

// ---- the schema

const Table& Schema::table(const Names& key) const {
  const auto found = std::ranges::find(tables, key, &Table::key);
  if (found == tables.end()) throw JsonError("there is no table of this key");
  return *found;
}

const Attribute& Schema::attribute(Entity entity, std::string_view column, std::string_view kind) const {
  for (const Attribute& attribute : entity == Entity::user ? user_attributes : item_attributes)
    if (attribute.column == column && attribute.kind == kind) return attribute;
  throw JsonError("there is no attribute " + json_quote(column));
}

bool Schema::counts_over(std::string_view part) const { return contains(key_parts, part); }

std::size_t Schema::context_place(std::string_view column) const {
  const auto found = std::ranges::find(context, column, &std::pair<std::string, std::string>::first);
  return static_cast<std::size_t>(found - context.begin());
}

void Schema::make_tables() {
  struct Fields {
    std::set<std::string> sums, lasts;
    std::map<double, std::set<std::string>> windows;
    std::map<std::string, std::size_t> recents;
  };
  std::map<Names, Fields> kept;
  kept[Names{}];
  for (const Feature& f : features) {
    if (f.kind == Kind::sequence) {
      auto& length = kept[Names{"user_id"}].recents[f.source];
      length = std::max(length, static_cast<std::size_t>(f.length));
    }
    if (!f.has_history()) continue;
    Fields& fields = kept[f.key];
    if (f.kind == Kind::recency) {
      fields.lasts.insert(f.source);
    } else {
      auto& sums = f.window_hours > 0.0 ? fields.windows[f.window_hours] : fields.sums;
      if (!f.source.empty()) sums.insert(f.source);
    }
    if (f.kind == Kind::rate)
      for (const Names& parent : parent_keys(f)) kept[parent].sums.insert(f.source);
  }
  std::set<std::string> all_outcomes, columns, parts;
  for (const auto& [key, fields] : kept) {
    Table table{table_name(key), key, sums_of(fields.sums), {}, {}, {}, {}};
    table.empty.assign(Table::added(table.sums), 0);
    for (const std::string& source : fields.lasts) {
      table.lasts.push_back({source, table.empty.size()});
      table.empty.push_back(never);
    }
    for (const auto& [hours, sums] : fields.windows) {
      Table::Window window{hours, step_of(hours), sums_of(sums), table.empty.size()};
      for (std::int64_t slot = 0; slot < window_slots; ++slot) {
        table.empty.push_back(never);
        table.empty.resize(table.empty.size() + window.width() - 1, 0);
      }
      all_outcomes.insert(sums.begin(), sums.end());
      table.windows.push_back(std::move(window));
    }
    for (const auto& [source, length] : fields.recents) {
      table.recents.push_back({{source, table.empty.size()}, length});
      table.empty.resize(table.empty.size() + length, never);
      table.empty.resize(table.empty.size() + length, -1);
      all_outcomes.insert(source);
    }
    if (table.empty.size() > max_record) throw JsonError("table " + json_quote(table.name) + " has too long records");
    all_outcomes.insert(fields.sums.begin(), fields.sums.end());
    all_outcomes.insert(fields.lasts.begin(), fields.lasts.end());
    parts.insert(key.begin(), key.end());
    tables.push_back(std::move(table));
  }
  std::ranges::sort(tables, {}, &Table::name);
  for (std::size_t i = 0; i < tables.size(); ++i)
    if ((i > 0 && tables[i].name == tables[i - 1].name) || tables[i].name == "user_static" ||
        tables[i].name == "item_static")
      throw JsonError("two keys make the table " + json_quote(tables[i].name) + "; rename an attribute");
  all_outcomes.erase("");
  for (const std::string& source : all_outcomes)
    columns.insert(source.starts_with("log1p(") ? source.substr(6, source.size() - 7) : source);
  outcomes = sorted(all_outcomes);
  const auto resolve = [&](Table::Field& field) {
    if (!field.source.empty()) field.outcome = std::ranges::lower_bound(outcomes, field.source) - outcomes.begin();
  };
  for (Table& table : tables) {
    std::ranges::for_each(table.sums, resolve);
    std::ranges::for_each(table.lasts, resolve);
    for (Table::Window& window : table.windows) std::ranges::for_each(window.sums, resolve);
    for (Table::Recent& recent : table.recents) resolve(recent.field);
  }
  outcome_columns = sorted(columns);
  key_parts = sorted(parts);
}

void Schema::make_attributes(Entity entity) {
  const std::string owner = entity == Entity::user ? "user." : "item.";
  std::map<std::pair<std::string, std::string>, std::size_t> lengths;
  for (const Feature& f : features) {
    if (f.entity != entity || column_of(f).empty()) continue;
    const std::string kind = f.kind == Kind::dense    ? "float"
                             : f.kind == Kind::list   ? "codes"
                             : f.kind == Kind::vector ? "floats"
                                                      : "code";
    auto& length = lengths[{f.source, kind}];
    for (const Feature& other : features)
      if (f.kind == Kind::vector && other.kind == Kind::vector && other.entity == entity && other.source == f.source &&
          (other.length != f.length || other.size != f.size))
        refuse(f, "another vector of its column has another length or size");
    length = std::max({length, std::size_t{1}, static_cast<std::size_t>(f.length)});
  }
  for (const std::string& part : key_parts)
    if (part.starts_with(owner)) lengths.try_emplace({part.substr(owner.size()), "code"}, 1);
  auto& attributes = entity == Entity::user ? user_attributes : item_attributes;
  auto& width = entity == Entity::user ? user_width : item_width;
  for (const auto& [name, length] : lengths) {
    attributes.push_back({name.first, name.second, length, width});
    width += attributes.back().words();
  }
  if (width > max_record) throw JsonError("a row of attributes is too long");
}

Schema Schema::parse(std::string_view json) {
  const Json record = Json::parse(json);
  if (record.type != Json::Type::object) throw JsonError("it holds no JSON object");
  Schema schema;
  schema.tasks = record.strings_at("tasks");
  schema.utc_offset_hours = record.finite_at("utc_offset_hours");
  if (std::abs(schema.utc_offset_hours) > 1e6) throw JsonError("'utc_offset_hours' is beyond any clock");
  const Json& dtypes = record.object_at("dtypes");
  for (const std::string& column : dtypes.keys) schema.dtypes[column] = dtypes.string_at(column);
  schema.features = read_features(record);
  Names columns;
  for (const Feature& f : schema.features) {
    for (auto& column : f.columns()) columns.push_back(std::move(column));
    const bool outcome = f.has_history() || f.kind == Kind::sequence;
    if (outcome && f.source.starts_with("y_") && !contains(schema.tasks, std::string_view(f.source).substr(2)))
      refuse(f, "it reads " + f.source + "; the tasks are " + joined(schema.tasks, ", "));
    check_type(f, schema.dtypes);
    if (columns.size() > max_record) throw JsonError("'features' make too many columns");
  }
  std::ranges::sort(columns);
  if (const auto twice = std::ranges::adjacent_find(columns); twice != columns.end())
    throw JsonError("feature " + json_quote(*twice) + " is declared more than once");
  schema.make_tables();
  schema.make_attributes(Entity::user);
  schema.make_attributes(Entity::item);
  std::set<std::pair<std::string, std::string>> context;
  for (const Feature& f : schema.features)
    if (f.entity == Entity::context && f.source.starts_with("c_"))
      context.insert({f.source, schema.dtypes.at("events." + f.source)});
  schema.context.assign(context.begin(), context.end());
  schema.hash = sha256_hex(std::as_bytes(std::span(json))).substr(0, 16);
  return schema;
}
}  // namespace pygrade::inline v0_2::detail
