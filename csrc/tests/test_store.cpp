// The parts of the stores, and threads on a store in an LMDB file. What every store promises: tests/stores.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <thread>

#include "check.hpp"
#include "pygrade/store.hpp"
#include "stores/backends.hpp"
#include "stores/record.hpp"
#include "stores/record_cache.hpp"
#include "util/blake2b.hpp"
#include "util/crc32.hpp"

using namespace pygrade;

namespace {
std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const auto byte : bytes)
    for (const int digit : {byte >> 4, byte & 15}) text += "0123456789abcdef"[digit];
  return text;
}

std::string blake2b(std::string_view data, std::size_t size) {
  std::array<std::uint8_t, 64> digest;
  detail::blake2b(data, std::span(digest).first(size));
  return hex(std::span(digest).first(size));
}

std::string_view unpacked(std::string_view record, std::uint64_t now = 0) {
  std::array<std::string_view, 1> records = {record};
  detail::unpack_records(records, now, "test");
  return records[0];
}
}  // namespace

TEST(blake2b_gives_what_python_s_hashlib_gives) {
  CHECK_EQUAL(blake2b("abc", 64),
              "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
              "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923");
  CHECK_EQUAL(blake2b("", 8), "e4a6a0577479b2b4");
  CHECK_EQUAL(blake2b("user", 8), "afdf5c9a7bd48d63");
  CHECK_EQUAL(blake2b(std::string(128, 'a'), 8), "f06643fe9c7e18da");
  CHECK_EQUAL(blake2b(std::string(129, 'a'), 8), "e462535bb0c5a299");
  CHECK_EQUAL(blake2b(std::string(1000, 'b'), 8), "54878fbeebad984a");
}

TEST(crc32_gives_what_single_bits_give) {
  CHECK_EQUAL(detail::crc32("123456789"), 0xcbf43926u);
  std::string data;
  for (std::size_t size = 0; size < 100; data += static_cast<char>(37 * ++size)) {
    std::uint32_t crc = ~0u;
    for (const char c : data) {
      crc ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    }
    CHECK_EQUAL(detail::crc32(data), ~crc);
  }
}

TEST(records_have_the_recorded_bytes) {
  using namespace std::string_view_literals;
  const std::pair<std::string_view, std::string_view> records[] = {
      {""sv, "\x00\x8d\xef\x02\xd2"sv},
      {"\x00\x01\xff"sv, "\x00\x00\x01\xff\xd0\x01\x5d\x15"sv},
  };
  for (const auto& [value, expected] : records) {
    std::string record;
    detail::pack_record(detail::record_header(0), value, record);
    CHECK(record == expected && unpacked(expected) == value);
  }
}

TEST(a_record_with_any_wrong_bit_is_an_error) {
  for (const auto ttl : {std::optional<double>(), std::optional<double>(1e9)}) {
    std::string record;
    detail::pack_record(detail::record_header(detail::end_of(ttl)), "value", record);
    for (std::size_t bit = 0; bit < 8 * record.size(); ++bit) {
      std::string damaged = record;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
      CHECK_THROWS(StoreError, "test: a record is damaged", unpacked(damaged));
    }
    for (std::size_t size = 0; size < record.size(); ++size)
      CHECK_THROWS(StoreError, "test: a record is damaged", unpacked(std::string_view(record).substr(0, size)));
  }
}

TEST(a_store_that_the_build_lacks_names_option_and_package) {
  const auto built = [](std::string_view scheme) {
    return std::ranges::any_of(store_kinds(),
                               [&](const StoreKind& kind) { return kind.scheme == scheme && kind.built; });
  };
  CHECK_THROWS(StoreError, built("lmdb") ? "does not exist" : "install liblmdb-dev and build with -DPYGRADE_LMDB=ON",
               open_store("lmdb:/nowhere"));
  CHECK_THROWS(StoreError,
               built("redis") ? "is not reachable" : "install libhiredis-dev and build with -DPYGRADE_REDIS=ON",
               open_store("redis://u:secret@127.0.0.1:1/0"));
  CHECK_THROWS(std::invalid_argument, "expected lmdb:DIR", open_store("memory:x"));
  CHECK_THROWS(std::invalid_argument, "or memory:", open_store("other:x"));
}

#if defined(PYGRADE_HAS_LMDB)

TEST(records_that_are_remembered_are_those_that_were_added) {
  std::atomic<std::ptrdiff_t> room = 1 << 19;
  {
    detail::RecordCache cache(room);
    std::vector<detail::LmdbName> names(300);
    for (std::size_t i = 0; i < names.size(); ++i)
      names[i] = {0, 0, 0, 1, static_cast<char>(i), static_cast<char>(i >> 8)};
    std::vector<std::string_view> found(names.size());
    std::vector<std::uint32_t> missing;
    for (std::size_t i = 0; i < names.size(); ++i)
      cache.add(names[i], i == 0 ? std::string_view() : std::to_string(i), i % 2 * 1000);
    cache.find(names, 999, found, missing);
    CHECK(missing.empty() && found[0].data() == nullptr && found[1] == "1" && found[299] == "299");
    cache.find(names, 1000, found, missing);
    CHECK(missing.empty() && found[1].data() == nullptr && found[298] == "298");
    cache.forget(names[7]);
    cache.find(names, 0, found, missing);
    CHECK(missing == std::vector<std::uint32_t>{7});
    CHECK(cache.holds(std::string_view("\0\0\0\1", 4)) && !cache.holds(std::string_view("\0\0\0\2", 4)));
    cache.add(names[7], std::string(1 << 19, 'x'), 0);  // more than there is room for
    cache.find(names, 0, found, missing);
    CHECK_EQUAL(missing.size(), names.size());
    CHECK(room > 0);
    cache.add(names[7], "7", 0);
  }
  CHECK_EQUAL(room.load(), std::ptrdiff_t{1} << 19);
}

namespace {
struct Directory {
  Directory() {
    path = (std::filesystem::temp_directory_path() / "pygrade_store_XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) std::abort();
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string url() const { return "lmdb:" + path; }

  std::string path;
};
}  // namespace

TEST(readers_see_all_of_an_update_and_none_is_lost) {
  const Directory directory;
  const auto store = open_store(directory.url(), {.create = true});
  store->begin("v1");
  store->switch_to("v1");
  std::vector<std::int64_t> keys(64);
  std::iota(keys.begin(), keys.end(), -30);
  const StoreQuery queries[] = {{"user", std::span(keys).first(32)}, {"item", std::span(keys).last(32)}};
  std::atomic<bool> done = false;
  std::atomic<int> wrong = 0, reads = 0;
  const auto add_one = [&] {
    store->update(queries, [](StoreValues values, std::span<std::string> changed) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        const int before = values[i].data() == nullptr ? 0 : std::stoi(std::string(values[i]));
        changed[i] = std::to_string(before + 1) + std::string(static_cast<std::size_t>(before) % 2000, ' ');
      }
    });
  };
  add_one();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&] {
        while (!done) {
          store->get(queries, [&](StoreValues values) {
            wrong += values.size() != 64 || std::ranges::any_of(values, [&](auto value) { return value != values[0]; });
          });
          ++reads;
        }
      });
    {
      std::vector<std::jthread> writers;
      for (int t = 0; t < 3; ++t)
        writers.emplace_back([&] {
          for (int i = 0; i < 100; ++i) add_one();
        });
    }
    done = true;
  }
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(reads > 0);
  store->get(queries, [&](StoreValues values) { CHECK_EQUAL(std::stoi(std::string(values[0])), 301); });
}

TEST(readers_of_versions_share_what_is_remembered) {
  const Directory directory;
  const auto store = open_store(directory.url(), {.create = true, .cache_bytes = std::size_t{4} << 20});
  const std::int64_t keys[] = {1, 2, 3};
  const StoreQuery queries[] = {{"item", keys}};
  std::vector<std::shared_ptr<Store>> readers;
  for (int version = 0; version < 5; ++version) {
    const std::string name = "v" + std::to_string(version);
    store->begin(name);
    const std::string_view values[] = {name, name, name};
    store->put("item", keys, values, name);
    store->switch_to(name);
    readers.push_back(store->at(name));
  }
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (std::size_t i = 0; i < 2000; ++i) {
          const std::size_t version = (i + static_cast<std::size_t>(t)) % readers.size();
          readers[version]->get(queries, [&](StoreValues values) {
            for (const auto value : values) wrong += value != "v" + std::to_string(version);
          });
          if (t == 0 && i % 50 == 0)
            store->update(queries, [](StoreValues, std::span<std::string> changed) {
              std::ranges::fill(changed, "v4");  // as it was
            });
        }
      });
  }
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(a_store_that_failed_to_open_can_be_opened_later) {
  const Directory directory;
  CHECK_THROWS(StoreError, "holds no store", open_store(directory.url()));
  const auto store = open_store(directory.url(), {.create = true});
  const auto again = open_store(directory.url() + "?read_only=1");
  CHECK(!store->current() && !again->current());
  const std::int64_t key = 0;
  const StoreQuery query{"user", {&key, 1}};
  CHECK_THROWS(StoreError, "no current version", again->get({&query, 1}, [](StoreValues) {}));
}

#endif
