// The numbers that a service counts, as series of Prometheus.
//
// A number is kept once for each of `shards` groups of threads, on cache lines of the group's own, so that threads do
// not wait for one another. All accesses are relaxed: nothing else is published through a number, each only grows by
// atomic additions, and a reader may see one of a moment ago beside one of now. The addresses of cells reach other
// threads with the models or the service that they belong to.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
// Series of one name and meaning.
struct Family {
  std::string_view name, type, help;  // type: counter, gauge or histogram
  std::string_view labels = {};       // their names, "endpoint,status"
};
std::span<const Family> all_families();  // in the order of /metrics

// {a="x",b="y"}, escaped; "" of none.
using Label = std::pair<std::string_view, std::string_view>;
std::string labels_of(std::initializer_list<Label> labels);

// Upper bounds of durations in seconds, six a decade; the last bin has none.
inline constexpr std::array<double, 36> duration_bounds{
    1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 7e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3,
    1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2, 7e-2, 1e-1, 1.5e-1, 2e-1, 3e-1, 5e-1, 7e-1, 1.0,  1.5,    2.0,  3.0,  5.0,  7.0};
inline constexpr std::size_t duration_bins = duration_bounds.size() + 1;

inline constexpr std::size_t shards = 16, chunk_cells = 512;
using CellBits = std::atomic<std::uint64_t>;

// The shard of this thread.
std::size_t own_shard();

// A number: an integer or a double, by how it was made.
class Cell {
 public:
  Cell() = default;

  void add(std::uint64_t count = 1) const { own().fetch_add(count, std::memory_order_relaxed); }
  void add_real(double amount) const {
    CellBits& bits = own();
    std::uint64_t before = bits.load(std::memory_order_relaxed);
    while (!bits.compare_exchange_weak(before, std::bit_cast<std::uint64_t>(std::bit_cast<double>(before) + amount),
                                       std::memory_order_relaxed)) {
    }
  }
  // Count of this thread's shard.
  std::uint64_t own_count() const { return own().load(std::memory_order_relaxed); }

  std::size_t index() const { return index_; }  // in what Registry::read gives

 private:
  friend class Registry;
  friend class Histogram;
  Cell(CellBits* first, std::size_t index) : first_(first), index_(index) {}
  CellBits& own() const { return first_[own_shard() * chunk_cells]; }
  Cell after(std::size_t count) const { return {first_ + count, index_ + count}; }

  CellBits* first_ = nullptr;  // of shard 0
  std::size_t index_ = 0;
};

// Durations: cells of `duration_bins`, then one of their sum.
class Histogram {
 public:
  static constexpr std::size_t cells = duration_bins + 1;

  Histogram() = default;
  void observe(double seconds) const;
  Cell bin(std::size_t number) const { return first_.after(number); }
  std::size_t index() const { return first_.index(); }

 private:
  friend class Registry;
  explicit Histogram(Cell first) : first_(first) {}
  Cell first_;
};

class Registry {
 public:
  // The series of a family and labels, made if there is none. std::logic_error if there is no such family. One that has
  // no room is counted nowhere, see left_out().
  Cell count(std::string_view family, const std::string& labels = "") { return cell(family, labels, false); }
  Cell real(std::string_view family, const std::string& labels = "") { return cell(family, labels, true); }
  Histogram histogram(std::string_view family, const std::string& labels);

  // All numbers by Cell::index(), summed over the shards.
  std::vector<double> read() const;

  // The series by the place of their family, then by labels.
  using Key = std::pair<std::size_t, std::string>;
  std::map<Key, std::size_t> series() const;  // with Cell::index()
  std::uint64_t left_out() const { return left_out_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t max_chunks = 128;
  struct alignas(64) Chunk {
    std::array<CellBits, shards * chunk_cells> bits{};  // [shard][cell]
    std::array<bool, chunk_cells> is_real{};
    std::size_t used = 0;
  };

  Cell cell(std::string_view family, const std::string& labels, bool is_real);
  Cell make(std::string_view family, const std::string& labels, std::size_t cells);

  mutable std::mutex mutex_;  // guards the following, but not the bits
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::map<Key, Cell> series_;
  Chunk nowhere_;
  std::atomic<std::uint64_t> left_out_{0};
};

// Figures that are computed when they are asked for, by the place of their family and labels.
class Figures {
 public:
  // std::logic_error if there is no such family.
  void set(std::string_view family, double value, std::initializer_list<Label> labels = {});
  const std::map<Registry::Key, double>& values() const& { return values_; }

 private:
  std::map<Registry::Key, double> values_;
};

// Memory, processor time, open files and start of this process, as far as the system tells.
void add_process_figures(Figures& figures);

// Series of one run.
struct Series {
  const Registry* registry = nullptr;  // null: figures alone
  std::vector<double> numbers = {};    // as registry->read() gave them
  Figures figures = {};
  std::string label = {};  // that all of them get: name="value"; "": none
};

// Prometheus text of all.
void write_prometheus(std::span<const Series> parts, std::string& out);
}  // namespace pygrade::inline v0_2::detail
