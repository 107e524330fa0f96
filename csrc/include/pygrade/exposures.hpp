// Log of what was shown, as Parquet files for training and off-policy estimates, written by a thread in the background.
//
// `append` copies a request into a queue of fixed size and returns; a slow or full disk costs entries of the log, which
// are counted, and never a request. Files appear under their names when they are complete: a process that is killed
// leaves the last one unfinished as a hidden file. The columns are those of append_log_rows (ranker.hpp), and two more:
//
//     candidates   how many candidates the request has in a full log
//     share        the share of all requests that are logged in full
//
// and `arm` if ExposureOptions names one.
//
// A request is logged in full, or with its shown rows alone: which one follows from a hash of its id, so it does not
// depend on what happened. Requests in full are thus a fair sample of all. Training and estimates read them alone
// (pygrade.Logs.complete), since the policy's inputs depend on all candidates; counts of what was shown read all.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "pygrade/export.h"
#include "pygrade/policy.hpp"
#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2 {

struct ExposureOptions {
  double share = 0.05;                              // of the requests that are logged in full, 0 to 1
  std::string name = "exposures";                   // of the files: <name>-<ms since 1970>-<token>-<number>.parquet
  std::size_t queue_bytes = std::size_t{32} << 20;  // of the queue; a request in full takes about 4 (T + 2) N
  std::string arm = {};                             // of an A/B test, a column; "": none
  // A file is complete at the first of these, and a row group of it.
  std::size_t file_bytes = std::size_t{256} << 20;
  std::chrono::milliseconds file_time{300'000};
  std::size_t group_rows = 100'000;
  std::size_t group_bytes = std::size_t{16} << 20;
  std::chrono::milliseconds group_time{60'000};
};

struct ExposureCounters {
  std::uint64_t requests = 0;  // that were taken
  std::uint64_t complete = 0;  // of these, in full
  std::uint64_t dropped = 0;   // that found the queue full
  std::uint64_t waited = 0;    // that waited for room
  std::uint64_t lost = 0;      // that were taken and could not be written
  std::uint64_t rows = 0;      // in complete files, as the following
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint64_t errors = 0;  // of the disk
};

class PYGRADE_API ExposureLog {
 public:
  // Makes the directory and starts the thread. std::invalid_argument for options out of range,
  // std::filesystem::filesystem_error if there can be no directory.
  explicit ExposureLog(const std::filesystem::path& directory, const ExposureOptions& options = {});
  // As close().
  ~ExposureLog();
  ExposureLog(const ExposureLog&) = delete;
  ExposureLog& operator=(const ExposureLog&) = delete;

  // Takes a request and its page, as append_log_rows, from any number of threads. If the queue is full it waits for
  // room at most `wait`. False if the request was dropped.
  // std::invalid_argument for sizes that do not fit and for an empty request_id, by which feedback is joined.
  bool append(const Policy& policy, const Request& request, const PageBuffer& buffer, const Page& page,
              const LogIds& ids, std::chrono::microseconds wait = {});

  // Returns when everything taken before is in complete files, or lost.
  void flush();
  // Flushes, and ends the thread; later requests are dropped.
  void close();

  // True if a request of this id is logged in full.
  bool in_full(std::string_view request_id) const;

  ExposureCounters counters() const;
  std::string last_error() const;  // of the disk; "" if there was none

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pygrade::inline v0_2
