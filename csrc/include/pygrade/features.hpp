// The features of a request, read from a store: what pygrade.features.FeatureCenter does, with the same bits.
//
// pygrade/features/ documents the schema, the records and the formulas.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/store.hpp"

namespace pygrade::inline v0_2 {
// Data does not fit the schema. The message names the column and what is wanted.
class PYGRADE_API SchemaError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The store's current version was not published for this schema.
class PYGRADE_API SchemaMismatchError : public StoreError {
  using StoreError::StoreError;
};

// A record, or the description of the version, is damaged.
class PYGRADE_API DamagedRecordError : public StoreError {
  using StoreError::StoreError;
};

// One context column of a request: a number or a text, as the schema has it; neither: unknown.
struct ContextValue {
  std::string_view name;
  double number = std::numeric_limits<double>::quiet_NaN();
  std::optional<std::string_view> text = {};
};

struct FeatureRequest {
  std::int64_t user_id = 0;
  std::int64_t timestamp = 0;  // ms since 1970
  std::optional<std::string_view> scenario = {};
  std::span<const ContextValue> context = {};  // columns left out are unknown
};

// The features of one request, and the memory that `read_user` and `read_items` work in. Reused, it allocates nothing.
// Dense values are as measured, NaN if unknown; ids are places in vocabularies from 1 on; 0: unknown.
struct PYGRADE_API FeatureBuffer {
  FeatureBuffer();
  ~FeatureBuffer();
  FeatureBuffer(FeatureBuffer&&) noexcept;
  FeatureBuffer& operator=(FeatureBuffer&&) noexcept;

  std::vector<float> request_dense;       // [Du]
  std::vector<std::int64_t> request_ids;  // [Fu]
  std::vector<std::int64_t> sequences;    // [L] items, the latest first, -1 padding
  std::vector<float> item_dense;          // [n, Di]
  std::vector<std::int64_t> item_ids;     // [n, Fi]
  std::vector<float> cross_dense;         // [n, Dx]
  bool defaults = false;                  // the store failed: nothing is known of the user and the items
  bool user_known = false;                // the store has a history of the user
  bool other_version = false;             // the version asked for is gone: the store's current one was read

  struct Work;  // of the reader
  std::unique_ptr<Work> work;
};

// The features of a system: schema and fitted values, immutable, for any number of threads.
class PYGRADE_API Features {
 public:
  // The directory "features" of an artifact: schema.json and fitted.safetensors. ArtifactError names file and fault.
  static std::shared_ptr<const Features> load(const std::string& directory);
  static std::shared_ptr<const Features> parse(std::string_view schema_json, std::span<const std::byte> fitted,
                                               std::string_view name = "features");
  ~Features();

  const std::string& hash() const;                              // of the schema, 16 digits
  const std::string& fingerprint() const;                       // of schema and fitted values, 64 digits
  const std::vector<std::string>& tasks() const;                // of the log
  const std::vector<std::string>& request_features() const;     // [Du] names of request_dense
  const std::vector<std::string>& request_id_features() const;  // [Fu]
  const std::vector<std::string>& item_features() const;        // [Di]
  const std::vector<std::string>& item_id_features() const;     // [Fi]
  const std::vector<std::string>& cross_features() const;       // [Dx]
  std::size_t sequence_length() const;                          // L

  // (x - mean) / std, limited to ±10, 0 if unknown, of request_dense[R, Du], and of rows [n, Di + Dx] that
  // hold item_dense and cross_dense side by side: the dense inputs of the multi-task model.
  void normalize_request(std::span<const float> request_dense, std::span<float> out) const;
  void normalize_rows(std::span<const float> item_dense, std::span<const float> cross_dense,
                      std::span<float> out) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  Features();
  std::unique_ptr<Impl> impl_;
};

// Inputs of a policy by name: of numbers a column of request_dense or item_dense; of FEATURE=LEVEL, a level of a
// categorical or list feature, 1 where the request or item has it, 0 elsewhere.
class PYGRADE_API FeatureInputs {
 public:
  // Inputs of requests, or of items.
  FeatureInputs(const Features& features, std::span<const std::string> names, bool of_requests);

  std::size_t size() const { return inputs_.size(); }
  bool known(std::size_t input) const { return inputs_[input].kind != Kind::unknown; }  // a feature has its name

  // out[rows * stride] of dense[rows, D] and ids[rows, F]: the values of an input, NaN if it is unknown.
  void take(std::size_t input, std::span<const float> dense, std::span<const std::int64_t> ids, float* out,
            std::size_t stride, std::size_t rows) const;
  // out[rows, size()]
  void take_all(std::span<const float> dense, std::span<const std::int64_t> ids, std::span<float> out) const;

 private:
  enum class Kind : std::uint8_t { unknown, number, level };
  struct Input {
    Kind kind = Kind::unknown;
    std::size_t column = 0, width = 1;  // the first column and their number
    std::int64_t id = 0;                // of the level; -1: the vocabulary lacks it
  };
  std::vector<Input> inputs_;
  std::size_t dense_ = 0, ids_ = 0;  // D, F
};

struct FeatureCounters {
  std::uint64_t reads = 0;         // requests
  std::uint64_t defaults = 0;      // requests answered without the store
  std::uint64_t store_errors = 0;  // reads and updates that the store failed
  std::uint64_t user_misses = 0;   // requests of users without history
  std::uint64_t item_misses = 0;   // items without history
  std::uint64_t updates = 0;       // feedback events that were written
};

// Feedback events as columns of e rows each.
struct FeedbackEvents {
  std::span<const std::int64_t> user_id, item_id, event_time;  // [e]; event_time in ms since 1970
  std::span<const std::string_view> scenario = {};             // [e]; empty: none
  struct Outcome {
    std::string_view name;           // a y_ or m_ column
    std::span<const double> values;  // [e]; NaN: unknown, of an m_ column
  };
  std::span<const Outcome> outcomes = {};
};

// Reads the features of requests from a store, and adds feedback to it. Any number of threads may use one center.
class PYGRADE_API FeatureCenter {
 public:
  // `ttl`: seconds that a history lives without an event; nothing: for ever. `cache`: users and items whose attributes
  // are remembered, at most, up to 16 million. `version`: the version of the store that is read (see Store::at);
  // nothing: the current one. Feedback is written into the current one.
  FeatureCenter(std::shared_ptr<const Features> features, std::shared_ptr<Store> store, std::optional<double> ttl = {},
                std::size_t cache = 1'000'000, const std::optional<std::string>& version = {});
  ~FeatureCenter();

  // The features of a request with its candidates. If the store fails the whole request has default features, and
  // `buffer.defaults` says so. SchemaError for context that does not fit.
  void read(const FeatureRequest& request, std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
            std::optional<std::chrono::steady_clock::time_point> deadline = {});

  // Reads in two steps, for a server that finds the candidates by the user's features: first those of the user and
  // the context.
  void read_user(const FeatureRequest& request, FeatureBuffer& buffer,
                 std::optional<std::chrono::steady_clock::time_point> deadline = {});
  // Adds the features of its candidates. The user is read again only if another version of the store became current.
  // May be called again, with other candidates.
  void read_items(std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
                  std::optional<std::chrono::steady_clock::time_point> deadline = {});

  // Writes events into the current version, each once; order and lateness do not matter. Returns their number.
  // SchemaError or StoreError, and then nothing was written.
  std::size_t update(const FeedbackEvents& events);

  // The name of the version that is read now. StoreError if the store fails or the version is not of this schema.
  std::string read_version();

  FeatureCounters counters() const;
  const std::shared_ptr<const Features>& features() const;
  const std::shared_ptr<Store>& store() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2
