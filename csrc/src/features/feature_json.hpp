// Features as JSON: reading with the checks of pygrade.features.Feature, and writing as Python's json.dumps does.
#pragma once

#include <string>
#include <vector>

#include "features/schema.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {

// A number as Python writes a float: the shortest digits that give it back.
std::string number_text(double value);

// A JsonError that names the feature.
[[noreturn]] void refuse(const Feature& feature, const std::string& what);

// One feature; JsonError if it contradicts itself.
Feature read_feature(const Json& record);

// The list "features" of a schema; JsonError if one contradicts itself.
std::vector<Feature> read_features(const Json& record);

}  // namespace pygrade::inline v0_2::detail
