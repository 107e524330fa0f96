// The parts of the Redis store that need no server; tests/stores/test_redis.py has the others.
#include "check.hpp"
#include "pygrade/store.hpp"

#if defined(PYGRADE_HAS_REDIS)

#include "stores/redis_cache.hpp"
#include "stores/redis_protocol.hpp"

using namespace pygrade;
using detail::RedisCache;

TEST(a_key_has_the_slot_that_redis_gives_it) {
  CHECK_EQUAL(detail::slot_of("123456789"), 0x31c3);  // CRC-16/XMODEM's check value
  CHECK_EQUAL(detail::slot_of("foo{123456789}bar{x}"), 0x31c3);
  CHECK_EQUAL(detail::slot_of("a}{123456789}"), 0x31c3);
  CHECK_EQUAL(detail::slot_of(""), 0);
  CHECK(detail::slot_of("{}123456789") != 0x31c3);
}

TEST(a_cache_forgets_what_is_old_or_written) {
  RedisCache cache(std::chrono::milliseconds(1000), 1 << 20);
  const RedisCache::Time start{};
  std::string records = "x";
  CHECK(!cache.find("a", start, records).has_value());
  const auto stamps = cache.stamps();
  cache.keep("a", "record", start, stamps);
  cache.keep("none", {}, start, stamps);
  CHECK(cache.find("a", start + std::chrono::milliseconds(999), records) == true);
  CHECK(cache.find("none", start, records) == false);
  CHECK_EQUAL(records, "xrecord");
  CHECK(!cache.find("a", start + std::chrono::milliseconds(1000), records).has_value());
  cache.forget("a");
  CHECK(!cache.find("a", start, records).has_value());
  cache.keep("a", "old", start, stamps);  // was read before the write
  CHECK(!cache.find("a", start, records).has_value());
  cache.keep("a", "new", start, cache.stamps());
  CHECK(cache.find("a", start, records) == true);
}

TEST(a_cache_keeps_what_is_used_within_its_bytes) {
  constexpr std::size_t bytes = 1 << 20, count = 20'000;  // of 1 kB
  RedisCache cache(std::chrono::milliseconds(1000), bytes);
  const RedisCache::Time start{};
  const std::string record(1000, 'r');
  std::string records;
  for (std::size_t i = 0; i < count; ++i) {
    cache.keep("key" + std::to_string(i), record, start, cache.stamps());
    if (i % 50 == 0) cache.find("key0", start, records);
  }
  std::size_t found = 0;
  for (std::size_t i = 1; i < count; ++i) {
    records.clear();
    found += cache.find("key" + std::to_string(i), start, records).has_value();
  }
  CHECK(found > bytes / 1000 / 4 && found < bytes / 1000);
  RedisCache used(std::chrono::milliseconds(1000), bytes);
  used.keep("hot", record, start, used.stamps());
  for (std::size_t i = 0; i < count; ++i) {
    used.keep("key" + std::to_string(i), record, start, used.stamps());
    CHECK(used.find("hot", start, records) == true);
    records.clear();
  }
}

#endif
