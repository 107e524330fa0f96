#ifndef PYGRADE_EXPOSURES_H
#define PYGRADE_EXPOSURES_H
#include "pygrade/pygrade.h"
#ifdef __cplusplus
extern "C" {
#endif
typedef struct pygrade_log pygrade_log;
enum { PYGRADE_LOG_SHARE = 1 };
typedef struct pygrade_log_options {
  size_t size;
  const char* name;
  double share;
  uint64_t queue_bytes;
  uint64_t file_bytes;
  uint32_t file_time_ms;
  uint32_t group_time_ms;
  uint64_t group_rows;
  uint64_t group_bytes;
  uint32_t flags;
  uint32_t reserved;
  char* error;
  size_t error_size;
  const char* const* arms;
  const float* shares;
  size_t num_arms;
} pygrade_log_options;
PYGRADE_API pygrade_status pygrade_log_open(const char* directory, const pygrade_log_options* options,
                                            pygrade_log** log);
PYGRADE_API pygrade_status pygrade_log_append(pygrade_log* log, const pygrade_ranker* ranker,
                                              const pygrade_request* request, const pygrade_page* page,
                                              const pygrade_log_ids* ids, uint32_t wait_us, int32_t* taken);
PYGRADE_API pygrade_status pygrade_log_append_test(pygrade_log* log, const pygrade_ranker* ranker,
                                                   const pygrade_request* request, const pygrade_page* page,
                                                   const pygrade_page* const* arms, const pygrade_log_ids* ids,
                                                   uint32_t wait_us, int32_t* taken);
PYGRADE_API pygrade_status pygrade_log_flush(pygrade_log* log, char* error, size_t error_size);
typedef struct pygrade_log_counters {
  size_t size;
  uint64_t requests;
  uint64_t complete;
  uint64_t dropped;
  uint64_t waited;
  uint64_t lost;
  uint64_t rows;
  uint64_t files;
  uint64_t bytes;
  uint64_t errors;
} pygrade_log_counters;
PYGRADE_API pygrade_status pygrade_log_count(const pygrade_log* log, pygrade_log_counters* counters, char* error,
                                             size_t error_size);
PYGRADE_API pygrade_status pygrade_log_disk_error(const pygrade_log* log, char* text, size_t capacity, size_t* length,
                                                  char* error, size_t error_size);
PYGRADE_API void pygrade_log_close(pygrade_log* log);
#ifdef __cplusplus
}
#endif
#endif
