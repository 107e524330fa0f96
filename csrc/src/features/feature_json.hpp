// Features as JSON: pygrade.features.Feature's checks.
#pragma once

#include <string>
#include <vector>

#include "features/schema.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {
// A JsonError that names the feature.
[[noreturn]] void refuse(const Feature& feature, const std::string& what);

// One feature; JsonError if it contradicts itself.
Feature read_feature(const Json& record);

// The list "features" of a schema; JsonError if one contradicts itself.
std::vector<Feature> read_features(const Json& record);
}  // namespace pygrade::inline v0_2::detail
