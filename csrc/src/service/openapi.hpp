// The interface as a document, and as a page for people.
#pragma once

#include <string>

namespace pygrade::inline v0_2::detail {
// OpenAPI 3.1 as JSON, made of api.hpp. Beside the schemas of requests and answers it has those of the configuration
// (Options, Arm, …), and under the endpoint /metrics, as x-metrics, all families of series.
std::string openapi_document();

// HTML that shows the document; it loads nothing.
std::string docs_page();
}  // namespace pygrade::inline v0_2::detail
