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
  using Type = Json::Type;
  if (value.type == Type::null) out.null();
  if (value.type == Type::boolean) out.value(value.boolean);
  if (value.type == Type::number) value.whole ? out.value(value.integer) : out.value(value.number);
  if (value.type == Type::string) out.value(value.string);
  if (value.type == Type::array) {
    out.begin_list();
    for (const Json& item : value.items) write_json(item, out);
    out.end_list();
  }
  if (value.type == Type::object) {
    out.begin_object();
    for (std::size_t i = 0; i < value.items.size(); ++i) write_json(value.items[i], out.key(value.keys[i]));
    out.end_object();
  }
}

}  // namespace pygrade::inline v0_2::detail
