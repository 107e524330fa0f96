// Reads the features of one request from a store; pygrade/features/feature.py specifies them.
#pragma once

#include "features/feature_maker.hpp"

namespace pygrade::inline v0_2::detail {
// One call of the center for a request.
class Reader : FeatureMaker {
 public:
  using Items = FeatureMaker::Items;

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
  void find_distinct(KeySet& keys);
  void take_records(StoreValues values, bool same);
  void make_defaults();
  void remember();

  FeatureCenter::Impl& center_;
  const Deadline& deadline_;

  bool user_unknown_ = false;  // the user's attributes are to be read, as are those of work_.unknown
  bool learned_user_ = false;  // now read, to be remembered; so are the candidates work_.learned
  std::shared_ptr<AttributeVersion> seen_;
};
}  // namespace pygrade::inline v0_2::detail
