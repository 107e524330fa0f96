// The private parts of a FeatureCenter and of the memory that it works in.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "features/attribute_cache.hpp"
#include "features/plan.hpp"

namespace pygrade::inline v0_2 {
using Deadline = std::optional<std::chrono::steady_clock::time_point>;

struct FeatureCenter::Impl {
  Impl(std::shared_ptr<const Features> features_given, std::shared_ptr<Store> store_given,
       std::optional<double> ttl_given, std::size_t limit, const std::optional<std::string>& version);

  const std::uint64_t id;  // from 1 on, in this process
  const std::shared_ptr<const Features> features;
  const detail::Plan& plan;
  const std::shared_ptr<Store> store, reader;  // to write, of the current version, and to read
  const std::optional<double> ttl;
  const std::optional<std::string> wanted;        // the version that is to be read
  detail::AttributeCache reading;                 // of the version that is read
  std::unique_ptr<detail::AttributeCache> apart;  // of the current one, if another may be read
  detail::AttributeCache& writing;                // of the current one

  struct alignas(64) Counts {
    std::atomic<std::uint64_t> reads{0}, defaults{0}, store_errors{0}, user_misses{0}, item_misses{0}, updates{0};
  } counts;

  // Calls read(values) with the answers of a store. What `read` throws is thrown when the store is done.
  template <class Read>
  static void get(Store& from, std::span<const StoreQuery> queries, const Deadline& deadline, Read&& read) {
    std::size_t wanted = 0;
    for (const StoreQuery& query : queries) wanted += query.keys.size();
    std::exception_ptr failure;
    from.get(
        queries,
        [&](StoreValues values) {
          try {
            if (values.size() != wanted) throw StoreError(from.url() + " gave another number of values than of keys");
            read(values);
          } catch (...) {
            failure = std::current_exception();
          }
        },
        deadline);
    if (failure) std::rethrow_exception(failure);
  }

  // The name of a version by its description. SchemaMismatchError if it is of another schema or of none,
  // DamagedRecordError if the description is damaged.
  std::string version_name(std::string_view meta) const;

  // Whether the store's version, whose description is `meta`, is the one that the cache was seen with; takes the cache
  // to it if not. Throws what version_name throws.
  bool is_current(detail::AttributeCache& cache, std::string_view meta, const detail::AttributeVersion& seen) const;

  // The row of attributes in a value of the store, or the one of the unknown.
  void read_attributes(std::string_view value, std::span<const std::int64_t> unknown, std::int64_t* row) const;

  // The record in a value of the store, or the empty one. DamagedRecordError if it has another size.
  const char* record(const detail::Table& table, std::string_view value) const;

  [[noreturn]] void fail_restless(const char* during) const;  // the version changes too often
};

// Tries to read before a version that keeps changing is an error.
inline constexpr int version_tries = 3;

inline constexpr std::string_view meta_table = "meta";
inline constexpr std::int64_t meta_key[] = {0};

namespace detail {
// The code of a scenario; null_code if there is none. Trailing zeros are cut off, as numpy does.
std::int64_t scenario_code(std::optional<std::string_view> scenario);

// Keys that a request asks a table for, each once, and the place of every row's key among them.
struct KeySet {
  std::vector<std::int64_t> distinct;
  std::vector<std::uint32_t> place;  // [rows]
};
}  // namespace detail

struct FeatureBuffer::Work {
  std::uint64_t center = 0;  // that read the user; 0: none did

  // The request.
  std::int64_t user_id = 0, time = 0, scenario = 0;
  std::vector<double> numbers;      // of the context's columns
  std::vector<std::int64_t> codes;  // of the context's columns

  // Data of the user, in the version of the store that `version` describes; "": none.
  std::string version;
  std::vector<std::int64_t> user_row;  // attributes
  std::vector<std::int64_t> records;   // of the tables that a request asks once, one after another
  std::vector<double> priors;
  bool made = false;  // the buffer and the priors hold what these say

  // Data of the candidates.
  std::vector<std::int64_t> item_rows;  // [n, ItemLayout::width()]
  std::vector<std::uint32_t> unknown;   // candidates whose attributes are to be read
  std::vector<std::int64_t> unknown_ids;
  std::vector<std::uint32_t> learned;  // candidates whose attributes were read
  std::vector<std::int64_t> stored;    // one row of attributes
  std::vector<detail::KeySet> keys;    // [tables]
  std::vector<std::int64_t> row_keys;  // of one table

  // Scratch memory.
  std::vector<StoreQuery> queries;
  std::vector<std::uint32_t> slots;
  std::vector<const char*> request_records;  // [tables]
  std::vector<const char*> pointers;         // records of a table that is asked for each row
  std::vector<double> fields;
  std::vector<std::int64_t> steps;
  std::vector<float> block;
};
}  // namespace pygrade::inline v0_2
