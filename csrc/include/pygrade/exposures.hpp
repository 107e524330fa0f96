// Log of what was shown, as Parquet files for training and off-policy estimates, written by a thread in the background.
//
// `append` copies a request into a queue of fixed size and returns; a slow or full disk costs entries of the log, which
// are counted, and never a request. Files appear under their names when they are complete: a process that is killed
// leaves the last one unfinished as a hidden file. The columns are those of append_log_rows (ranker.hpp), and two more:
//
//     candidates   how many candidates the request has in a full log
//     share        the share of all requests that are logged in full
//
// `arm` if ExposureOptions names one, `production_score` from the first request on that has them (null of those that
// have none), and, if ExposureOptions::arms are those of a test, for each of them
//
//     slot_<arm>   the candidate's place on the page of this arm, null: it is not on it
//     share_<arm>  the arm's share of the traffic; NaN: the arm could not rank the request
//
// A request is then logged in full, or with the rows of any arm's page.
//
// Without a test it is logged in full, or with its shown rows alone: which one follows from a hash of its id, so it
// does not depend on what happened. Requests in full are thus a fair sample of all. Training and estimates read them
// alone (pygrade.Logs.complete), since the policy's inputs depend on all candidates; counts of what was shown read all.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2 {
// An arm of a test, in which all arms rank each request.
struct ExposureArm {
  std::string name;
  float share;  // of the traffic, 0 to 1
};

// The page of an arm for a request, as it is without exploration.
struct ExposurePage {
  std::span<const std::int32_t> indices = {};  // candidates, best first; without data: the arm could not rank them
  const Policy* policy = nullptr;              // the log then has what it reads of the items, too
  std::span<const float> items = {};           // [N, I] item columns of this policy; or none
};

struct ExposureOptions {
  double share = 0.05;                              // of the requests that are logged in full, 0 to 1
  std::string name = "exposures";                   // of the files: <name>-<ms since 1970>-<token>-<number>.parquet
  std::size_t queue_bytes = std::size_t{32} << 20;  // of the queue; a request in full takes about 4 (T + 2) N
  std::string arm = {};                             // that the pages are of, a column; "": none
  std::vector<ExposureArm> arms = {};               // of a test
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
  explicit ExposureLog(const std::string& directory, const ExposureOptions& options = {});
  // As close().
  ~ExposureLog();
  ExposureLog(const ExposureLog&) = delete;
  ExposureLog& operator=(const ExposureLog&) = delete;

  // Takes a request and its page, as append_log_rows, from any number of threads. If the queue is full it waits for
  // room at most `wait`. False if the request was dropped.
  // `arms`: of a test, one for each of ExposureOptions::arms.
  // std::invalid_argument for sizes that do not fit and for an empty request_id, by which feedback is joined.
  bool append(const Policy& policy, const Request& request, const PageBuffer& buffer, const Page& page,
              const LogIds& ids, std::chrono::microseconds wait = {}, std::span<const ExposurePage> arms = {});

  // Returns when everything taken before is in complete files, or lost.
  void flush();
  // Flushes, and ends the thread; later requests are dropped.
  void close();

  // Whether a request of this id is logged in full.
  bool in_full(std::string_view request_id) const;

  ExposureCounters counters() const;
  std::string last_error() const;  // of the disk; "" if there was none

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2
