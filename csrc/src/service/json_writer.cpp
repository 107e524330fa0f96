#include "service/json_writer.hpp"

#include <algorithm>

#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {
JsonWriter& JsonWriter::value(std::string_view text) {
  separate();
  const auto plain = [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; };
  if (std::ranges::all_of(text, plain)) {
    out_.append("\"").append(text).append("\"");
    return *this;
  }
  try {
    out_ += json_quote(text);
  } catch (const JsonError&) {  // a path of the system may hold any bytes
    std::string ascii(text);
    std::ranges::replace_if(ascii, [](char c) { return c < 0x20 || c >= 0x7f; }, '?');
    out_ += json_quote(ascii);
  }
  return *this;
}
}  // namespace pygrade::inline v0_2::detail
