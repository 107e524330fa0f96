// The JSON documents of artifacts.
#pragma once

#include <string>
#include <string_view>

#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {
// An object whose "format" is as given and whose "format_version" is 1, the only one that there is; else JsonError.
Json parse_artifact_record(std::string_view text, std::string_view format, const JsonLimits& limits = {});

// The sha256 of an object of a JSON document that section_hash of pygrade/_util/serialization.py hashes when it is
// written: of the lines of one key of the document, as they are.
std::string section_hash(std::string_view text, std::string_view key);
}  // namespace pygrade::inline v0_2::detail
