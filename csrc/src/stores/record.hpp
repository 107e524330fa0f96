// One record, in every backend; pygrade/stores/record.py documents its bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pygrade/store.hpp"

namespace pygrade::detail {

inline constexpr std::string_view store_format = "2";
std::string other_format(std::string_view stored);  // the end of the message that refuses it

std::int64_t now_ms();  // since 1970

// The bytes before values that are written now and live `ttl` seconds; nothing: for ever.
std::string record_header(std::optional<double> ttl);

// Replaces `record` by that of `value`.
void pack_record(std::string_view header, std::string_view value, std::string& record);

// Replaces records (data() is null: there is none) by their values, null if their time is over at `now`. StoreError for
// a damaged one.
void unpack_records(std::span<std::string_view> records, std::int64_t now, const std::string& url);

// std::invalid_argument for a table's name that Python refuses; `distinct`: also for one that is named twice, and for
// a key that is. Returns the number of keys.
std::size_t check_queries(std::span<const StoreQuery> queries, bool distinct = false);
void check_ttl(std::optional<double> ttl);

// StoreTimeout if `deadline` has passed.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;
void check_deadline(Deadline deadline, const std::string& url);

}  // namespace pygrade::detail
