/* The C ABI of pygrade's ranker, for Go, Rust, Java, C and whatever else calls C.
 *
 * Stability: what this header declares does not change within an ABI version (PYGRADE_ABI_VERSION, also the major
 * version of the shared library's name). Functions, enumerators and flags may be added; none is removed, renumbered or
 * given another meaning. Structs that begin with `size` may grow at their end: the caller sets it to its sizeof
 * (PYGRADE_INIT does), the library reads and writes no further, and takes what an older caller does not have as 0. A
 * caller that is newer than the library may leave its additional members 0; otherwise it gets PYGRADE_INVALID_ARGUMENT.
 * Structs without `size` never change. Anything else raises the ABI version. csrc/tests/abi has the headers that
 * programs were compiled with, and the library is tested with them. The C++ headers make no such promise: build them
 * with the library that they came with.
 *
 * Every function that can fail returns a pygrade_status, and pygrade_last_error() the text of the calling thread's
 * error. Callers that may move to another thread between the two calls (goroutines, virtual threads) give a buffer:
 * `error` and `error_size`, members of a struct that the call reads, or else the last parameters of the call.
 * A call that fails writes its text there, UTF-8, cut to fit and closed with a 0; NULL or 0: none is wanted. Otherwise
 * failed calls write nothing but the length of a text that does not fit. No C++ exception leaves the library.
 *
 * Threads may use one ranker at once, also while one of them reloads it, and so may a forked child; only
 * pygrade_ranker_free must come last and alone. Pointers that a call gets are not kept after it.
 *
 * A program that loaded the shared library with dlopen can't unload it: dlclose leaves it in place, with its worker
 * threads and the memory that threads keep. Opening it again gives the same library. */
#ifndef PYGRADE_H
#define PYGRADE_H

#include <stddef.h>
#include <stdint.h>

#include "pygrade/export.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PYGRADE_ABI_VERSION 1

/* A struct of zeros with its size: pygrade_request request = PYGRADE_INIT(pygrade_request); */
#ifdef __cplusplus
#define PYGRADE_INIT(type) {sizeof(type)}
#else
#define PYGRADE_INIT(type) {.size = sizeof(type)} /* positional, -Wextra of C would warn */
#endif
/* The coordinates of a draw, for pygrade_request.draw: both below 2^31. */
#define PYGRADE_DRAW(seed, offset) ((uint64_t)(seed) << 32 | (uint64_t)(offset))

typedef int32_t pygrade_status;
enum {
  PYGRADE_OK = 0,
  PYGRADE_INVALID_ARGUMENT = 1, /* a pointer, size or value; nothing was done */
  PYGRADE_NOT_FOUND = 2,        /* there is no policy at the path */
  PYGRADE_BAD_ARTIFACT = 3,     /* the policy is damaged, of another format version, or of another schema */
  PYGRADE_OUT_OF_MEMORY = 4,
  PYGRADE_INTERNAL = 5,
  PYGRADE_BUFFER_TOO_SMALL = 6, /* the text does not fit; its length was written, nothing else */
  PYGRADE_STORE_FAILED = 7      /* the store does not answer, is damaged, or has no version to read */
};

/* PYGRADE_ABI_VERSION of the library that runs. */
PYGRADE_API int32_t pygrade_abi_version(void);
/* Version of the library that runs, for example "0.2.0". */
PYGRADE_API const char* pygrade_version(void);
/* Instruction set of the kernels that run: "baseline", "avx2" or "avx512"; "" if PYGRADE_ISA asks for one that the
 * machine lacks (then every ranking fails and says so). */
PYGRADE_API const char* pygrade_isa(void);
/* The error of this thread's last call, or "". UTF-8; valid until the thread's next call. */
PYGRADE_API const char* pygrade_last_error(void);

typedef struct pygrade_ranker pygrade_ranker; /* opaque */

enum { PYGRADE_OPTION_SEED = 1 /* flags: take `seed`; otherwise the operating system gives one */ };
typedef struct pygrade_ranker_options {
  size_t size;    /* sizeof(pygrade_ranker_options) */
  uint32_t flags; /* PYGRADE_OPTION_… */
  uint32_t seed;  /* of the exploration stream, below 2^31 */
  char* error;    /* [error_size] for the text of an error, or NULL */
  size_t error_size;
} pygrade_ranker_options;

/* Makes a ranker of a policy directory (policy.json and the tensors it names). `options` may be NULL. */
PYGRADE_API pygrade_status pygrade_ranker_load(const char* directory, const pygrade_ranker_options* options,
                                               pygrade_ranker** ranker);
/* Loads from the content of the two files. */
PYGRADE_API pygrade_status pygrade_ranker_create(const char* json, size_t json_size, const void* tensors,
                                                 size_t tensors_size, const pygrade_ranker_options* options,
                                                 pygrade_ranker** ranker);
/* Replaces the policy, also while other threads rank; it must have the same tasks and features. Returns when no thread
 * ranks with the old one any more. */
PYGRADE_API pygrade_status pygrade_ranker_reload(pygrade_ranker* ranker, const char* directory, char* error,
                                                 size_t error_size);
/* NULL is fine. */
PYGRADE_API void pygrade_ranker_free(pygrade_ranker* ranker);

/* Names in the order that requests must have. They live as long as the ranker; NULL if `index` is too large. */
PYGRADE_API size_t pygrade_ranker_num_tasks(const pygrade_ranker* ranker);
PYGRADE_API size_t pygrade_ranker_num_features(const pygrade_ranker* ranker);
PYGRADE_API const char* pygrade_ranker_task(const pygrade_ranker* ranker, size_t index);
PYGRADE_API const char* pygrade_ranker_feature(const pygrade_ranker* ranker, size_t index);

/* A policy as it is on disk or in memory, to look at or to put into a ranker. Immutable: any number of threads may read
 * one, and its strings live as long as it. pygrade_policy_free must come last. */
typedef struct pygrade_policy pygrade_policy; /* opaque */

typedef struct pygrade_policy_source {
  size_t size;           /* sizeof(pygrade_policy_source) */
  const char* directory; /* a policy directory, or NULL: the content of its two files */
  const char* json;
  size_t json_size; /* bytes */
  const void* tensors;
  size_t tensors_size; /* bytes */
  char* error;         /* [error_size] for the text of an error, or NULL */
  size_t error_size;
} pygrade_policy_source;

PYGRADE_API pygrade_status pygrade_policy_load(const pygrade_policy_source* source, pygrade_policy** policy);
/* The policy that a ranker serves now; to be freed, too. */
PYGRADE_API pygrade_status pygrade_ranker_policy(const pygrade_ranker* ranker, pygrade_policy** policy, char* error,
                                                 size_t error_size);
/* As pygrade_ranker_reload, of a loaded policy: a reload from memory, or one that is looked at first. */
PYGRADE_API pygrade_status pygrade_ranker_swap(pygrade_ranker* ranker, const pygrade_policy* policy, char* error,
                                               size_t error_size);
/* NULL is fine. */
PYGRADE_API void pygrade_policy_free(pygrade_policy* policy);

/* "" or 0 for NULL; NULL if `index` is too large. */
PYGRADE_API const char* pygrade_policy_version(const pygrade_policy* policy);     /* as in pages: 12 digits */
PYGRADE_API const char* pygrade_policy_schema_hash(const pygrade_policy* policy); /* of tasks, features, formula */
PYGRADE_API size_t pygrade_policy_num_tasks(const pygrade_policy* policy);
PYGRADE_API size_t pygrade_policy_num_features(const pygrade_policy* policy);
PYGRADE_API size_t pygrade_policy_num_scenarios(const pygrade_policy* policy); /* with static weights of their own */
PYGRADE_API const char* pygrade_policy_task(const pygrade_policy* policy, size_t index);
PYGRADE_API const char* pygrade_policy_feature(const pygrade_policy* policy, size_t index);
PYGRADE_API const char* pygrade_policy_scenario(const pygrade_policy* policy, size_t index);
/* The columns of pygrade_request.items; 0 for a policy that corrects no predictions by them. */
PYGRADE_API size_t pygrade_policy_num_items(const pygrade_policy* policy);
PYGRADE_API const char* pygrade_policy_item(const pygrade_policy* policy, size_t index);
/* The reason why the log does not prove that the policy may be served; "": it does. A ranker serves it all the same. */
PYGRADE_API const char* pygrade_policy_unproven(const pygrade_policy* policy);

enum {
  PYGRADE_POLICY_CONTEXT_ONLY = 1, /* flags: the weights depend on the context alone, not on the predictions */
  PYGRADE_POLICY_TRADE_OFFS = 2    /* flags: its weights depend on the tasks' values */
};
/* Formula that makes scores of predictions p and weights w: the sum over tasks t of w_t · f(p_t). */
typedef struct pygrade_formula {
  size_t size;         /* sizeof(pygrade_formula) */
  char transform[16];  /* f: "identity", "log", "zscore", "zlog", "rank" or "log1p" */
  float beta;          /* of log and zlog: log(p + beta) */
  float epsilon;       /* of zscore and zlog: added to the standard deviation */
  uint32_t flags;      /* PYGRADE_POLICY_… */
  uint32_t num_inputs; /* of the policy's network */
  const float* slope;  /* [tasks] of log1p: log(1 + slope_t p_t); lives as long as the policy */
} pygrade_formula;
PYGRADE_API pygrade_status pygrade_policy_formula(const pygrade_policy* policy, pygrade_formula* formula, char* error,
                                                  size_t error_size);
/* The scenario's static weights [tasks], or, if it has none of its own or is NULL, the global ones. */
PYGRADE_API pygrade_status pygrade_policy_static_weights(const pygrade_policy* policy, const char* scenario,
                                                         size_t scenario_size, float* weights, char* error,
                                                         size_t error_size);

enum {
  PYGRADE_REQUEST_EXPLORE = 1,       /* flags: serve a Dirichlet draw instead of its mean */
  PYGRADE_REQUEST_DRAW = 2,          /* flags: of the coordinates `draw`; otherwise the next of the ranker's stream */
  PYGRADE_REQUEST_NO_PAGE_TERMS = 4, /* flags: the page in the order of the scores */
  PYGRADE_REQUEST_AS_LOGGED = 8      /* flags: predictions are those of a log, probabilities and amounts */
};
typedef struct pygrade_request {
  size_t size;              /* sizeof(pygrade_request) */
  const float* context;     /* [features]; NULL: unknown. NaN: that feature is unknown */
  size_t features;          /* F */
  const float* predictions; /* [candidates, tasks] row-major, as the table had them that the policy learned from: its
                               scales are converted; NULL only without candidates */
  size_t candidates;        /* N, below 2^31 */
  size_t tasks;             /* T */
  const uint8_t* mask;      /* [candidates] not 0: eligible; or NULL */
  const float* boost_mul;   /* [candidates] >= 0, or NULL: score * boost_mul, of a score below 0 score / boost_mul */
  const float* boost_add;   /* [candidates] or NULL: added after it */
  const int32_t* groups;    /* [candidates, group_columns] or NULL; a negative value: no group */
  const int32_t* caps;      /* [group_columns] most candidates of one group on the page; -1: no cap */
  size_t group_columns;
  const char* scenario; /* UTF-8, or NULL */
  size_t scenario_size; /* bytes */
  uint64_t draw;        /* seed << 32 | offset, as in pygrade_page.seed */
  uint32_t flags;       /* PYGRADE_REQUEST_… */
  uint32_t reserved;    /* 0 */
  const float* values; /* [tasks] what an event is worth, may be below 0, NaN: the policy's own; or NULL: all of them */
  const float* item_values; /* [candidates] prices, for a policy that needs them; or NULL */
  char* error;              /* [error_size] for the text of an error, or NULL */
  size_t error_size;
  const float* items; /* [candidates, item_columns] by the policy's, row-major; NaN: unknown; or NULL: all of them */
  size_t item_columns;
  /* Inputs of a policy's page terms; without either the page is sorted. A policy without them ignores both. */
  const char* const* categories; /* [candidates] UTF-8 and a 0; NULL or "": unknown; or NULL: all of them */
  const float* embeddings;       /* [candidates, embedding_size]; not finite or 0: unknown; or NULL: all of them */
  size_t embedding_size;
  /* [candidates] by which item effects that `items` lacks are looked up, pygrade_stable_id of items with names; or
   * NULL. One whose effects the policy does not have is ranked as one of which nothing is known. */
  const int64_t* item_ids;
  const int32_t* cap_slots; /* [group_columns] length of the top of the page that a cap holds for, -1: all; or NULL */
  const float* decay;       /* [group_columns] factor in (0, 1] for each item above of the same group; or NULL: 1 */
  const float* production_scores; /* [candidates] what production ranks by, the higher the better, for a log; or NULL */
  /* Below: members that some programs of this ABI do not have. */
  const int32_t* pins;    /* [k of the page] the candidate of a place, -1: none; caps count it, a masked one leaves its
                             place to others; or NULL */
  const uint8_t* demoted; /* [candidates] not 0: after all others, whatever its score; a pin wins; or NULL */
} pygrade_request;

/* The id of an item or a user that a name in UTF-8 stands for, from 0 on: a whole number below 2^63 in plain decimal
 * digits is itself, any other name 63 bits of its hash. 0 for NULL. */
PYGRADE_API int64_t pygrade_stable_id(const char* name, size_t size);

/* Comparison, on the log, of the policy with the baseline that it is mixed with. */
enum {
  PYGRADE_VERDICT_NONE = 0, /* the policy has no mixture */
  PYGRADE_VERDICT_BETTER = 1,
  PYGRADE_VERDICT_UNDECIDED = 2,
  PYGRADE_VERDICT_WORSE = 3,
  PYGRADE_VERDICT_UNDECIDABLE = 4,
  PYGRADE_VERDICT_UNTESTED = 5
};

/* Effect that moved an item of a page that was searched by page terms. Never grows. */
typedef struct pygrade_page_effect {
  float effect;         /* E: exp(E) multiplies the part of its score that needs the root task */
  int32_t above;        /* items above it whose own term has the sign of E and is 0.01 or more */
  int32_t sorted_place; /* its place by the scores alone, under the same rules; -1: none */
} pygrade_page_effect;

enum { PYGRADE_FALLBACK_NONE = 0, PYGRADE_FALLBACK_SCENARIO = 1, PYGRADE_FALLBACK_GLOBAL = 2 };
typedef struct pygrade_page {
  size_t size; /* sizeof(pygrade_page) */
  /* The caller's memory: */
  size_t k;             /* places of the page, 1 … 2^31 - 1 */
  float* values;        /* [k] final scores, best first unless the page is searched, -inf in padding */
  int32_t* indices;     /* [k] candidates, -1 in padding */
  float* weights;       /* [tasks] served weights, or NULL */
  float* concentration; /* [tasks] the policy's output, NaN in a fallback, or NULL */
  /* Written by the call: */
  int32_t filled;              /* items on the page */
  int32_t missing_predictions; /* candidates with a NaN or infinite prediction: they rank last */
  int32_t fallback;            /* PYGRADE_FALLBACK_…: whose static weights were served */
  int32_t explored;            /* 1: the weights are the draw `seed` */
  uint64_t seed;
  char policy_version[16]; /* 12 hexadecimal digits and a 0 */
  float mixture_weight;    /* this and the following: see pygrade_mixture */
  int32_t verdict;
  char baseline[64];
  int32_t searched; /* 1: by page terms, what stands above an item counted */
  int32_t shuffled; /* 0; set it to 1 for a log if you put the page in a random order */
  /* Below: members that some programs of this ABI do not have. */
  pygrade_page_effect* effects; /* the caller's memory [k], written where `searched`; or NULL */
  int32_t missing_items;        /* item columns that the policy's correction reads and the request lacks: their means
                                   stood in, see pygrade_policy_item */
  int32_t reserved;             /* 0 */
} pygrade_page;

PYGRADE_API pygrade_status pygrade_ranker_rank(pygrade_ranker* ranker, const pygrade_request* request,
                                               pygrade_page* page);

/* A page for each request, all by one policy. The structs of an array have the same `size`, which is also their
 * distance. */
typedef struct pygrade_batch {
  size_t size;                     /* sizeof(pygrade_batch) */
  const pygrade_request* requests; /* [count]; their own error buffers are not used */
  pygrade_page* pages;             /* [count] */
  size_t count;
  int32_t num_threads; /* at most; the pages do not depend on it */
  uint32_t flags;      /* 0 */
  char* error;         /* [error_size] for the text of an error, which names the request; or NULL */
  size_t error_size;
} pygrade_batch;
/* Requests that explore take the ranker's next draws in their order. Arguments are checked before anything is ranked;
 * what comes to light only while a request is ranked is reported after the others are done. */
PYGRADE_API pygrade_status pygrade_ranker_rank_batch(pygrade_ranker* ranker, const pygrade_batch* batch);

/* The mixture that the ranker's policy serves: (1 - w) · z(the baseline's score) + w · z(the
 * policy's). */
typedef struct pygrade_mixture {
  size_t size;          /* sizeof(pygrade_mixture) */
  float mixture_weight; /* 0: the baseline alone, 1: the policy alone */
  int32_t verdict;      /* PYGRADE_VERDICT_… */
  char baseline[64];    /* name of the baseline, UTF-8 and a 0; "" if there is none */
} pygrade_mixture;
PYGRADE_API pygrade_status pygrade_ranker_mixture(const pygrade_ranker* ranker, pygrade_mixture* mixture, char* error,
                                                  size_t error_size);

/* The ids of a request and its candidates in the log. */
enum { PYGRADE_LOG_TIMESTAMP = 1 /* flags: `timestamp` is known */ };
typedef struct pygrade_log_ids {
  size_t size;            /* sizeof(pygrade_log_ids) */
  const char* request_id; /* UTF-8; NULL: empty */
  size_t request_id_size; /* bytes */
  const char* user_id;    /* UTF-8; NULL: empty */
  size_t user_id_size;    /* bytes */
  const int64_t* item_id; /* [candidates], or NULL: the index of the candidate */
  int64_t timestamp;      /* ms since 1970 */
  uint32_t flags;         /* PYGRADE_LOG_… */
  uint32_t reserved;      /* 0 */
} pygrade_log_ids;

/* Writes the log rows of a request, as UTF-8 CSV without a closing 0: the header of the columns, and a line for each
 * candidate. The columns are request_id, user_id, item_id, position, x_<feature>, p_<task>, y_<task>,
 * i_<item column> (items), value (the item_values, if the policy needs them), category (if its page terms read them;
 * embeddings are not logged: join them by item_id), scenario, w_<task> (the served weights),
 * a_<task> (the concentration, if explored), seed, policy_version, exploration, timestamp, mixture_weight, baseline,
 * verdict and, if the policy takes them, v_<task> (the tasks' values in the request): those that the Python and the C++
 * rankers write, and that training and off-policy estimates read. The y_ of shown candidates are 0, the others empty:
 * join the feedback by request_id and item_id. A candidate with a NaN or infinite prediction is left out unless it was
 * shown; then the smallest prediction of the task in the request stands in.
 *
 * `request` and `page` are those of a pygrade_ranker_rank that succeeded, the page with weights and concentration.
 * `*length` becomes the length of the text; if it is above `capacity`, the call fails with PYGRADE_BUFFER_TOO_SMALL
 * and `text` (which may be NULL with capacity 0) is left alone. */
PYGRADE_API pygrade_status pygrade_ranker_log_header(const pygrade_ranker* ranker, char* text, size_t capacity,
                                                     size_t* length, char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_ranker_log_rows(const pygrade_ranker* ranker, const pygrade_request* request,
                                                   const pygrade_page* page, const pygrade_log_ids* ids, char* text,
                                                   size_t capacity, size_t* length);

typedef struct pygrade_counters {
  size_t size; /* sizeof(pygrade_counters) */
  uint64_t requests;
  uint64_t fallback_scenario;
  uint64_t fallback_global;
  uint64_t explored;
  uint64_t missing_predictions;
  uint64_t empty_pages;
  /* Below: members that some programs of this ABI do not have. */
  uint64_t missing_items; /* pages, see pygrade_page */
} pygrade_counters;

/* Counts since the ranker was made, over all threads. */
PYGRADE_API pygrade_status pygrade_ranker_counters(const pygrade_ranker* ranker, pygrade_counters* counters,
                                                   char* error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif
