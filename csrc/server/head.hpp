// Checks of a request's head and an answer's, in text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pygrade::inline v0_2::server {
inline constexpr std::size_t max_head_bytes = std::size_t{64} << 10, max_headers = 100, max_request_id = 256;

// An answer that the server gives without the service.
struct Refusal {
  int status;
  std::string_view argument;
  std::string message;
};

// Whether a whole head, its final blank line included, is within the limits and free of what programs read in two ways:
// bare CR or LF, NUL and other control characters, continued lines.
std::optional<Refusal> check_head(std::string_view head);

// The ids in a header traceparent, 00-TRACE-SPAN-FLAGS in lower-case hexadecimal digits; {} if it is none.
struct Trace {
  std::string_view id, flags;
};
std::optional<Trace> trace_of(std::string_view traceparent);

// Whether a text can stand in a header: printable ASCII.
bool printable(std::string_view text);
}  // namespace pygrade::inline v0_2::server
