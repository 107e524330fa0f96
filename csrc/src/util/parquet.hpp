// Writes Parquet files of flat columns, uncompressed, with no library: PLAIN values, or a dictionary and runs of its
// entries for columns that repeat themselves. github.com/apache/parquet-format describes the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
enum class ParquetType : std::uint8_t { int32, int64, uint64, float32, text };

// A column of the row group that is being filled.
class ParquetColumn {
 public:
  // `runs`: consecutive rows mostly have the same value. `nulls`: a row may lack one. `packed`: int32 from 0 on,
  // without runs, in as few bits as the largest needs.
  ParquetColumn(std::string name, ParquetType type, bool runs, bool nulls, bool packed = false);

  // Values of numbers, 4 or 8 bytes each, one a row; of a column without runs.
  template <class Number>
  void add(std::span<const Number> values) {
    add_plain(std::as_bytes(values), values.size());
  }
  // Adds one value for so many rows; of a column with runs.
  template <class Number>
    requires(std::is_arithmetic_v<Number>)
  void add_run(Number value, std::size_t rows) {
    add_entry(std::string_view(reinterpret_cast<const char*>(&value), sizeof value), rows);
  }
  void add_run(std::string_view text, std::size_t rows) { add_entry(text, rows); }
  void add_nulls(std::size_t rows);

  std::size_t rows() const { return rows_; }
  std::size_t bytes() const { return values_.size() + 16 * runs_.size(); }  // of memory, about
  const std::string& name() const { return name_; }

 private:
  friend class ParquetFile;

  void add_plain(std::span<const std::byte> values, std::size_t rows);
  void add_entry(std::string_view value, std::size_t rows);
  void add_level(bool present, std::size_t rows);
  void clear();

  std::string name_;
  ParquetType type_;
  bool has_runs_, has_nulls_, is_packed_;
  std::size_t rows_ = 0;
  std::string values_;                                       // PLAIN: of the rows, or of the dictionary
  std::size_t last_ = 0;                                     // where the dictionary's last entry starts in values_
  std::uint32_t entries_ = 0;                                // of the dictionary
  std::vector<std::pair<std::uint32_t, std::size_t>> runs_;  // entry, rows
  std::vector<std::pair<bool, std::size_t>> levels_;         // present, rows
};

// A file that is being written. std::system_error if that fails; then it can only be destroyed. Without `finish` the
// file is not complete.
class ParquetFile {
 public:
  explicit ParquetFile(const std::string& path);
  ~ParquetFile();
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;

  // Writes the rows of the columns, as many of each and the same columns every time, and empties them.
  void write_group(std::span<ParquetColumn> columns);
  // Writes the end of the file, with `metadata` under `key`, to the disk, and closes it.
  void finish(std::span<const ParquetColumn> columns, std::string_view key, std::string_view metadata);

  std::size_t bytes() const { return place_; }
  std::size_t rows() const { return rows_; }

 private:
  struct Chunk;
  struct Group;

  void write(std::string_view bytes);
  Chunk write_column(const ParquetColumn& column);

  std::string path_;
  int descriptor_;
  std::size_t place_ = 0, rows_ = 0;
  std::vector<Group> groups_;
};
}  // namespace pygrade::inline v0_2::detail
