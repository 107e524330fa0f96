// The C ABI of the exposure log.
#include "pygrade/exposures.h"
#include "pygrade/exposures.hpp"
#include "serving/c_abi.hpp"

using namespace pygrade;
using namespace pygrade::c_abi;

struct pygrade_log {
  explicit pygrade_log(const char* directory, const ExposureOptions& options)
      : arms(options.arms.size()), log(directory, options) {}

  const std::size_t arms;
  ExposureLog log;
};

namespace pygrade::inline v0_2::c_abi {
PYGRADE_STRUCT(pygrade_log_options, num_arms)
PYGRADE_STRUCT(pygrade_log_counters, errors)
}  // namespace pygrade::inline v0_2::c_abi

namespace {
ExposureOptions options_of(const pygrade_log_options* given) {
  ExposureOptions options;
  if (given == nullptr) return options;
  const auto known = read_struct(given, "options");
  require_flags("options.flags", known.flags, PYGRADE_LOG_SHARE);
  require_range("options.reserved", known.reserved, 0, 0);
  if (known.name != nullptr) options.name = known.name;
  if (known.flags & PYGRADE_LOG_SHARE) options.share = known.share;
  if (known.queue_bytes > 0) options.queue_bytes = known.queue_bytes;
  if (known.file_bytes > 0) options.file_bytes = known.file_bytes;
  if (known.file_time_ms > 0) options.file_time = std::chrono::milliseconds(known.file_time_ms);
  if (known.group_time_ms > 0) options.group_time = std::chrono::milliseconds(known.group_time_ms);
  if (known.group_rows > 0) options.group_rows = known.group_rows;
  if (known.group_bytes > 0) options.group_bytes = known.group_bytes;
  require(known.num_arms == 0 || (known.arms != nullptr && known.shares != nullptr),
          "options.arms or options.shares is NULL");
  for (std::size_t a = 0; a < known.num_arms; ++a)
    options.arms.push_back({known.arms[a] == nullptr ? "" : known.arms[a], known.shares[a]});
  return options;
}
}  // namespace

extern "C" {

pygrade_status pygrade_log_open(const char* directory, const pygrade_log_options* options, pygrade_log** log) {
  return guarded(error_of(options), [&] {
    require(directory != nullptr && log != nullptr, "directory or log is NULL");
    *log = new pygrade_log(directory, options_of(options));
  });
}

pygrade_status pygrade_log_append(pygrade_log* log, const pygrade_ranker* ranker, const pygrade_request* request,
                                  const pygrade_page* page, const pygrade_log_ids* ids, uint32_t wait_us,
                                  int32_t* taken) {
  return pygrade_log_append_test(log, ranker, request, page, nullptr, ids, wait_us, taken);
}

pygrade_status pygrade_log_append_test(pygrade_log* log, const pygrade_ranker* ranker, const pygrade_request* request,
                                       const pygrade_page* page, const pygrade_page* const* arms,
                                       const pygrade_log_ids* ids, uint32_t wait_us, int32_t* taken) {
  return guarded(error_of(request), [&] {
    require(log != nullptr, "log is NULL");
    std::vector<ExposurePage> pages(arms == nullptr ? 0 : log->arms);
    for (std::size_t a = 0; a < pages.size(); ++a) {
      if (arms[a] == nullptr) continue;
      const auto other = read_struct(arms[a], "arms[" + std::to_string(a) + "]");
      require(other.indices != nullptr && other.filled >= 0 && static_cast<std::size_t>(other.filled) <= other.k,
              "an arm's page has no indices, or filled is not in 0 … k");
      pages[a].indices = {other.indices, static_cast<std::size_t>(other.filled)};
    }
    const auto append = [&](const Policy& policy, const Request& asked, const PageBuffer& buffer, const Page& ranked,
                            const LogIds& known) {
      const bool done =
          log->log.append(policy, asked, buffer, ranked, known, std::chrono::microseconds(wait_us), pages);
      if (taken != nullptr) *taken = done;
    };
    with_page(ranker, request, page, ids, append);
  });
}

pygrade_status pygrade_log_flush(pygrade_log* log, char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(log != nullptr, "log is NULL");
    log->log.flush();
  });
}

pygrade_status pygrade_log_count(const pygrade_log* log, pygrade_log_counters* counters, char* error,
                                 size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(log != nullptr, "log is NULL");
    auto known = read_struct(counters, "counters");
    const ExposureCounters now = log->log.counters();
    known = {known.size, now.requests, now.complete, now.dropped, now.waited,
             now.lost,   now.rows,     now.files,    now.bytes,   now.errors};
    write_struct(known, counters);
  });
}

pygrade_status pygrade_log_disk_error(const pygrade_log* log, char* text, size_t capacity, size_t* length, char* error,
                                      size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(log != nullptr, "log is NULL");
    require(length != nullptr && (text != nullptr || capacity == 0), "text or length is NULL");
    write_text(log->log.last_error(), text, capacity, length);
  });
}

void pygrade_log_close(pygrade_log* log) { delete log; }

}  // extern "C"
