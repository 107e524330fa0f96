#include "features/plan.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "util/json.hpp"
#include "util/safetensors.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using Entity = Feature::Entity;
using Kind = Feature::Kind;
using Transform = Feature::Transform;
using From = CodeSource::From;

template <class T>
std::vector<T> column_of(std::span<const TensorView> tensors, const std::string& name, TensorType type) {
  const TensorView& found = find_tensor(tensors, name);
  if (found.type != type || found.shape.size() != 1)
    throw SafetensorsError("tensor " + json_quote(name) + " is of another type or shape");
  std::vector<T> values(found.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), found.bytes.data(), found.bytes.size());
  return values;
}

Normalization normalization(std::span<const TensorView> tensors, const std::string& group, std::size_t width) {
  Normalization read{column_of<double>(tensors, "mean." + group, TensorType::float64),
                     column_of<double>(tensors, "std." + group, TensorType::float64)};
  if (read.mean.size() != width || read.std.size() != width)
    throw SafetensorsError("mean or std of " + group + " has not " + std::to_string(width) + " numbers");
  return read;
}

std::vector<std::int64_t> unknown_row(const std::vector<Attribute>& attributes) {
  std::vector<std::int64_t> row;
  constexpr auto nan = std::bit_cast<std::int64_t>(std::numeric_limits<double>::quiet_NaN());
  constexpr std::int64_t two_nans = 0x7fc00000'7fc00000;
  for (const Attribute& attribute : attributes)
    row.resize(row.size() + attribute.words(), attribute.kind == "float"    ? nan
                                               : attribute.kind == "floats" ? two_nans
                                                                            : null_code);
  return row;
}

// The place of a field in the plan, added if it is new.
std::int64_t field_of(TablePlan& plan, const HistoryField& wanted) {
  const auto same = [&](const HistoryField& field) {
    return field.place == wanted.place && field.window == wanted.window && field.time == wanted.time;
  };
  const auto found = std::ranges::find_if(plan.fields, same);
  if (found != plan.fields.end()) return found - plan.fields.begin();
  plan.fields.push_back(wanted);
  return signed_size(plan.fields.size()) - 1;
}

std::int64_t window_of(TablePlan& plan, const Table::Window& window) {
  const auto begin = signed_size(window.place);
  const auto found = std::ranges::find(plan.windows, begin, &HistoryWindow::begin);
  if (found != plan.windows.end()) return found - plan.windows.begin();
  plan.windows.push_back({begin, signed_size(window.width())});
  plan.steps.push_back(window.step);
  return signed_size(plan.windows.size()) - 1;
}
}  // namespace

std::int64_t Codes::of(const CodeSource& source) const {
  switch (source.from) {
    case From::user_id:
      return user_id;
    case From::item_id:
      return item_id;
    case From::scenario:
      return scenario;
    case From::context:
      return context[source.at];
    case From::user:
      return user[source.at];
    case From::item:
      return item[source.at];
  }
  return null_code;
}

std::int64_t TablePlan::key_of(const Codes& codes) const {
  if (key.size() == 1) return codes.of(key[0]);
  Mix mixed;
  for (const CodeSource& part : key) mixed.add(codes.of(part));
  return mixed.code();
}

std::int64_t IdCoding::id_of(std::int64_t code) const {
  if (plain) return code;
  const auto found = std::ranges::lower_bound(vocabulary, code);
  return found == vocabulary.end() || *found != code ? 0 : found - vocabulary.begin() + 1;
}

double number_in(const std::int64_t* row, const NumberColumn& column) {
  const std::int64_t word = row[column.at];
  if (column.from == NumberColumn::From::attribute) return std::bit_cast<double>(word);
  const auto bits = static_cast<std::uint64_t>(word) >> (column.from == NumberColumn::From::upper ? 32 : 0);
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
}

float transformed(double number, Transform transform, std::int64_t time) {
  if (transform == Transform::age) number = (static_cast<double>(time) - number) / hour;
  return rounded(transform == Transform::none ? number : log1p_of(from_zero(number)));
}

void add_run(std::vector<ColumnRun>& runs, std::size_t from, std::size_t to) {
  const auto start = signed_size(from), end = signed_size(to);
  if (!runs.empty() && runs.back().from + runs.back().size == start && runs.back().to + runs.back().size == end)
    ++runs.back().size;
  else
    runs.push_back({start, end, 1});
}

Plan::Plan(Schema schema_given, std::span<const std::byte> fitted) : Plan(std::move(schema_given)) {
  codings.clear();
  read_fitted(fitted);
}

Plan::Plan(Schema schema_given) : schema(std::move(schema_given)) {
  utc_offset = static_cast<std::int64_t>(std::nearbyint(schema.utc_offset_hours * hour));
  empty_user = unknown_row(schema.user_attributes);
  empty_item = unknown_row(schema.item_attributes);
  user_table_name = "user_static." + schema.hash;
  item_table_name = "item_static." + schema.hash;
  for (const Table& table : schema.tables) add_table(table);
  for (const Feature& f : schema.features) add_feature(f);
  for (const TablePlan& plan : tables) {
    most_fields = std::max(most_fields, plan.fields.size());
    most_features = std::max(most_features, plan.features.size());
  }
}

void Plan::read_fitted(std::span<const std::byte> fitted) {
  TensorMetadata metadata;
  const auto tensors = read_safetensors(fitted, &metadata);
  if (const std::string stated(find_text(metadata, "schema")); stated != schema.hash)
    throw SafetensorsError("it is of schema " + json_quote(stated) + "; expected " + schema.hash);
  request = normalization(tensors, "request_dense", request_features.size());
  item = normalization(tensors, "item_dense", item_features.size());
  cross = normalization(tensors, "cross_dense", cross_features.size());
  for (const Feature& f : schema.features) {
    if (!f.is_id()) continue;
    IdCoding coding{column_of<std::int64_t>(tensors, "vocabulary." + f.name, TensorType::int64), false};
    if (std::ranges::adjacent_find(coding.vocabulary, std::greater_equal<>{}) != coding.vocabulary.end())
      throw SafetensorsError("tensor \"vocabulary." + f.name + "\" does not ascend");
    codings.push_back(std::move(coding));
  }
}

void Plan::add_table(const Table& table) {
  TablePlan plan;
  plan.table = &table;
  plan.stored_name = table.name + "." + schema.hash;
  plan.per_row = table.per_row();
  plan.cross = plan.per_row && std::ranges::any_of(table.key, [](const auto& p) { return !p.starts_with("item"); });
  for (const std::string& part : table.key) {
    CodeSource source;
    if (part == "item_id") source.from = From::item_id;
    if (part == "scenario") source.from = From::scenario;
    if (part.starts_with("user.")) {
      source = {From::user, schema.attribute(Entity::user, part.substr(5), "code").place};
      keys_need_users = true;
    }
    if (part.starts_with("item.")) {
      const std::size_t stored = schema.attribute(Entity::item, part.substr(5), "code").place;
      const auto found = std::ranges::find(items.codes, stored);
      source = {From::item, static_cast<std::size_t>(found - items.codes.begin())};
      if (found == items.codes.end()) items.codes.push_back(stored);
      keys_need_items = true;
    }
    plan.key.push_back(source);
  }
  if (table.name == "user") {
    plan.misses = &FeatureCounters::user_misses;
    user_table = tables.size();
  }
  if (table.name == "item") plan.misses = &FeatureCounters::item_misses;
  record_place.push_back(records);
  if (!plan.per_row) records += table.empty.size();
  tables.push_back(std::move(plan));
}

// Names the feature's columns, and finds what they are made of.
void Plan::add_feature(const Feature& f) {
  if (f.kind == Kind::sequence) {
    const auto& recent = schema.table({"user_id"}).recent(f.source);
    sequences.push_back({recent.field.place + recent.length, static_cast<std::size_t>(f.length)});
    sequence_length += sequences.back().length;
    return;
  }
  auto& names = f.per_request()             ? (f.is_id() ? request_id_features : request_features)
                : f.entity == Entity::cross ? cross_features
                                            : (f.is_id() ? item_id_features : item_features);
  const std::size_t column = names.size();
  for (auto& name : f.columns()) names.push_back(std::move(name));
  if (f.has_history()) return add_history(f, signed_size(column));
  const bool of_item = f.entity == Entity::item;
  if (f.is_id()) {
    for (const CodeSource& source : code_sources(f)) (of_item ? items.ids : ids).push_back({source, codings.size()});
    codings.push_back({{}, true});
    return;
  }
  for (const NumberColumn& number : numbers_of(f, column)) {
    if (of_item && f.transform != Transform::age) add_run(items.runs, items.numbers.size(), number.column);
    (!of_item ? numbers : f.transform == Transform::age ? items.ages : items.numbers).push_back(number);
  }
}

void Plan::add_history(const Feature& f, std::int64_t column) {
  const Table& table = schema.table(f.key);
  TablePlan& plan = tables[static_cast<std::size_t>(&table - schema.tables.data())];
  HistoryFeature made{HistoryKind::count, f.transform == Transform::log1p, 0, 0, 0.0, 0};
  if (f.kind == Kind::recency) {
    made.kind = HistoryKind::recency;
    made.value = field_of(plan, {signed_size(Table::find(table.lasts, f.source).place), -1, true});
  } else {
    const bool windowed = f.window_hours > 0.0;
    const Table::Window none;
    const Table::Window& window = windowed ? table.window(f.window_hours) : none;
    const auto& sums = windowed ? window.sums : table.sums;
    const std::int64_t ring = windowed ? window_of(plan, window) : -1;
    const std::size_t first = windowed ? window.place + 1 : 0;
    const auto field = [&](std::size_t place) { return field_of(plan, {signed_size(first + place), ring, false}); };
    made.value = field(f.source.empty() ? 0 : Table::find(sums, f.source).place);
    if (!f.source.empty()) made.kind = HistoryKind::sum;
    if (f.kind == Kind::rate) {
      made.kind = HistoryKind::rate;
      made.known = field(Table::find(sums, f.source).known_place());
      made.weight = f.smoothing;
      made.prior = prior_of(f);
    }
  }
  add_run(plan.runs, plan.features.size(), static_cast<std::size_t>(column));
  plan.features.push_back(made);
}

// The mean over all events, then over the user's if the feature's key crosses the user with something.
std::int64_t Plan::prior_of(const Feature& f) {
  std::int64_t prior = -1;
  for (const auto& key : parent_keys(f)) {
    const Table& table = schema.table(key);
    const Table::Field& sum = Table::find(table.sums, f.source);
    const PriorPlan wanted{static_cast<std::size_t>(&table - schema.tables.data()), signed_size(sum.place),
                           signed_size(sum.known_place()), key.empty() ? 0.0 : f.smoothing, prior};
    const auto found = std::ranges::find_if(priors, [&](const PriorPlan& p) {
      return p.table == wanted.table && p.total == wanted.total && p.weight == wanted.weight && p.prior == wanted.prior;
    });
    prior = found - priors.begin();
    if (found == priors.end()) priors.push_back(wanted);
  }
  return prior;
}

// ---- columns that are no history

// Where the codes of a categorical or list feature come from, one for each column.
std::vector<CodeSource> Plan::code_sources(const Feature& f) const {
  if (f.source == "user_id") return {{From::user_id}};
  if (f.source == "item_id") return {{From::item_id}};
  if (f.source == "scenario") return {{From::scenario}};
  if (f.entity == Entity::context) return {{From::context, schema.context_place(f.source)}};
  const std::size_t place = schema.attribute(f.entity, f.source, f.kind == Kind::list ? "codes" : "code").place;
  std::vector<CodeSource> sources;
  for (std::size_t i = 0; i < f.width(); ++i)
    sources.push_back({f.entity == Entity::user ? From::user : From::item, place + i});
  return sources;
}

// The columns of a dense or vector feature, `column` being the first.
std::vector<NumberColumn> Plan::numbers_of(const Feature& f, std::size_t column) const {
  using From = NumberColumn::From;
  if (f.is_time()) {
    const auto from = f.source == "time:hour_sin"   ? From::sine
                      : f.source == "time:hour_cos" ? From::cosine
                                                    : From::weekend;
    return {{from, 0, column, f.transform}};
  }
  if (f.entity == Entity::context) return {{From::context, schema.context_place(f.source), column, f.transform}};
  if (f.kind == Kind::dense)
    return {{From::attribute, schema.attribute(f.entity, f.source, "float").place, column, f.transform}};
  const std::size_t place = schema.attribute(f.entity, f.source, "floats").place;
  std::vector<NumberColumn> columns;
  for (std::size_t i = 0; i < f.width(); ++i)
    columns.push_back({i % 2 == 0 ? From::lower : From::upper, place + i / 2, column + i, Transform::none});
  return columns;
}

void Plan::remember(std::int64_t item_id, std::span<const std::int64_t> stored, std::span<std::int64_t> row) const {
  std::size_t at = 0;
  for (const std::size_t place : items.codes) row[at++] = stored[place];
  for (const IdColumn& column : items.ids)
    row[at++] = codings[column.coding].id_of(column.source.from == From::item_id ? item_id : stored[column.source.at]);
  for (const NumberColumn& age : items.ages) row[at++] = stored[age.at];
  char* out = reinterpret_cast<char*>(row.data() + at);
  for (const NumberColumn& number : items.numbers) {
    const float value = transformed(number_in(stored.data(), number), number.transform, 0);
    std::memcpy(out, &value, sizeof value);
    out += sizeof value;
  }
}
}  // namespace pygrade::inline v0_2::detail
