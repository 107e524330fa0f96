// Records of the exposure log into Parquet files.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "pygrade/exposures.hpp"
#include "serving/exposures_record.hpp"
#include "util/parquet.hpp"

namespace pygrade::inline v0_2::detail {
class ExposureWriter {
 public:
  struct Written {
    std::uint64_t requests = 0, rows = 0, files = 0, bytes = 0;
  };

  ExposureWriter(const std::filesystem::path& directory, const ExposureOptions& options);
  ~ExposureWriter();  // removes an unfinished file

  // They throw if the disk fails; then `give_up`.
  void add(std::byte* record);
  void check_time();  // writes what has waited long enough
  void finish_file();

  // Removes the file that could not be written. Returns the number of requests in it, with one that was being added.
  std::uint64_t give_up();

  const Written& written() const { return written_; }  // in complete files

 private:
  using Clock = std::chrono::steady_clock;

  void open(const ExposureSchema& schema);
  void write_group();
  void add_rows(const ExposureHead& head, const ExposureRecord& record);

  const std::filesystem::path directory_;
  const ExposureOptions options_;
  const std::string token_;  // of the process
  std::uint64_t number_ = 0;
  Written written_;

  // State of the file that is open, if there is one:
  std::unique_ptr<ParquetFile> file_;
  std::string name_;
  const ExposureSchema* schema_ = nullptr;
  std::vector<ParquetColumn> columns_;
  std::uint64_t requests_ = 0;
  bool adding_ = false;
  Clock::time_point file_start_, group_start_;
  std::vector<float> column_;           // one of a block of rows
  std::vector<std::int32_t> position_;  // of rows, -1: not shown
};
}  // namespace pygrade::inline v0_2::detail
