// A small feature schema with every kind of feature, its fitted values, and a store for it.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "artifact.hpp"
#include "features/schema.hpp"
#include "memory_store.hpp"
#include "pygrade/features.hpp"

namespace pygrade::inline v0_2::tests {
inline const std::string schema_text = R"json({
 "tasks": [
  "click",
  "form_order"
 ],
 "utc_offset_hours": 8.0,
 "dtypes": {
  "events.c_age": "float",
  "events.c_device": "str",
  "items.author": "int",
  "items.price": "float",
  "items.tags": "list[str]",
  "items.uploaded": "int",
  "users.level": "int"
 },
 "features": [
  {"name": "hour_sin", "entity": "context", "kind": "dense", "source": "time:hour_sin"},
  {"name": "weekend", "entity": "context", "kind": "dense", "source": "time:weekend"},
  {"name": "c_age", "entity": "context", "kind": "dense", "source": "c_age", "transform": "log1p"},
  {"name": "c_device", "entity": "context", "kind": "categorical", "source": "c_device"},
  {"name": "scenario", "entity": "context", "kind": "categorical", "source": "scenario"},
  {"name": "level", "entity": "user", "kind": "categorical", "source": "level"},
  {"name": "user_count", "entity": "user", "kind": "count", "key": ["user_id"]},
  {"name": "user_clicks", "entity": "user", "kind": "count", "source": "y_click", "key": ["user_id"], "transform": "log1p"},
  {"name": "user_rate", "entity": "user", "kind": "rate", "source": "y_form_order", "key": ["user_id"]},
  {"name": "user_day", "entity": "user", "kind": "count", "key": ["user_id"], "window_hours": 24.0},
  {"name": "last_click", "entity": "user", "kind": "recency", "source": "y_click", "key": ["user_id"]},
  {"name": "recent", "entity": "user", "kind": "sequence", "length": 4},
  {"name": "item_id", "entity": "item", "kind": "categorical", "source": "item_id"},
  {"name": "tags", "entity": "item", "kind": "list", "source": "tags", "length": 2},
  {"name": "price", "entity": "item", "kind": "dense", "source": "price"},
  {"name": "age", "entity": "item", "kind": "dense", "source": "uploaded", "transform": "age"},
  {"name": "item_rate", "entity": "item", "kind": "rate", "source": "y_click", "key": ["item_id"], "smoothing": 2.5},
  {"name": "author_play", "entity": "item", "kind": "rate", "source": "log1p(m_play)", "key": ["item.author"]},
  {"name": "user_author_rate", "entity": "cross", "kind": "rate", "source": "y_click", "key": ["user_id", "item.author"]},
  {"name": "scenario_item_count", "entity": "cross", "kind": "count", "key": ["scenario", "item_id"]}
 ]
})json";

// A safetensors file of columns of doubles and of int64, with the schema's hash.
struct FittedFile {
  std::string hash;
  std::map<std::string, std::vector<double>> doubles;
  std::map<std::string, std::vector<std::int64_t>> codes;

  std::string content() const {
    std::string header = R"({"__metadata__":{"schema":")" + hash + R"("})", data;
    const auto add = [&](const std::string& name, const char* type, const void* values, std::size_t count) {
      const std::size_t begin = data.size();
      if (count > 0) data.append(static_cast<const char*>(values), 8 * count);
      header += "," + detail::json_quote(name) + R"(:{"dtype":")" + type + R"(","shape":[)" + std::to_string(count) +
                R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    };
    for (const auto& [name, values] : doubles) add(name, "F64", values.data(), values.size());
    for (const auto& [name, values] : codes) add(name, "I64", values.data(), values.size());
    return Artifact::frame(header + "}") + data;
  }
};

inline FittedFile fitted_file(const std::string& schema_json = schema_text) {
  const auto repeated = [](std::size_t count, double first) {
    std::vector<double> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = first + 0.25 * static_cast<double>(i);
    return values;
  };
  FittedFile file{detail::Schema::parse(schema_json).hash, {}, {}};
  const std::map<std::string, std::size_t> widths = {{"request_dense", 8}, {"item_dense", 4}, {"cross_dense", 2}};
  for (const auto& [name, width] : widths) {
    file.doubles["mean." + name] = repeated(width, -0.5);
    file.doubles["std." + name] = repeated(width, 0.5);
  }
  file.codes = {{"vocabulary.c_device", {-5426141060434712860}},     // ""
                {"vocabulary.scenario", {-1613921676148213516, 7}},  // "größe"
                {"vocabulary.level", {1, 3}},
                {"vocabulary.item_id", {5, 6, 9}},
                {"vocabulary.tags", {100, 200, 300}}};
  return file;
}

inline std::shared_ptr<const Features> make_features(const std::string& schema_json = schema_text) {
  const std::string fitted = fitted_file(schema_json).content();
  return Features::parse(schema_json, bytes(fitted));
}

inline std::string row_of(const std::vector<std::int64_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), 8 * values.size()};
}

inline std::int64_t bits_of(double value) { return std::bit_cast<std::int64_t>(value); }

// Items 5, 6 and 9 with attributes author, price, tags, uploaded, and user 1 with level.
inline std::shared_ptr<MemoryStore> make_store(const Features& features, const std::string& version = "v1") {
  auto store = std::make_shared<MemoryStore>();
  const std::string end = "." + features.hash();
  store->tables["meta"][0] = R"({"schema": ")" + features.hash() + R"(", "version": ")" + version + R"("})";
  store->tables["user_static" + end][1] = row_of({3});
  auto& items = store->tables["item_static" + end];
  items[5] = row_of({70, bits_of(1.5), 100, 300, bits_of(1e12)});
  items[6] = row_of({71, bits_of(2.5), 200, std::numeric_limits<std::int64_t>::min(), bits_of(2e12)});
  items[9] = row_of({70, bits_of(std::numeric_limits<double>::quiet_NaN()), 400, 100, bits_of(1e12)});
  return store;
}
}  // namespace pygrade::inline v0_2::tests
