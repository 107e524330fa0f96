#pragma once

#include <string>
#include <string_view>

#include "util/json.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2::detail {

// The sha256 of an object of a JSON document that section_hash of pygrade/_util/serialization.py hashes when it is
// written: of the lines of one key of the document, as they are.
inline std::string section_hash(std::string_view text, std::string_view key) {
  const std::string head = "\n  \"" + std::string(key) + "\": {\n";
  const std::size_t begin = text.find(head), end = text.find("\n  }", begin == text.npos ? 0 : begin);
  if (begin == text.npos || end == text.npos)
    throw JsonError("'" + std::string(key) + "' is no object, or not as pygrade writes it");
  return sha256_hex(std::as_bytes(std::span(text.substr(begin, end + 4 - begin))));
}

}  // namespace pygrade::inline v0_2::detail
