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

void write_json(const Json& value, JsonWriter& out) {
  switch (value.type) {
    case Json::Type::null:
      out.null();
      break;
    case Json::Type::boolean:
      out.value(value.boolean);
      break;
    case Json::Type::number:
      if (value.whole)
        out.value(value.integer);
      else
        out.value(value.number);
      break;
    case Json::Type::string:
      out.value(std::string_view(value.string));
      break;
    case Json::Type::array:
      out.begin_list();
      for (const Json& item : value.items) write_json(item, out);
      out.end_list();
      break;
    case Json::Type::object:
      out.begin_object();
      for (std::size_t i = 0; i < value.items.size(); ++i) write_json(value.items[i], out.key(value.keys[i]));
      out.end_object();
      break;
  }
}

}  // namespace pygrade::inline v0_2::detail
