#include "head.hpp"

#include <algorithm>

namespace pygrade::inline v0_2::server {
std::optional<Refusal> check_head(std::string_view head) {
  constexpr std::string_view no_http = "the request is no HTTP/1.1: ";
  const auto bad = [&](std::string_view what) { return Refusal{400, "", std::string(no_http) + std::string(what)}; };
  std::size_t lines = 0;
  for (std::size_t begin = 0; begin < head.size(); ++lines) {
    const std::size_t end = head.find('\n', begin);
    if (end == head.npos || end == begin || head[end - 1] != '\r') return bad("a line ends without CR LF");
    const std::string_view line = head.substr(begin, end - 1 - begin);
    for (const char c : line)
      if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f || (lines == 0 && (c & 0x80) != 0))
        return bad("a control character or a byte above 126 in its head");
    if (lines > 0 && (line.starts_with(' ') || line.starts_with('\t'))) return bad("a continued header");
    begin = end + 1;
  }
  if (lines > max_headers + 2)  // the first line and the blank one
    return Refusal{
        431, "headers",
        "the request has " + std::to_string(lines - 2) + " headers; expected at most " + std::to_string(max_headers)};
  return {};
}

std::optional<Trace> trace_of(std::string_view traceparent) {
  const auto hex = [](std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  };
  if (traceparent.size() != 55 || !traceparent.starts_with("00-") || traceparent[35] != '-' || traceparent[52] != '-')
    return {};
  const std::string_view id = traceparent.substr(3, 32), span = traceparent.substr(36, 16),
                         flags = traceparent.substr(53);
  if (!hex(id) || !hex(span) || !hex(flags)) return {};
  if (id.find_first_not_of('0') == id.npos || span.find_first_not_of('0') == span.npos) return {};
  return Trace{id, flags};
}

bool printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}
}  // namespace pygrade::inline v0_2::server
