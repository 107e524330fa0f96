// The parts of the stores, and stores in LMDB files that the tests write by LMDB itself. Redis, and files that Python
// wrote: tests/stores/test_core_stores.py.
#include <algorithm>
#include <array>
#include <random>

#include "check.hpp"
#include "pygrade/store.hpp"
#include "stores/backends.hpp"
#include "stores/record.hpp"
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

std::string_view unpacked(std::string_view record, std::int64_t now = 0) {
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

TEST(a_record_holds_a_value_and_its_end) {
  std::string record;
  for (const std::size_t size : {0, 1, 1000}) {
    const std::string value(size, 'v');
    detail::pack_record(detail::record_header({}), value, record);
    CHECK_EQUAL(record.size(), size + 5);
    CHECK_EQUAL(std::string(unpacked(record)), value);
    CHECK(unpacked(record).data() != nullptr);
    detail::pack_record(detail::record_header(10.0), value, record);
    const std::int64_t now = detail::now_ms();
    CHECK_EQUAL(std::string(unpacked(record, now)), value);
    CHECK(unpacked(record, now + 10'001).data() == nullptr);
  }
}

TEST(a_record_with_any_wrong_bit_is_an_error) {
  for (const auto ttl : {std::optional<double>(), std::optional<double>(1e9)}) {
    std::string record;
    detail::pack_record(detail::record_header(ttl), "value", record);
    for (std::size_t bit = 0; bit < 8 * record.size(); ++bit) {
      std::string damaged = record;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
      CHECK_THROWS(StoreError, "test: a record is damaged", unpacked(damaged));
    }
    for (std::size_t size = 0; size < record.size(); ++size)
      CHECK_THROWS(StoreError, "test: a record is damaged", unpacked(std::string_view(record).substr(0, size)));
  }
  // With a checksum that fits, but too short for its kind.
  for (std::string head : {std::string(), std::string("\1time"), std::string("\2abc")}) {
    const std::uint32_t crc = detail::crc32(head);
    for (int shift = 0; shift < 32; shift += 8) head += static_cast<char>(crc >> shift);
    CHECK_THROWS(StoreError, "test: a record begins with byte", unpacked(head));
  }
}

TEST(addresses_are_shown_without_password) {
  CHECK_EQUAL(detail::without_secret("redis://u:p@host:1/0?prefix=a@b"), "redis://host:1/0?prefix=a@b");
  CHECK_EQUAL(detail::without_secret("redis://u:p@ss@host"), "redis://host");
  CHECK_EQUAL(detail::without_secret("lmdb:/a@b"), "lmdb:/a@b");
}

TEST(a_store_that_the_build_lacks_names_option_and_package) {
  const auto built = store_libraries();
  for (const auto& [name, url, text] :
       {std::tuple("lmdb", "lmdb:/nowhere", "install liblmdb-dev and build with -DPYGRADE_LMDB=ON"),
        std::tuple("redis", "redis://u:secret@nowhere.invalid/0",
                   "install libhiredis-dev and build with -DPYGRADE_REDIS=ON")}) {
    if (std::ranges::find(built, name) == built.end())
      CHECK_THROWS(StoreError, text, open_store(url));
    else
      CHECK_THROWS(StoreError, std::string(name) == "lmdb" ? "does not exist" : "is not reachable", open_store(url));
  }
  CHECK_THROWS(std::invalid_argument, "want lmdb:DIR", open_store("memory:"));
}

#if defined(PYGRADE_HAS_LMDB)

#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "stores/lmdb_pages.hpp"
#include "stores/lmdb_tree.hpp"

namespace {

struct Directory {
  Directory() {
    path = (std::filesystem::temp_directory_path() / "pygrade_store_XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) std::abort();
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string url() const { return "lmdb:" + path; }
  std::string file() const { return path + "/data.mdb"; }

  std::string path;
};

// Writes by LMDB alone, and closes it.
class Filler {
 public:
  explicit Filler(const Directory& directory) {
    mdb_env_create(&environment_);
    mdb_env_set_mapsize(environment_, std::size_t{256} << 20);
    CHECK_EQUAL(mdb_env_open(environment_, directory.path.c_str(), MDB_NOSYNC, 0644), 0);
    CHECK_EQUAL(mdb_txn_begin(environment_, nullptr, 0, &transaction_), 0);
    CHECK_EQUAL(mdb_dbi_open(transaction_, nullptr, 0, &tree_), 0);
  }
  ~Filler() {
    CHECK_EQUAL(mdb_txn_commit(transaction_), 0);
    mdb_env_close(environment_);
  }
  void put(std::string key, std::string value) {
    MDB_val name{key.size(), key.data()}, content{value.size(), value.data()};
    CHECK_EQUAL(mdb_put(transaction_, tree_, &name, &content, 0), 0);
  }

  // A store whose version 1 is current.
  void head() {
    put(own("format"), "2");
    put(own("next"), std::string("\0\0\0\2", 4));
    put(own("version") + std::string("\0\0\0\1", 4), "rv1");
    put(own("current"), std::string("\0\0\0\1", 4));
  }
  void record(std::string_view table, std::int64_t key, std::string_view value) {
    std::string packed;
    detail::pack_record(std::string(1, '\0'), value, packed);
    put(name(table, key), packed);
  }
  static std::string own(const char* name) { return std::string(4, '\0') + name; }
  static std::string name(std::string_view table, std::int64_t key) {
    std::string name("\0\0\0\1", 4);
    std::array<std::uint8_t, 8> digest;
    detail::blake2b(table, digest);
    name.append(digest.begin(), digest.end());
    for (int shift = 56; shift >= 0; shift -= 8) name += static_cast<char>(static_cast<std::uint64_t>(key) >> shift);
    return name;
  }

 private:
  MDB_env* environment_ = nullptr;
  MDB_txn* transaction_ = nullptr;
  MDB_dbi tree_ = 0;
};

std::string value_of(std::int64_t key) {
  std::mt19937_64 random(static_cast<std::uint64_t>(key));
  const std::size_t sizes[] = {0, 40, 700, 3000, 20'000};
  std::string value(sizes[random() % 5] + random() % 300, '\0');
  for (char& c : value) c = static_cast<char>(random());
  return value;
}

std::vector<std::int64_t> keys_of(std::size_t count) {
  std::mt19937_64 random(7);
  std::vector<std::int64_t> keys(count);
  for (auto& key : keys) key = static_cast<std::int64_t>(random());
  return keys;
}

void fill(const Directory& directory, std::span<const std::int64_t> keys) {
  Filler filler(directory);
  filler.head();
  for (const std::int64_t key : keys) filler.record("item", key, value_of(key));
}

// The file in memory, in pages as they are mapped.
class Image {
 public:
  explicit Image(const std::string& path) {
    size_ = std::filesystem::file_size(path);
    bytes_ = static_cast<char*>(std::aligned_alloc(4096, size_));
    std::ifstream(path, std::ios::binary).read(bytes_, static_cast<std::streamsize>(size_));
  }
  ~Image() { std::free(bytes_); }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  char* data() const { return bytes_; }
  std::size_t size() const { return size_; }
  std::uint64_t last_transaction() const { return std::max(number(144), number(4096 + 144)); }
  std::span<const unsigned char> bytes() const { return {reinterpret_cast<const unsigned char*>(bytes_), size_}; }

 private:
  std::uint64_t number(std::size_t place) const {
    std::uint64_t value;
    std::memcpy(&value, bytes_ + place, sizeof value);
    return value;
  }

  char* bytes_;
  std::size_t size_;
};

std::optional<detail::LmdbTree> tree_of(const Image& image) {
  return detail::LmdbTree::open(image.bytes(), 4096, image.last_transaction());
}

std::vector<detail::LmdbName> names_of(std::span<const std::int64_t> keys) {
  std::vector<detail::LmdbName> names(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::string name = Filler::name("item", keys[i]);
    std::ranges::copy(name, names[i].begin());
  }
  return names;
}

}  // namespace

TEST(a_store_gives_the_values_of_all_sizes) {
  const Directory directory;
  const auto keys = keys_of(2000);
  fill(directory, std::span(keys).first(1500));
  const auto store = open_store(directory.url());
  CHECK_EQUAL(store->current().value_or(""), "v1");
  std::vector<std::int64_t> asked = keys;
  std::shuffle(asked.begin(), asked.end(), std::mt19937(1));
  const StoreQuery queries[] = {{"item", asked}, {"user", std::span(keys).first(2)}};
  int wrong = 0;
  store->get(queries, [&](StoreValues values) {
    CHECK_EQUAL(values.size(), asked.size() + 2);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      const bool stored = std::ranges::find(keys, asked[i]) < keys.begin() + 1500;
      wrong += stored ? values[i] != value_of(asked[i]) || values[i].data() == nullptr : values[i].data() != nullptr;
    }
    wrong += values[asked.size()].data() != nullptr;
  });
  CHECK_EQUAL(wrong, 0);
}

TEST(the_tree_finds_what_lmdb_finds) {
  for (const std::size_t count : {1, 3, 50, 3000}) {
    const Directory directory;
    const auto keys = keys_of(2 * count);
    fill(directory, std::span(keys).first(count));
    const Image image(directory.file());
    const auto tree = tree_of(image);
    CHECK(tree.has_value());
    if (!tree) continue;
    std::vector<std::string_view> values(keys.size());
    std::vector<const void*> work;
    CHECK(tree->find(names_of(keys), values, work));
    int wrong = 0;
    for (std::size_t i = 0; i < keys.size(); ++i)
      wrong += i < count ? unpacked(values[i]) != value_of(keys[i]) : values[i].data() != nullptr;
    CHECK_EQUAL(wrong, 0);
    std::string_view value;
    CHECK(tree->find(Filler::own("format"), value) && value == "2");
    CHECK(tree->find(Filler::own("zzz"), value) && value.data() == nullptr);
  }
}

TEST(a_damaged_tree_is_an_answer) {
  const Directory directory;
  const auto keys = keys_of(300);
  fill(directory, keys);
  const auto names = names_of(keys);
  const Image whole(directory.file());
  const int file = open(directory.file().c_str(), O_RDWR);
  CHECK(detail::lmdb_is_whole(file, whole.size(), whole.last_transaction()));
  std::mt19937 random(3);
  std::vector<std::string_view> values(names.size());
  std::vector<const void*> work;
  int refused = 0, cut = 0;
  for (int round = 0; round < 300; ++round) {
    Image image(directory.file());
    for (int change = 0; change < 40; ++change) {  // mostly in the heads and offsets of pages
      const std::size_t page = random() % (image.size() / 4096);
      image.data()[4096 * page + random() % (change % 2 ? 4096 : 40)] = static_cast<char>(random());
    }
    const std::size_t size = round % 3 ? image.size() : 4096 * (2 + random() % (image.size() / 4096 - 2));
    const auto tree = detail::LmdbTree::open(image.bytes().first(size), 4096, whole.last_transaction());
    std::string_view value;
    refused += !tree || !tree->find(names, values, work);
    if (tree) tree->find(Filler::own("current"), value);
    // What was found lies in the file.
    if (tree && tree->find(names, values, work))
      for (const auto found : values)
        CHECK(found.data() == nullptr ||
              (found.data() >= image.data() && found.data() + found.size() <= image.data() + image.size()));
    CHECK_EQUAL(pwrite(file, image.data(), image.size(), 0), static_cast<ssize_t>(image.size()));
    cut += !detail::lmdb_is_whole(file, size, whole.last_transaction());
    CHECK_EQUAL(pwrite(file, whole.data(), whole.size(), 0), static_cast<ssize_t>(whole.size()));
  }
  close(file);
  CHECK(refused > 100);
  CHECK(cut > 100);
}

TEST(a_store_whose_pages_are_damaged_is_an_error_or_right) {
  const Directory directory;
  const auto keys = keys_of(300);
  fill(directory, keys);
  const Image whole(directory.file());
  const auto store = open_store(directory.url());
  const StoreQuery queries[] = {{"item", keys}};
  const int file = open(directory.file().c_str(), O_RDWR);
  std::mt19937 random(5);
  int errors = 0, wrong = 0;
  for (int round = 0; round < 300; ++round) {
    Image image(directory.file());
    for (int change = 0; change < 10; ++change) {  // not in the first two pages, which LMDB itself reads
      const std::size_t page = 2 + random() % (image.size() / 4096 - 2);
      image.data()[4096 * page + random() % (change % 2 ? 4096 : 40)] = static_cast<char>(random());
    }
    CHECK_EQUAL(pwrite(file, image.data(), image.size(), 0), static_cast<ssize_t>(image.size()));
    try {
      store->get(queries, [&](StoreValues values) {
        for (std::size_t i = 0; i < keys.size(); ++i)  // a damaged branch may hide a record
          wrong += values[i].data() != nullptr && values[i] != value_of(keys[i]);
      });
    } catch (const StoreError& error) {
      ++errors;
      CHECK(std::string_view(error.what()).find("damaged") != std::string_view::npos ||
            std::string_view(error.what()).find("a record begins") != std::string_view::npos);
    }
    CHECK_EQUAL(pwrite(file, whole.data(), whole.size(), 0), static_cast<ssize_t>(whole.size()));
  }
  close(file);
  CHECK(errors > 100);
  CHECK_EQUAL(wrong, 0);
}

TEST(readers_see_all_of_an_update_and_none_is_lost) {
  const Directory directory;
  {
    Filler filler(directory);
    filler.head();
  }
  const auto keys = keys_of(64);
  const auto store = open_store(directory.url());
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

TEST(a_store_that_failed_to_open_can_be_opened_later) {
  const Directory directory;
  CHECK_THROWS(StoreError, "holds no store", open_store(directory.url()));
  {
    Filler filler(directory);
  }
  CHECK_THROWS(StoreError, "is an LMDB file, but not a store", open_store(directory.url()));
  fill(directory, keys_of(10));
  const auto store = open_store(directory.url());
  const auto again = open_store(directory.url() + "?read_only=1");
  CHECK_EQUAL(store->current().value_or(""), again->current().value_or("none"));
}

#endif
