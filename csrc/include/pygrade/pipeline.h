/* The C ABI of the whole page: features of a user from a store, candidates, predictions, fusion weights, ranking. Plain
 * C (C90 with <stdint.h>). pygrade.h has the rules that these functions keep: sizes of structs, errors, threads.
 *
 *   pygrade_pipeline* pipeline;
 *   pygrade_pipeline_load("runs/shop/artifact", "lmdb:runs/shop/store", NULL, &pipeline);
 *   ... per request: pygrade_pipeline_rank(pipeline, &request, &page), from any number of threads
 *   ... feedback: pygrade_pipeline_update(pipeline, &events)
 *   pygrade_pipeline_free(pipeline); */
#ifndef PYGRADE_PIPELINE_H
#define PYGRADE_PIPELINE_H

#include "pygrade/pygrade.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pygrade_pipeline pygrade_pipeline;   /* opaque */
typedef struct pygrade_workspace pygrade_workspace; /* opaque */

/* The inputs of a model for n candidates of one request, in the order of the artifact's multi-task model. */
typedef struct pygrade_model_rows {
  size_t size;                /* sizeof(pygrade_model_rows) */
  size_t rows;                /* n */
  size_t request_dense_size;  /* Du */
  size_t request_ids_size;    /* Fu */
  size_t dense_size;          /* D of each row */
  size_t ids_size;            /* F of each row */
  const float* request_dense; /* [Du] normalized */
  const int64_t* request_ids; /* [Fu] */
  const float* dense;         /* [n, D] normalized */
  const int64_t* ids;         /* [n, F] */
  const int64_t* item_ids;    /* [n] */
  int64_t user_id;            /* of the request */
  int64_t timestamp;          /* of the request, ms since 1970 */
  int32_t known_user;         /* 0: for an unknown user; user_id and timestamp mean nothing */
  int32_t reserved;           /* 0 */
  size_t first;               /* place of the first row among the request's candidates */
  void* user_data;            /* of the request; NULL for an unknown user */
} pygrade_model_rows;

/* A model of the caller's: rows → probabilities [n, tasks], NaN if unknown. Not 0: the request fails. Called by many
   threads at once, and once for each artifact, for an unknown user. */
typedef int (*pygrade_predict)(void* user, const pygrade_model_rows* rows, float* probabilities);

enum {
  PYGRADE_PIPELINE_SEED = 1, /* flags: take `seed`; otherwise the operating system gives one */
  PYGRADE_PIPELINE_TTL = 2,  /* flags: take `ttl`; otherwise histories live for ever */
  /* flags: read the store's current version, whatever it is; otherwise the one that was filled for the artifact */
  PYGRADE_PIPELINE_ANY_VERSION = 4,
  PYGRADE_PIPELINE_READ_ONLY = 8,        /* flags: open the store so that updates fail */
  PYGRADE_PIPELINE_NO_ITEM_FEATURES = 16 /* flags: `predict` needs none: dense_size and ids_size are 0, none is read */
};
typedef struct pygrade_pipeline_options {
  size_t size;               /* sizeof(pygrade_pipeline_options) */
  uint32_t flags;            /* PYGRADE_PIPELINE_… */
  uint32_t seed;             /* of the exploration, below 2^31 */
  double ttl;                /* seconds that a history lives without an event */
  size_t cache;              /* items and users whose attributes are remembered, at most; 0: a million */
  uint32_t store_timeout_ms; /* of Redis; 0: 100 */
  uint32_t reserved;         /* 0 */
  pygrade_predict predict;   /* in place of the artifact's model; NULL: the artifact's, or requests' predictions */
  void* user;                /* the first argument of `predict` */
  char* error;               /* [error_size] for the text of an error, or NULL */
  size_t error_size;
} pygrade_pipeline_options;

/* Serves the artifact of `pygrade pipeline` in a directory over a store, "lmdb:<directory>" or "redis://…". `options`
 * may be NULL. PYGRADE_STORE_FAILED if the store does not answer or this library was built without the library for it.
 */
PYGRADE_API pygrade_status pygrade_pipeline_load(const char* artifact, const char* store,
                                                 const pygrade_pipeline_options* options, pygrade_pipeline** pipeline);

/* A file of an artifact: its path below the artifact's directory, for example "policy/policy.json", and its content. */
typedef struct pygrade_file {
  const char* path;
  const void* content;
  size_t content_size; /* bytes */
} pygrade_file;
/* Loads from the content of manifest.json and of the files that it names. */
PYGRADE_API pygrade_status pygrade_pipeline_create(const pygrade_file* files, size_t count, const char* store,
                                                   const pygrade_pipeline_options* options,
                                                   pygrade_pipeline** pipeline);

/* Serve another artifact, also while other threads rank: all its models and its version of the store in one step.
 * Returns when no request uses the one before, and frees it; no request waits. PYGRADE_BAD_ARTIFACT if the store does
 * not hold its version, unless PYGRADE_PIPELINE_ANY_VERSION. */
PYGRADE_API pygrade_status pygrade_pipeline_reload(pygrade_pipeline* pipeline, const char* artifact, char* error,
                                                   size_t error_size);
PYGRADE_API pygrade_status pygrade_pipeline_reload_files(pygrade_pipeline* pipeline, const pygrade_file* files,
                                                         size_t count, char* error, size_t error_size);
/* NULL is fine. */
PYGRADE_API void pygrade_pipeline_free(pygrade_pipeline* pipeline);

/* State that is served now. pygrade_pipeline_policy gives tasks, scenarios, formula and weights; to be freed. */
typedef struct pygrade_pipeline_info {
  size_t size;             /* sizeof(pygrade_pipeline_info) */
  char version[16];        /* of the artifact: 12 hexadecimal digits and a 0 */
  char schema_hash[24];    /* of the feature schema: 16 digits and a 0 */
  uint64_t items;          /* that can be searched */
  size_t request_features; /* of the user and the context */
  size_t item_features;    /* of an item, and of an item with the user */
} pygrade_pipeline_info;
PYGRADE_API pygrade_status pygrade_pipeline_describe(const pygrade_pipeline* pipeline, pygrade_pipeline_info* info,
                                                     char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_pipeline_policy(const pygrade_pipeline* pipeline, pygrade_policy** policy,
                                                   char* error, size_t error_size);
/* Names of the features of the user and the context; the name is written with a 0.
 * PYGRADE_BUFFER_TOO_SMALL if `capacity` does not suffice, PYGRADE_INVALID_ARGUMENT if `index` is too large. */
PYGRADE_API pygrade_status pygrade_pipeline_feature(const pygrade_pipeline* pipeline, size_t index, char* name,
                                                    size_t capacity, char* error, size_t error_size);

/* The memory of one request at a time. A request may be given one; then its candidates and predictions stay in it until
 * the next request with it, for a log. */
PYGRADE_API pygrade_status pygrade_workspace_create(pygrade_workspace** workspace, char* error, size_t error_size);
PYGRADE_API void pygrade_workspace_free(pygrade_workspace* workspace); /* NULL is fine */

/* A context column of a request. Columns that are not given are unknown. */
typedef struct pygrade_context {
  const char* name; /* closed with a 0 */
  const char* text; /* UTF-8, [text_size], or NULL: `number` */
  size_t text_size;
  double number; /* NaN: unknown */
} pygrade_context;

/* A column of a request's candidates, in the order of item_ids. */
typedef struct pygrade_item_column {
  const char* name;    /* closed with a 0 */
  const float* values; /* [items], NaN: unknown */
} pygrade_item_column;

/* Rules for n candidates, as in pygrade_request; the memory is the caller's and lives until the call that asked ends.
 */
typedef struct pygrade_page_rules {
  size_t size;            /* sizeof(pygrade_page_rules) */
  const uint8_t* mask;    /* [n] or NULL */
  const float* boost_mul; /* [n] >= 0, or NULL; see pygrade.h */
  const float* boost_add; /* [n] or NULL */
  const int32_t* groups;  /* [n, group_columns] or NULL */
  const int32_t* caps;    /* [group_columns] or NULL */
  size_t group_columns;
  const float* item_values; /* [n] prices, for a baseline that needs them; or NULL */
  const int32_t* cap_slots; /* [group_columns] or NULL */
  const float* decay;       /* [group_columns] or NULL */
} pygrade_page_rules;
/* Fills `rules`, which is all 0, for the candidates. Not 0: the request fails. */
typedef int (*pygrade_rules)(void* user, const int64_t* item_ids, size_t count, pygrade_page_rules* rules);

/* Fills in the columns of history in context[features] and items[count, item_columns], both as the policy has them; see
 * history.h. Not 0: they are not there, and the request fails, since zeros would stand for users who did nothing. */
typedef int (*pygrade_history_columns)(void* user, const int64_t* item_ids, size_t count, float* context,
                                       size_t features, float* items, size_t item_columns);

enum {
  PYGRADE_USER_EXPLORE = 1,       /* flags: serve a Dirichlet draw instead of its mean */
  PYGRADE_USER_DRAW = 2,          /* flags: of the coordinates `draw` */
  PYGRADE_USER_ELIGIBLE = 4,      /* flags: search `eligible` alone */
  PYGRADE_USER_NO_PAGE_TERMS = 8, /* flags: the page in the order of the scores */
  PYGRADE_USER_AS_LOGGED = 16     /* flags: predictions are those of a log, probabilities and amounts */
};
typedef struct pygrade_user_request {
  size_t size; /* sizeof(pygrade_user_request) */
  int64_t user_id;
  int64_t timestamp;    /* ms since 1970 */
  const char* scenario; /* UTF-8, [scenario_size], or NULL */
  size_t scenario_size;
  const pygrade_context* context; /* [context_size], or NULL */
  size_t context_size;
  size_t candidates;       /* that are searched for among all items; 0: 500 */
  const int64_t* item_ids; /* [items] the candidates, without a search: distinct, from 0 on; or NULL */
  size_t items;
  const int64_t* seen; /* [seen_size] items to leave out of the search, or NULL */
  size_t seen_size;
  const int64_t* eligible; /* [eligible_size] the only items to search, with PYGRADE_USER_ELIGIBLE */
  size_t eligible_size;
  const float* values; /* [tasks] what an event is worth, may be below 0, NaN: the policy's own; or NULL */
  size_t tasks;
  pygrade_rules rules;          /* or NULL */
  void* user;                   /* the first argument of `rules` */
  uint64_t draw;                /* seed << 32 | offset */
  uint32_t deadline_us;         /* microseconds from the arrival on, see waited_us, after which the page of
                                   PYGRADE_DEGRADED_DEADLINE is given; 0: none */
  uint32_t flags;               /* PYGRADE_USER_… */
  pygrade_workspace* workspace; /* or NULL: one of the pipeline's own */
  char* error;                  /* [error_size] for the text of an error, or NULL */
  size_t error_size;
  /* [items, tasks] of item_ids in place of a model's, NaN: unknown, ranks last; no features of items are read. Or NULL
   */
  const float* predictions;
  /* [item_features_size] columns of item_ids in place of what the store has: features of items by their names and in
     their units, and item columns of the policy's correction. Or NULL */
  const pygrade_item_column* item_features;
  size_t item_features_size;
  void* user_data;    /* for pygrade_predict: pygrade_model_rows.user_data */
  uint64_t waited_us; /* microseconds since the request arrived; the deadline counts them */
  /* Below: members that some programs of this ABI do not have. As in pygrade_request, of item_ids: */
  const char* const* categories;   /* [items] or NULL */
  const float* embeddings;         /* [items, embedding_size] or NULL */
  size_t embedding_size;           /* 1 ... 4096 */
  const float* production_scores;  /* [items] or NULL */
  const int32_t* pins;             /* [k of the page] places in item_ids, or NULL */
  const uint8_t* demoted;          /* [items] or NULL */
  pygrade_history_columns history; /* or NULL, for a policy that reads histories */
  void* history_user;              /* its first argument */
} pygrade_user_request;

enum {
  PYGRADE_DEGRADED_NONE = 0,
  PYGRADE_DEGRADED_STORE = 1,    /* the store failed: all features are defaults, the weights the static ones */
  PYGRADE_DEGRADED_DEADLINE = 2, /* time ran out: the items or predictions given, else those of an unknown user, by the
                                   static weights */
  PYGRADE_DEGRADED_VERSION = 3,  /* the store lost the artifact's version: the features are those of its current one */
  PYGRADE_DEGRADED_HISTORY = 4   /* of a service alone: a ranking that reads no history made the page */
};
typedef struct pygrade_user_page {
  size_t size; /* sizeof(pygrade_user_page) */
  /* The caller's memory: */
  size_t k;             /* places of the page, 1 … 2^31 - 1 */
  int64_t* items;       /* [k] best first, -1 in padding */
  float* scores;        /* [k] -inf in padding */
  float* weights;       /* [tasks] served weights, or NULL */
  float* concentration; /* [tasks] the policy's output, NaN in a fallback, or NULL */
  /* Written by the call: */
  int32_t filled;              /* items on the page */
  int32_t candidates;          /* that were ranked */
  int32_t missing_predictions; /* candidates without a prediction: they rank last */
  int32_t degraded;            /* PYGRADE_DEGRADED_… */
  int32_t fallback;            /* PYGRADE_FALLBACK_…: whose static weights were served */
  int32_t explored;            /* 1: the weights are the draw `seed` */
  uint64_t seed;
  char policy_version[16];   /* 12 hexadecimal digits and a 0 */
  char artifact_version[16]; /* the same */
  float mixture_weight;      /* see pygrade_mixture */
  int32_t verdict;
  char baseline[64];
  float history;    /* known events of the user; NaN if no feature says so */
  float seconds[5]; /* features of the user, prerank, features of the items, predictions, policy and ranking */
  /* Candidates of a request with a workspace, until its next request; else NULL: */
  const int64_t* candidate_ids; /* [candidates] */
  const float* predictions;     /* [candidates, tasks] */
  /* Below: members that some programs of this ABI do not have. */
  pygrade_page_effect* effects; /* the caller's memory [k], written where `searched`; or NULL */
  int32_t searched;             /* these two as in pygrade_page */
  int32_t missing_items;
} pygrade_user_page;

/* PYGRADE_INVALID_ARGUMENT also if no candidate is left, and without model and predictions. A store that fails is no
 * error: the page says so. */
PYGRADE_API pygrade_status pygrade_pipeline_rank(pygrade_pipeline* pipeline, const pygrade_user_request* request,
                                                 pygrade_user_page* page);

/* A page for each request. The structs of an array have the same `size`, which is also their distance. */
typedef struct pygrade_user_batch {
  size_t size;                          /* sizeof(pygrade_user_batch) */
  const pygrade_user_request* requests; /* [count]; their own error buffers and workspaces are not used */
  pygrade_user_page* pages;             /* [count] */
  size_t count;
  int32_t num_threads; /* at most; the pages do not depend on it */
  uint32_t flags;      /* 0 */
  char* error;         /* [error_size] for the text of the first request's error, or NULL */
  size_t error_size;
} pygrade_user_batch;
PYGRADE_API pygrade_status pygrade_pipeline_rank_batch(pygrade_pipeline* pipeline, const pygrade_user_batch* batch);

/* Feedback events, as columns of `count` rows. */
typedef struct pygrade_events {
  size_t size;                 /* sizeof(pygrade_events) */
  size_t count;                /* e */
  const int64_t* user_id;      /* [e] */
  const int64_t* item_id;      /* [e] */
  const int64_t* time;         /* [e] ms since 1970 */
  const char* const* scenario; /* [e] texts, or NULL: none */
  const char* const* outcomes; /* [num_outcomes] names of the y_ and m_ columns */
  const double* const* values; /* [num_outcomes] columns [e]; NaN: unknown, of an m_ column */
  size_t num_outcomes;
  char* error; /* [error_size] for the text of an error, or NULL */
  size_t error_size;
} pygrade_events;
/* Adds events, each once, to the features of later requests; order and lateness do not matter. All are written or none;
 * PYGRADE_STORE_FAILED if the store fails. */
PYGRADE_API pygrade_status pygrade_pipeline_update(pygrade_pipeline* pipeline, const pygrade_events* events);

typedef struct pygrade_pipeline_counters {
  size_t size;             /* sizeof(pygrade_pipeline_counters) */
  uint64_t requests;       /* pages */
  uint64_t degraded_store; /* pages, see PYGRADE_DEGRADED_… */
  uint64_t degraded_deadline;
  uint64_t fallback_scenario;
  uint64_t fallback_global;
  uint64_t explored;
  uint64_t missing_predictions; /* candidates */
  uint64_t empty_pages;
  uint64_t store_errors; /* reads and updates that the store failed */
  uint64_t user_misses;  /* requests of users without history */
  uint64_t item_misses;  /* items without history */
  uint64_t updates;      /* feedback events that were written */
  uint64_t reloads;
  uint64_t degraded_version;
} pygrade_pipeline_counters;
/* Counts since the pipeline was made, over all threads and reloads. */
PYGRADE_API pygrade_status pygrade_pipeline_count(const pygrade_pipeline* pipeline, pygrade_pipeline_counters* counters,
                                                  char* error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
