#ifndef PYGRADE_HISTORY_H
#define PYGRADE_HISTORY_H
#include "pygrade/pygrade.h"
#ifdef __cplusplus
extern "C" {
#endif
typedef struct pygrade_history pygrade_history;
typedef struct pygrade_history_options {
  size_t size;
  const char* salt;
  double ttl;
  char* error;
  size_t error_size;
} pygrade_history_options;
PYGRADE_API pygrade_status pygrade_history_open(const char* store, const pygrade_policy* policy,
                                                const pygrade_history_options* options, pygrade_history** history);
PYGRADE_API pygrade_status pygrade_history_read(pygrade_history* history, const pygrade_request* request,
                                                const pygrade_log_ids* ids, float* context, float* items);
PYGRADE_API pygrade_status pygrade_history_add_exposures(pygrade_history* history, const pygrade_ranker* ranker,
                                                         const pygrade_request* request, const pygrade_page* page,
                                                         const pygrade_log_ids* ids, int32_t* taken);
typedef struct pygrade_history_event {
  size_t size;
  const char* user_id;
  size_t user_id_size;
  const char* request_id;
  size_t request_id_size;
  const char* task;
  int64_t item_id;
  int64_t timestamp;
} pygrade_history_event;
PYGRADE_API pygrade_status pygrade_history_add_feedback(pygrade_history* history, const pygrade_history_event* events,
                                                        size_t count, size_t* counted, char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_history_remove_user(pygrade_history* history, const char* user_id,
                                                       size_t user_id_size, char* error, size_t error_size);
PYGRADE_API void pygrade_history_close(pygrade_history* history);
#ifdef __cplusplus
}
#endif
#endif
