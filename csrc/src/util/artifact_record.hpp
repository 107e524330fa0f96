#pragma once

#include <string_view>

#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {

// The JSON document of an artifact: an object whose "format" is as given and whose "format_version" is 1, the only one
// that there is; else JsonError.
Json parse_artifact_record(std::string_view text, std::string_view format, const JsonLimits& limits = {});

}  // namespace pygrade::inline v0_2::detail
