#include "util/parquet.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "pygrade/version.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
// Numbers of the format's enums.
constexpr int type_int32 = 1, type_int64 = 2, type_float = 4, type_bytes = 6;
constexpr int converted_text = 0, converted_uint64 = 14;
constexpr int required = 0, optional = 1;
constexpr int plain = 0, rle = 3, rle_dictionary = 8;
constexpr int data_page = 0, dictionary_page = 2;
constexpr std::string_view magic = "PAR1";

int physical(ParquetType type) {
  switch (type) {
    case ParquetType::int32:
      return type_int32;
    case ParquetType::float32:
      return type_float;
    case ParquetType::text:
      return type_bytes;
    default:
      return type_int64;
  }
}

void append_varint(std::uint64_t value, std::string& out) {
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  out += static_cast<char>(value);
}

void append_u32(std::uint32_t value, std::string& out) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift);
}

// One run of numbers of so many bits, in groups of eight.
void append_packed(std::vector<std::uint32_t>& numbers, int bits, std::string& out) {
  numbers.resize((numbers.size() + 7) / 8 * 8);
  append_varint(numbers.size() / 8 << 1 | 1, out);
  std::uint64_t waiting = 0;
  int count = 0;
  for (const std::uint32_t number : numbers) {
    waiting |= std::uint64_t{number} << count;
    for (count += bits; count >= 8; count -= 8, waiting >>= 8) out += static_cast<char>(waiting);
  }
}

// A struct of Thrift's compact protocol: fields by ascending number, then a 0. Lists and structs are nested by hand.
class Thrift {
 public:
  explicit Thrift(std::string& out) : out_(out) {}

  void i32(int field, std::int64_t value) { number(field, 5, value); }
  void i64(int field, std::int64_t value) { number(field, 6, value); }
  void text(int field, std::string_view value) {
    head(field, 8);
    element(value);
  }
  // A struct as a field: close it by `end`.
  Thrift structure(int field) {
    head(field, 12);
    return Thrift(out_);
  }
  void list(int field, std::size_t size, int type) {
    head(field, 9);
    if (size < 15) {
      out_ += static_cast<char>(size << 4 | static_cast<std::size_t>(type));
    } else {
      out_ += static_cast<char>(0xf0 | type);
      append_varint(size, out_);
    }
  }
  void texts(int field, std::string_view value) {
    list(field, 1, 8);
    element(value);
  }
  void numbers(int field, std::initializer_list<int> values) {
    list(field, values.size(), 5);
    for (const int value : values) zigzag(value);
  }
  void structures(int field, std::size_t size) { list(field, size, 12); }
  void end() { out_ += '\0'; }

 private:
  void number(int field, int type, std::int64_t value) {
    head(field, type);
    zigzag(value);
  }
  void head(int field, int type) {  // fields are at most 15 numbers apart
    out_ += static_cast<char>((field - last_) << 4 | type);
    last_ = field;
  }
  void zigzag(std::int64_t value) {
    append_varint(static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63), out_);
  }
  void element(std::string_view value) {
    append_varint(value.size(), out_);
    out_ += value;
  }

  std::string& out_;
  int last_ = 0;
};
}  // namespace

// --- columns ---

ParquetColumn::ParquetColumn(std::string name, ParquetType type, bool runs, bool nulls, bool packed)
    : name_(std::move(name)), type_(type), has_runs_(runs), has_nulls_(nulls), is_packed_(packed) {}

void ParquetColumn::clear() {
  rows_ = last_ = 0;
  entries_ = 0;
  values_.clear();
  runs_.clear();
  levels_.clear();
}

void ParquetColumn::add_level(bool present, std::size_t rows) {
  rows_ += rows;
  if (!has_nulls_) return;
  if (!levels_.empty() && levels_.back().first == present)
    levels_.back().second += rows;
  else
    levels_.emplace_back(present, rows);
}

void ParquetColumn::add_nulls(std::size_t rows) {
  if (rows > 0) add_level(false, rows);
}

void ParquetColumn::add_plain(std::span<const std::byte> values, std::size_t rows) {
  if (rows == 0) return;
  values_.append(reinterpret_cast<const char*>(values.data()), values.size());
  add_level(true, rows);
}

void ParquetColumn::add_entry(std::string_view value, std::size_t rows) {
  if (rows == 0) return;
  add_level(true, rows);
  const std::size_t head = type_ == ParquetType::text ? 4 : 0;
  if (entries_ > 0 && std::string_view(values_).substr(last_ + head) == value) {
    runs_.back().second += rows;
    return;
  }
  last_ = values_.size();
  if (head > 0) append_u32(static_cast<std::uint32_t>(value.size()), values_);
  values_ += value;
  runs_.emplace_back(entries_++, rows);
}

// --- file ---

struct ParquetFile::Chunk {
  std::size_t dictionary_place, data_place, bytes, values;
  bool has_dictionary;
};

struct ParquetFile::Group {
  std::vector<Chunk> chunks;
  std::size_t rows, bytes;
};

ParquetFile::ParquetFile(const std::string& path)
    : path_(path), descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), path_);
  try {
    write(magic);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

ParquetFile::~ParquetFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void ParquetFile::write(std::string_view bytes) {
  place_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written > 0)
      bytes.remove_prefix(static_cast<std::size_t>(written));
    else if (written == 0 || errno != EINTR)
      throw std::system_error(errno, std::generic_category(), path_);
  }
}

ParquetFile::Chunk ParquetFile::write_column(const ParquetColumn& column) {
  std::vector<std::uint32_t> numbers(column.is_packed_ ? column.values_.size() / sizeof(std::uint32_t) : 0);
  if (!numbers.empty()) std::memcpy(numbers.data(), column.values_.data(), column.values_.size());
  const std::uint32_t entries = numbers.empty() ? column.entries_ : *std::ranges::max_element(numbers) + 1;
  Chunk chunk{place_, place_, 0, column.rows_, (column.has_runs_ || column.is_packed_) && entries > 0};
  const auto page = [&](int type, std::string_view content, std::size_t values, int encoding) {
    std::string head;
    Thrift header(head);
    header.i32(1, type);
    header.i32(2, static_cast<std::int64_t>(content.size()));
    header.i32(3, static_cast<std::int64_t>(content.size()));
    Thrift details = header.structure(type == data_page ? 5 : 7);
    details.i32(1, static_cast<std::int64_t>(values));
    details.i32(2, encoding);
    if (type == data_page) {
      details.i32(3, rle);
      details.i32(4, rle);
    }
    details.end();
    header.end();
    write(head);
    write(content);
  };

  if (chunk.has_dictionary) {
    std::string counted;  // the dictionary of packed numbers: all up to the largest
    for (std::uint32_t number = 0; !numbers.empty() && number < entries; ++number) append_u32(number, counted);
    page(dictionary_page, numbers.empty() ? column.values_ : counted, entries, plain);
    chunk.data_place = place_;
  }
  std::string content;
  if (column.has_nulls_) {
    std::string levels;
    for (const auto& [present, rows] : column.levels_) {
      append_varint(std::uint64_t{rows} << 1, levels);
      levels += present ? '\1' : '\0';
    }
    append_u32(static_cast<std::uint32_t>(levels.size()), content);
    content += levels;
  }
  if (chunk.has_dictionary) {
    const int bits = std::max(1, static_cast<int>(std::bit_width(entries - 1)));
    content += static_cast<char>(bits);
    if (!numbers.empty()) append_packed(numbers, bits, content);
    for (const auto& [entry, rows] : column.runs_) {
      append_varint(std::uint64_t{rows} << 1, content);
      for (int shift = 0; shift < bits; shift += 8) content += static_cast<char>(entry >> shift);
    }
  } else {
    content += column.values_;
  }
  page(data_page, content, column.rows_, chunk.has_dictionary ? rle_dictionary : plain);
  chunk.bytes = place_ - chunk.dictionary_place;
  return chunk;
}

void ParquetFile::write_group(std::span<ParquetColumn> columns) {
  const std::size_t start = place_;
  Group group;
  for (const auto& column : columns) group.chunks.push_back(write_column(column));
  group.rows = columns.front().rows();
  group.bytes = place_ - start;
  rows_ += group.rows;
  groups_.push_back(std::move(group));
  for (auto& column : columns) column.clear();
}

void ParquetFile::finish(std::span<const ParquetColumn> columns, std::string_view key, std::string_view metadata) {
  std::string footer;
  Thrift file(footer);
  file.i32(1, 2);  // version of the format
  file.structures(2, columns.size() + 1);
  Thrift root(footer);
  root.text(4, "schema");
  root.i32(5, static_cast<std::int64_t>(columns.size()));
  root.end();
  for (const auto& column : columns) {
    Thrift element(footer);
    element.i32(1, physical(column.type_));
    element.i32(3, column.has_nulls_ ? optional : required);
    element.text(4, column.name_);
    if (column.type_ == ParquetType::text) element.i32(6, converted_text);
    if (column.type_ == ParquetType::uint64) element.i32(6, converted_uint64);
    element.end();
  }
  file.i64(3, static_cast<std::int64_t>(rows_));
  file.structures(4, groups_.size());
  for (const auto& group : groups_) {
    Thrift part(footer);
    part.structures(1, group.chunks.size());
    for (std::size_t i = 0; i < group.chunks.size(); ++i) {
      const Chunk& chunk = group.chunks[i];
      Thrift whole(footer);
      whole.i64(2, static_cast<std::int64_t>(chunk.dictionary_place));
      Thrift details = whole.structure(3);
      details.i32(1, physical(columns[i].type_));
      if (chunk.has_dictionary)
        details.numbers(2, {plain, rle, rle_dictionary});
      else
        details.numbers(2, {plain, rle});
      details.texts(3, columns[i].name_);
      details.i32(4, 0);  // not compressed
      details.i64(5, static_cast<std::int64_t>(chunk.values));
      details.i64(6, static_cast<std::int64_t>(chunk.bytes));
      details.i64(7, static_cast<std::int64_t>(chunk.bytes));
      details.i64(9, static_cast<std::int64_t>(chunk.data_place));
      if (chunk.has_dictionary) details.i64(11, static_cast<std::int64_t>(chunk.dictionary_place));
      details.end();
      whole.end();
    }
    part.i64(2, static_cast<std::int64_t>(group.bytes));
    part.i64(3, static_cast<std::int64_t>(group.rows));
    part.end();
  }
  file.structures(5, 1);
  Thrift pair(footer);
  pair.text(1, key);
  pair.text(2, metadata);
  pair.end();
  file.text(6, "pygrade version " PYGRADE_VERSION);
  file.end();
  const auto size = static_cast<std::uint32_t>(footer.size());
  append_u32(size, footer);
  footer += magic;
  write(footer);
  if (fsync(descriptor_) != 0) throw std::system_error(errno, std::generic_category(), path_);
  const int descriptor = std::exchange(descriptor_, -1);
  if (close(descriptor) != 0) throw std::system_error(errno, std::generic_category(), path_);
}
}  // namespace pygrade::inline v0_2::detail
