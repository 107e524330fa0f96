#include "util/artifact_record.hpp"

#include <string>

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

}  // namespace pygrade::inline v0_2::detail
