// Makes the features of one request from its attributes and the records of its keys, wherever these come from: a store
// (Reader) or memory (LogReader).
#pragma once

#include "features/center.hpp"
#include "util/fpenv.hpp"

namespace pygrade::inline v0_2::detail {
class FeatureMaker {
 public:
  using Items = std::span<const std::int64_t>;

  FeatureMaker(const Plan& plan, FeatureBuffer& buffer, Items items);

  // Makes room for the request and its rows.
  void resize();

  // The features of the request, and the means that others are shrunk to. work.request_records has a record of each
  // table that a request asks once.
  void make_request();

  // Makes what attributes alone give of the rows, from work.item_rows.
  void begin_items();
  // Makes what the records work.pointers of a table give of the rows: row i has that at place[i], or at i.
  void make_items(std::size_t table, const std::uint32_t* place);

  std::int64_t* item_row(std::size_t row) const { return work_.item_rows.data() + row * plan_.items.width(); }
  Codes request_codes() const {
    return {work_.user_id, 0, work_.scenario, work_.codes.data(), work_.user_row.data(), nullptr};
  }
  Codes codes(std::size_t row) const {
    return {work_.user_id, items_[row], work_.scenario, work_.codes.data(), work_.user_row.data(), item_row(row)};
  }

 protected:
  const Plan& plan_;
  const FeatureKernels& kernels_;
  FeatureBuffer& buffer_;
  FeatureBuffer::Work& work_;
  const Items items_;
  const FloatEnvironment environment_;

 private:
  void make_table(std::size_t table, const char* const* records, std::size_t count, float* out, std::size_t width,
                  const std::uint32_t* place, std::size_t rows);
};
}  // namespace pygrade::inline v0_2::detail
