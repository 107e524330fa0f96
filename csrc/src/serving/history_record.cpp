#include "serving/history_record.hpp"

#include <bit>
#include <cstring>
#include <limits>
#include <tuple>

#include "pygrade/features.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
static_assert(std::endian::native == std::endian::little);

constexpr char record_format = 1;
constexpr std::size_t max_steps = 1 << 12;  // of an item that are not in its sums: some ten, unless clocks are wrong

std::size_t row_size(std::size_t tasks) { return 4 * 8 + 2 + 1 + 4 * tasks; }
std::size_t num_sums(std::size_t tasks) { return 1 + tasks + History::groups * tasks; }

template <class T>
void put(T value, char*& to) {
  std::memcpy(to, &value, sizeof value);
  to += sizeof value;
}

template <class T>
void take(const char*& from, T& value) {
  std::memcpy(&value, from, sizeof value);
  from += sizeof value;
}

void put_whole(std::int64_t value, std::string& to) {
  auto bits = static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63);
  for (; bits >= 128; bits >>= 7) to += static_cast<char>(bits | 128);
  to += static_cast<char>(bits);
}

// The parts of a record, one after the other.
class RecordReader {
 public:
  RecordReader(std::string_view record, std::string_view table, std::size_t tasks) : rest_(record), table_(table) {
    require(record.size() >= 2 && record[0] == record_format, "its format is another one");
    require(static_cast<std::size_t>(static_cast<unsigned char>(record[1])) == tasks, "it has other tasks");
    rest_.remove_prefix(2);
  }

  void require(bool good, const char* fault) const {
    if (!good) throw DamagedRecordError("a record of the table " + std::string(table_) + " is damaged: " + fault);
  }
  std::int64_t whole() {
    std::uint64_t bits = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      require(!rest_.empty(), "it ends within a number");
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      bits |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return static_cast<std::int64_t>(bits >> 1 ^ (~(bits & 1) + 1));
    }
    require(false, "a number is too long");
    return 0;
  }
  void sums(std::size_t count, History::Sums& to) {
    to.clear();
    const std::int64_t present = whole();
    require(present == 0 || present == 1, "sums are neither there nor absent");
    for (std::size_t i = 0; present == 1 && i < count; ++i) to.push_back(whole());
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_, table_;
};

void put_sums(const History::Sums& sums, std::string& to) {
  put_whole(sums.empty() ? 0 : 1, to);
  for (const std::int64_t sum : sums) put_whole(sum, to);
}
}  // namespace

void write_record(const History::User& user, std::size_t tasks, std::string& record) {
  record.resize(2 + user.shown.size() * row_size(tasks));
  char* to = record.data();
  put(record_format, to);
  put(static_cast<char>(tasks), to);
  for (const History::Exposure& row : user.shown) {
    for (const std::int64_t number : {row.time, row.request, row.item, row.category}) put(number, to);
    put(static_cast<std::uint16_t>(row.events), to);
    put(static_cast<std::uint8_t>(row.group), to);
    std::memcpy(to, row.predicted.data(), 4 * tasks);
    to += 4 * tasks;
  }
}

void read_record(std::string_view record, std::string_view table, std::size_t tasks, History::User& user) {
  if (record.empty()) return user.shown.clear();
  const RecordReader reader(record, table, tasks);
  const std::string_view rows = reader.rest();
  const std::size_t count = rows.size() / row_size(tasks);
  reader.require(count * row_size(tasks) == rows.size() && count <= History::max_shown, "it has no whole rows");
  user.shown.resize(count);
  const char* from = rows.data();
  bool good = true;
  std::uint64_t bits = 0;  // of predictions; signs are set if one is negative, infinite, or NaN
  for (std::size_t i = 0; i < count; ++i) {
    History::Exposure& row = user.shown[i];
    __builtin_prefetch(from + 1024);
    std::uint16_t events;
    std::uint8_t group;
    for (std::int64_t* number : {&row.time, &row.request, &row.item, &row.category}) take(from, *number);
    take(from, events);
    take(from, group);
    row.events = events;
    row.group = group;
    for (std::size_t t = 0; t < tasks; t += 2) {
      std::uint64_t two = 0;
      std::memcpy(&two, from + 4 * t, t + 1 < tasks ? 8 : 4);
      std::memcpy(&row.predicted[t], &two, sizeof two);
      bits |= two | (two + 0x00800000'00800000);
    }
    from += 4 * tasks;
    good &= group < History::groups && events >> tasks == 0;
    if (i > 0) {
      const History::Exposure& before = user.shown[i - 1];
      good &= std::tie(before.time, before.request, before.item) < std::tie(row.time, row.request, row.item);
    }
  }
  if ((bits & 0x80000000'80000000) != 0)  // or it is -0
    for (const History::Exposure& row : user.shown)
      for (std::size_t t = 0; t < tasks; ++t)
        good &= row.predicted[t] >= 0.0f && row.predicted[t] <= std::numeric_limits<float>::max();
  reader.require(good, "a row holds what none has");
}

void write_record(const History::Item& item, std::size_t tasks, std::string& record) {
  record.assign({record_format, static_cast<char>(tasks)});
  put_whole(item.first, record);
  put_whole(item.epoch, record);
  put_sums(item.total, record);
  for (const History::Sums& sums : item.recent) put_sums(sums, record);
  put_whole(static_cast<std::int64_t>(item.steps.size()), record);
  for (const History::Item::Step& step : item.steps) {
    put_whole(step.number, record);
    put_sums(step.sums, record);
  }
}

void read_record(std::string_view record, std::string_view table, std::size_t tasks, History::Item& item) {
  item = {};
  if (record.empty()) return;
  RecordReader reader(record, table, tasks);
  item.first = reader.whole();
  item.epoch = reader.whole();
  reader.sums(num_sums(tasks), item.total);
  for (History::Sums& sums : item.recent) reader.sums(num_sums(tasks), sums);
  const std::int64_t steps = reader.whole();
  reader.require(steps >= 0 && steps <= static_cast<std::int64_t>(max_steps), "it has too many steps");
  for (std::int64_t s = 0; s < steps; ++s) {
    History::Item::Step& step = item.steps.emplace_back();
    step.number = reader.whole();
    reader.sums(num_sums(tasks), step.sums);
    reader.require(!step.sums.empty(), "a step has no sums");
  }
  reader.require(reader.rest().empty(), "it has bytes behind its end");
}
}  // namespace pygrade::inline v0_2::detail
