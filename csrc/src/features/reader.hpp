// Reads the features of one request; pygrade/features/{chunks,compute}.py say what they are.
#pragma once

#include "features/center.hpp"
#include "util/fpenv.hpp"

namespace pygrade::inline v0_2::detail {

// One call of the center for a request.
class Reader {
 public:
  using Items = std::span<const std::int64_t>;

  Reader(FeatureCenter::Impl& center, FeatureBuffer& buffer, Items items, const Deadline& deadline);

  // Takes a request in. SchemaError for context that does not fit, and then the buffer is as it was.
  void begin(const FeatureRequest& request);

  // Fills the buffer, by defaults if the store fails or, `known` being false, failed before.
  void run(bool known);

 private:
  void ask();
  void recall(bool same);
  bool ask_early();
  void take_attributes(StoreValues& values, bool users, bool items);
  void make_keys(const TablePlan& table, KeySet& keys);
  std::int64_t code_of(const CodeSource& source, std::size_t row) const;
  void find_distinct(KeySet& keys);
  void take_records(StoreValues values, bool same);
  void make_defaults();
  template <class Record>
  void make_request(const Record& record_of);
  void begin_items();
  void make_table(std::size_t table, const char* const* records, std::size_t count, float* out, std::size_t width,
                  const std::uint32_t* place, std::size_t rows);
  void make_items(std::size_t table, const KeySet& keys);
  void remember();

  std::int64_t* item_row(std::size_t row) const { return work_.item_rows.data() + row * plan_.items.width(); }

  FeatureCenter::Impl& center_;
  const Plan& plan_;
  const FeatureKernels& kernels_;
  FeatureBuffer& buffer_;
  FeatureBuffer::Work& work_;
  const Items items_;
  const Deadline& deadline_;
  const FloatEnvironment environment_;

  bool user_unknown_ = false;  // his attributes are to be read
  std::size_t unknown_ = 0;    // so are those of so many candidates: work_.unknown
  bool learned_user_ = false;  // now read, to be remembered; so are the candidates work_.learned
  bool absent_user_ = false;   // the store lacks him, and work_.absent_ids
  const AttributeVersion* seen_ = nullptr;
};

}  // namespace pygrade::inline v0_2::detail
