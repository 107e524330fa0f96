// One record, in every backend: kind, value, checksum.
//
//     00 | value | crc32            lives until it is removed
//     01 | end | value | crc32      lives until `end`: 8 bytes big endian, milliseconds since 1970
//
// The crc32 (zlib's, 4 bytes little endian) covers all bytes before it. No record is empty.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::string_view store_format = "1";
// The error for a store of another format.
StoreError other_format(const std::string& url, std::string_view stored);

std::uint64_t now_ms();  // since 1970

// When values end that are written now and live `ttl` seconds: milliseconds since 1970, 0: never.
std::uint64_t end_of(std::optional<double> ttl);
inline bool is_over(std::uint64_t end, std::uint64_t now) { return end != 0 && end <= now; }

// The bytes before values that end then.
std::string record_header(std::uint64_t end);

// Replaces `record` by that of `value`.
void pack_record(std::string_view header, std::string_view value, std::string& record);

// The value of a record, and when it ends: milliseconds since 1970, 0: never. StoreError for a damaged one.
struct RecordContent {
  std::string_view value;
  std::uint64_t end;
};
RecordContent unpack_record(std::string_view record, const std::string& url);

// Whether a record's time is over; a damaged one's is not.
bool is_expired(std::string_view record, std::uint64_t now);

// Replaces records (data() is null: there is none) by their values, null if their time is over at `now`.
void unpack_records(std::span<std::string_view> records, std::uint64_t now, const std::string& url);

// std::invalid_argument for a table's name that Python refuses; `distinct`: also for one that is named twice, and for
// a key that is. Returns the number of keys.
std::size_t check_queries(std::span<const StoreQuery> queries, bool distinct = false);
void check_ttl(std::optional<double> ttl);
void check_version(std::string_view version);
void check_count(std::size_t values, std::size_t keys, const std::string& what);  // one per key
// Those of `put`.
void check_put(std::string_view table, std::size_t keys, std::size_t values, std::string_view version,
               std::optional<double> ttl);

// The errors of versions, in every backend. `version` is "" for the current one.
StoreError missing_version(const std::string& url, std::string_view version);
StoreError version_is_complete(const std::string& url, std::string_view version);
StoreError version_is_current(const std::string& url, std::string_view version);
StoreError update_wrote(const std::string& url);  // to the store that it updates

// StoreUnreachableError if `deadline` has passed.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;
void check_deadline(Deadline deadline, const std::string& url);
}  // namespace pygrade::inline v0_2::detail
