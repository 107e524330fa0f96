// Counters of all workers of a service: each maps a file of its own, and any of them sums all files.
//
// A file has a header and `capacity` series of a name and a number, which only its worker changes. A worker holds a
// lock on its file as long as it lives. The files of workers that are gone are summed into one, `retired`, so that
// counters never fall; it says which files it holds, so that none is counted twice, whenever a process dies.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace pygrade::detail {

// A number that threads add to. The bits of a double, or an integer.
class Cell {
 public:
  explicit Cell(std::atomic<std::uint64_t>* bits) : bits_(bits) {}
  Cell() = default;

  void add(std::uint64_t count = 1) const { bits_->fetch_add(count, std::memory_order_relaxed); }
  void set(std::uint64_t count) const { bits_->store(count, std::memory_order_relaxed); }
  std::uint64_t count() const { return bits_->load(std::memory_order_relaxed); }

  void add_real(double amount) const;

 private:
  std::atomic<std::uint64_t>* bits_ = nullptr;
};

using Sums = std::map<std::string, double, std::less<>>;

class MetricFile {
 public:
  // Without a directory the series are of this process alone. std::filesystem::filesystem_error or std::system_error if
  // there can be no file.
  explicit MetricFile(const std::optional<std::filesystem::path>& directory);
  ~MetricFile();
  MetricFile(const MetricFile&) = delete;
  MetricFile& operator=(const MetricFile&) = delete;

  // The series of a name, made if there is none. One that has no room is counted nowhere, see `left_out`.
  Cell count(const std::string& name) { return series(name, false); }
  Cell real(const std::string& name) { return series(name, true); }

  std::uint64_t left_out() const { return left_out_.load(std::memory_order_relaxed); }

  // The sums over all workers, also those that are gone, and how many are alive.
  struct Read {
    Sums sums;
    int workers = 0;
  };
  Read read() const;

 private:
  struct Header;
  struct Series;

  Cell series(const std::string& name, bool real);
  void retire_others() const;

  std::optional<std::filesystem::path> directory_;
  std::string name_;
  int descriptor_ = -1;
  void* memory_ = nullptr;
  std::mutex mutex_;  // guards places_
  std::map<std::string, std::uint32_t, std::less<>> places_;
  std::atomic<std::uint64_t> left_out_{0};
  std::atomic<std::uint64_t> nowhere_{0};
};

}  // namespace pygrade::detail
