/* The C ABI of the exposure log: what was shown, as Parquet files that a thread writes in the background. Plain C (C90
 * with <stdint.h>). pygrade.h has the rules that these functions keep: sizes of structs, errors, threads;
 * exposures.hpp says what is logged.
 *
 *   pygrade_log* log;
 *   pygrade_log_open("logs", NULL, &log);
 *   ... after pygrade_ranker_rank: pygrade_log_append(log, ranker, &request, &page, &ids, 0, &taken)
 *   pygrade_log_close(log); */
#ifndef PYGRADE_EXPOSURES_H
#define PYGRADE_EXPOSURES_H

#include "pygrade/pygrade.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pygrade_log pygrade_log; /* opaque */

enum { PYGRADE_LOG_SHARE = 1 /* flags: take `share` */ };
typedef struct pygrade_log_options {
  size_t size;            /* sizeof(pygrade_log_options) */
  const char* name;       /* of the files: <name>-….parquet, closed with a 0; NULL: "exposures" */
  double share;           /* of the requests that are logged in full, 0 to 1, with PYGRADE_LOG_SHARE; else 0.05 */
  uint64_t queue_bytes;   /* 0, here and below: what exposures.hpp says */
  uint64_t file_bytes;    /* of a file, at which it is complete */
  uint32_t file_time_ms;  /* after which it is */
  uint32_t group_time_ms; /* after which rows go to the disk */
  uint64_t group_rows;    /* at which they do */
  uint64_t group_bytes;   /* of memory, at which they do */
  uint32_t flags;         /* PYGRADE_LOG_SHARE */
  uint32_t reserved;      /* 0 */
  char* error;            /* [error_size] for the text of an error, or NULL */
  size_t error_size;
  /* Arms of a test, which all rank each request; or NULL. Shares that change need another log. */
  const char* const* arms; /* [num_arms] names, closed with a 0: columns slot_<name> and share_<name> */
  const float* shares;     /* [num_arms] of the traffic, 0 to 1 */
  size_t num_arms;
} pygrade_log_options;

/* Makes the directory if there is none. `options` may be NULL. */
PYGRADE_API pygrade_status pygrade_log_open(const char* directory, const pygrade_log_options* options,
                                            pygrade_log** log);

/* Takes a request and its page, as pygrade_ranker_log_rows, with an id that is not empty. If the queue is full it waits
 * for room, at most so many microseconds. `*taken` (or NULL) becomes 1, or 0 if the request was dropped, which is no
 * error. */
PYGRADE_API pygrade_status pygrade_log_append(pygrade_log* log, const pygrade_ranker* ranker,
                                              const pygrade_request* request, const pygrade_page* page,
                                              const pygrade_log_ids* ids, uint32_t wait_us, int32_t* taken);

/* As pygrade_log_append, of a log with arms: `arms` [num_arms] are their pages of the request, by pygrade_ranker_rank
 * without PYGRADE_REQUEST_EXPLORE; NULL: the arm could not rank it. */
PYGRADE_API pygrade_status pygrade_log_append_test(pygrade_log* log, const pygrade_ranker* ranker,
                                                   const pygrade_request* request, const pygrade_page* page,
                                                   const pygrade_page* const* arms, const pygrade_log_ids* ids,
                                                   uint32_t wait_us, int32_t* taken);

/* Returns when everything that was taken before is in complete files, or lost. */
PYGRADE_API pygrade_status pygrade_log_flush(pygrade_log* log, char* error, size_t error_size);

typedef struct pygrade_log_counters {
  size_t size;       /* sizeof(pygrade_log_counters) */
  uint64_t requests; /* that were taken */
  uint64_t complete; /* of these, in full */
  uint64_t dropped;  /* that found the queue full */
  uint64_t waited;   /* that waited for room */
  uint64_t lost;     /* that were taken and could not be written */
  uint64_t rows;     /* in complete files, as the following */
  uint64_t files;
  uint64_t bytes;
  uint64_t errors; /* of the disk */
} pygrade_log_counters;
PYGRADE_API pygrade_status pygrade_log_count(const pygrade_log* log, pygrade_log_counters* counters, char* error,
                                             size_t error_size);

/* The text of the last error of the disk, "" if there was none; as pygrade_ranker_log_rows writes texts. */
PYGRADE_API pygrade_status pygrade_log_disk_error(const pygrade_log* log, char* text, size_t capacity, size_t* length,
                                                  char* error, size_t error_size);

/* Flushes, ends the thread and frees the log, alone and last. NULL is fine. */
PYGRADE_API void pygrade_log_close(pygrade_log* log);

#ifdef __cplusplus
}
#endif

#endif
