/* The C ABI of histories in a store: what users were shown and did, and what items earned, as inputs of a policy that
 * reads them. Plain C (C90 with <stdint.h>). pygrade.h has the rules that these functions keep: sizes of structs,
 * errors, threads; history_store.hpp says what a process that is killed loses.
 *
 *   pygrade_history* history;
 *   pygrade_history_open("lmdb:history", policy, NULL, &history);
 *   ... pygrade_history_read(history, &request, &ids, context, items) fills in columns of request.context and .items,
 *   ... after pygrade_ranker_rank: pygrade_history_add_exposures(history, ranker, &request, &page, &ids, &taken)
 *   ... with feedback: pygrade_history_add_feedback(history, events, count, &counted, error, sizeof error)
 *   pygrade_history_close(history); */
#ifndef PYGRADE_HISTORY_H
#define PYGRADE_HISTORY_H

#include "pygrade/pygrade.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pygrade_history pygrade_history; /* opaque */

typedef struct pygrade_history_options {
  size_t size;      /* sizeof(pygrade_history_options) */
  const char* salt; /* of the hash by which users are stored, closed with a 0; NULL: "pygrade" */
  double ttl;       /* seconds that a record lives without a write; 0: for ever */
  char* error;      /* [error_size] for the text of an error, or NULL */
  size_t error_size;
} pygrade_history_options;

/* The histories that a policy reads, in a store of their own (store.hpp has the addresses), which is made if there is
 * none. A policy trained anew goes on with them if its tasks, delay and half-life are the same. `options` may be
 * NULL. PYGRADE_INVALID_ARGUMENT for a policy that reads none. */
PYGRADE_API pygrade_status pygrade_history_open(const char* store, const pygrade_policy* policy,
                                                const pygrade_history_options* options, pygrade_history** history);

/* Fills in the columns of history of a request by ids->user_id, item_id and timestamp: in context[features], and in
 * items[candidates, item_columns], both as the policy has them; other columns stay. `request` gives candidates and
 * categories. PYGRADE_STORE_FAILED if they are not there: rank by a policy that reads none then, not by zeros. */
PYGRADE_API pygrade_status pygrade_history_read(pygrade_history* history, const pygrade_request* request,
                                                const pygrade_log_ids* ids, float* context, float* items);

/* Takes what a page showed, as pygrade_log_append, with a timestamp; it is written within moments. The first page of a
 * request_id counts. `*taken` (or NULL) becomes 1, or 0 if the queue was full. */
PYGRADE_API pygrade_status pygrade_history_add_exposures(pygrade_history* history, const pygrade_ranker* ranker,
                                                         const pygrade_request* request, const pygrade_page* page,
                                                         const pygrade_log_ids* ids, int32_t* taken);

typedef struct pygrade_history_event {
  size_t size;            /* sizeof(pygrade_history_event) */
  const char* user_id;    /* UTF-8 */
  size_t user_id_size;    /* bytes */
  const char* request_id; /* UTF-8, of the page that showed the item */
  size_t request_id_size; /* bytes */
  const char* task;       /* of the policy, closed with a 0; one that the history does not count is no error */
  int64_t item_id;
  int64_t timestamp; /* ms since 1970 */
} pygrade_history_event;
/* Writes feedback, after all pages that were taken before. Each event counts once, however often it is sent; `*counted`
 * (or NULL): how many did. The structs have the same `size`, which is also their distance. */
PYGRADE_API pygrade_status pygrade_history_add_feedback(pygrade_history* history, const pygrade_history_event* events,
                                                        size_t count, size_t* counted, char* error, size_t error_size);

/* Removes a user's records. */
PYGRADE_API pygrade_status pygrade_history_remove_user(pygrade_history* history, const char* user_id,
                                                       size_t user_id_size, char* error, size_t error_size);

/* Writes what was taken, and frees the history, alone and last. NULL is fine. */
PYGRADE_API void pygrade_history_close(pygrade_history* history);

#ifdef __cplusplus
}
#endif

#endif
