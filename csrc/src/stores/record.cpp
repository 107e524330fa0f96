#include "stores/record.hpp"

#include <algorithm>
#include <cmath>

#include "util/crc32.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr char endless = '\0', timed = '\1';
constexpr std::size_t time_bytes = 8, checksum_bytes = 4;

std::uint64_t end_in(std::string_view record) {
  std::uint64_t end = 0;
  for (std::size_t i = 1; i <= time_bytes; ++i) end = end << 8 | static_cast<unsigned char>(record[i]);
  return end;
}

void check_table(std::string_view table) {
  const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  const auto starts = [](unsigned char c) { return (c & 0xc0) != 0x80; };  // a character of UTF-8
  const auto characters = std::ranges::count_if(table, starts);
  if (table.empty() || characters > 100 || std::ranges::any_of(table, control))
    throw std::invalid_argument("table is '" + std::string(table.substr(0, 100)) +
                                "'; expected 1 to 100 printable characters");
}
}  // namespace

StoreError other_format(const std::string& url, std::string_view stored) {
  return StoreError(url + " has format '" + std::string(stored) + "'; this release reads '" +
                    std::string(store_format) + "': remove the store and publish again");
}

std::uint64_t now_ms() {
  using namespace std::chrono;
  return static_cast<std::uint64_t>(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
}

std::uint64_t end_of(std::optional<double> ttl) {
  return ttl ? now_ms() + static_cast<std::uint64_t>(std::max(1LL, std::llrint(*ttl * 1000))) : 0;
}

std::string record_header(std::uint64_t end) {
  if (end == 0) return std::string(1, endless);
  std::string header(1, timed);
  for (int shift = 56; shift >= 0; shift -= 8) header += static_cast<char>(end >> shift);
  return header;
}

void pack_record(std::string_view header, std::string_view value, std::string& record) {
  record.assign(header);
  record += value;
  const std::uint32_t crc = crc32(record);
  for (int shift = 0; shift < 32; shift += 8) record += static_cast<char>(crc >> shift);
}

RecordContent unpack_record(std::string_view record, const std::string& url) {
  if (crc32(record) != crc32_whole) throw StoreError(url + ": a record is damaged: its checksum disagrees");
  if (record[0] == endless && record.size() > checksum_bytes)
    return {record.substr(1, record.size() - 1 - checksum_bytes), 0};
  if (record[0] != timed || record.size() < 1 + time_bytes + checksum_bytes)
    throw StoreError(url + ": a record begins with byte " + std::to_string(static_cast<unsigned char>(record[0])) +
                     "; expected 0, or 1 and a time");
  return {record.substr(1 + time_bytes, record.size() - 1 - time_bytes - checksum_bytes),
          std::max<std::uint64_t>(end_in(record), 1)};
}

bool is_expired(std::string_view record, std::uint64_t now) {
  return !record.empty() && record[0] == timed && crc32(record) == crc32_whole &&
         record.size() >= 1 + time_bytes + checksum_bytes && end_in(record) <= now;
}

void unpack_records(std::span<std::string_view> records, std::uint64_t now, const std::string& url) {
  constexpr std::size_t ahead = 2, most = 2048;  // records, and bytes of each, that are fetched meanwhile
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (i + ahead < records.size()) {
      const std::string_view next = records[i + ahead];
      for (std::size_t at = 0; at < std::min(next.size(), most); at += 64) __builtin_prefetch(next.data() + at);
    }
    if (records[i].data() == nullptr) continue;
    const auto [value, end] = unpack_record(records[i], url);
    records[i] = is_over(end, now) ? std::string_view() : value;
  }
}

std::size_t check_queries(std::span<const StoreQuery> queries, bool distinct) {
  std::size_t keys = 0;
  for (const auto& query : queries) {
    check_table(query.table);
    keys += query.keys.size();
  }
  if (!distinct) return keys;
  std::vector<std::string_view> tables;
  std::vector<std::int64_t> sorted;
  for (const auto& query : queries) {
    if (std::ranges::find(tables, query.table) != tables.end())
      throw std::invalid_argument("requests name table '" + std::string(query.table) + "' twice; expected each once");
    tables.push_back(query.table);
    sorted.assign(query.keys.begin(), query.keys.end());
    std::ranges::sort(sorted);
    if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
      throw std::invalid_argument("keys of table '" + std::string(query.table) + "' hold " + std::to_string(*twice) +
                                  " twice; expected every key once");
  }
  return keys;
}

void check_ttl(std::optional<double> ttl) {
  if (ttl && !(*ttl > 0.0 && *ttl < 3.2e9))
    throw std::invalid_argument("ttl is " + std::to_string(*ttl) +
                                "; expected a positive number of seconds below a century, or none");
}

void check_version(std::string_view version) {
  const auto alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  const auto usual = [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; };
  if (version.empty() || version.size() > 100 || !alphanumeric(version[0]) || !std::ranges::all_of(version, usual))
    throw std::invalid_argument("version is '" + std::string(version.substr(0, 101)) +
                                "'; expected 1 to 100 letters, digits, '.', '-' or '_', the first no punctuation");
}

void check_count(std::size_t values, std::size_t keys, const std::string& what) {
  if (values != keys)
    throw std::invalid_argument(what + " has " + std::to_string(values) + " entries; expected " + std::to_string(keys) +
                                ", one per key");
}

void check_put(std::string_view table, std::size_t keys, std::size_t values, std::string_view version,
               std::optional<double> ttl) {
  check_table(table);
  check_count(values, keys, "values");
  if (!version.empty()) check_version(version);
  check_ttl(ttl);
}

StoreError missing_version(const std::string& url, std::string_view version) {
  if (version.empty()) return StoreError(url + " has no current version; fill one and switch to it");
  return StoreError(url + " has no version '" + std::string(version) + "'; begin it first");
}
StoreError version_is_complete(const std::string& url, std::string_view version) {
  return StoreError(url + ": version '" + std::string(version) + "' is complete; drop it first");
}
StoreError version_is_current(const std::string& url, std::string_view version) {
  return StoreError(url + ": version '" + std::string(version) + "' is current; switch to another first");
}
StoreError update_wrote(const std::string& url) {
  return StoreError(url + ": an update wrote to the store that it updates; expected it to return the values");
}

void check_deadline(Deadline deadline, const std::string& url) {
  if (deadline && std::chrono::steady_clock::now() > *deadline)
    throw StoreUnreachableError(url + " has not answered before the deadline");
}
}  // namespace pygrade::inline v0_2::detail
