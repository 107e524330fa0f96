#include "util/artifact_record.hpp"

#include <span>

#include "util/sha256.hpp"

namespace pygrade::inline v0_2::detail {
Json parse_artifact_record(std::string_view text, std::string_view format, const JsonLimits& limits) {
  Json record = Json::parse(text, limits);
  if (record.type != Json::Type::object) throw JsonError("it holds no JSON object");
  const std::string& stated = record.string_at("format");
  const double version = record.finite_at("format_version");
  if (stated == format && version == 1.0) return record;
  throw JsonError("it is " + json_quote(stated) + " of version " + plain_number(version) + "; this pygrade reads " +
                  std::string(format) + " version 1" + (version > 1.0 ? ": it was made by a newer pygrade" : ""));
}

std::string section_hash(std::string_view text, std::string_view key) {
  const std::string head = "\n  \"" + std::string(key) + "\": {\n";
  const std::size_t begin = text.find(head), end = text.find("\n  }", begin == text.npos ? 0 : begin);
  if (begin == text.npos || end == text.npos)
    throw JsonError("'" + std::string(key) + "' is no object, or not as pygrade writes it");
  return sha256_hex(std::as_bytes(std::span(text.substr(begin, end + 4 - begin))));
}
}  // namespace pygrade::inline v0_2::detail
