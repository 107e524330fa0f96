#ifndef PYGRADE_H
#define PYGRADE_H
#include <stddef.h>
#include <stdint.h>

#include "pygrade/export.h"
#ifdef __cplusplus
extern "C" {
#endif
#define PYGRADE_ABI_VERSION 1
#define PYGRADE_INIT(type) {sizeof(type)}
#define PYGRADE_RANKER_OPTIONS_INIT PYGRADE_INIT(pygrade_ranker_options)
#define PYGRADE_REQUEST_INIT PYGRADE_INIT(pygrade_request)
#define PYGRADE_PAGE_INIT PYGRADE_INIT(pygrade_page)
#define PYGRADE_DRAW(seed, offset) ((uint64_t)(seed) << 32 | (uint64_t)(offset))
typedef int32_t pygrade_status;
enum {
  PYGRADE_OK = 0,
  PYGRADE_INVALID_ARGUMENT = 1,
  PYGRADE_NOT_FOUND = 2,
  PYGRADE_BAD_ARTIFACT = 3,
  PYGRADE_OUT_OF_MEMORY = 4,
  PYGRADE_INTERNAL = 5,
  PYGRADE_BUFFER_TOO_SMALL = 6,
  PYGRADE_STORE_FAILED = 7
};
PYGRADE_API int32_t pygrade_abi_version(void);
PYGRADE_API const char* pygrade_version(void);
PYGRADE_API const char* pygrade_isa(void);
PYGRADE_API const char* pygrade_last_error(void);
typedef struct pygrade_ranker pygrade_ranker;
enum { PYGRADE_OPTION_SEED = 1 };
typedef struct pygrade_ranker_options {
  size_t size;
  uint32_t flags;
  uint32_t seed;
  char* error;
  size_t error_size;
} pygrade_ranker_options;
PYGRADE_API pygrade_status pygrade_ranker_load(const char* directory, const pygrade_ranker_options* options,
                                               pygrade_ranker** ranker);
PYGRADE_API pygrade_status pygrade_ranker_create(const char* json, size_t json_size, const void* tensors,
                                                 size_t tensors_size, const pygrade_ranker_options* options,
                                                 pygrade_ranker** ranker);
PYGRADE_API pygrade_status pygrade_ranker_reload(pygrade_ranker* ranker, const char* directory, char* error,
                                                 size_t error_size);
PYGRADE_API void pygrade_ranker_free(pygrade_ranker* ranker);
PYGRADE_API size_t pygrade_ranker_num_tasks(const pygrade_ranker* ranker);
PYGRADE_API size_t pygrade_ranker_num_features(const pygrade_ranker* ranker);
PYGRADE_API const char* pygrade_ranker_task(const pygrade_ranker* ranker, size_t index);
PYGRADE_API const char* pygrade_ranker_feature(const pygrade_ranker* ranker, size_t index);
typedef struct pygrade_policy pygrade_policy;
typedef struct pygrade_policy_source {
  size_t size;
  const char* directory;
  const char* json;
  size_t json_size;
  const void* tensors;
  size_t tensors_size;
  char* error;
  size_t error_size;
} pygrade_policy_source;
PYGRADE_API pygrade_status pygrade_policy_load(const pygrade_policy_source* source, pygrade_policy** policy);
PYGRADE_API pygrade_status pygrade_ranker_policy(const pygrade_ranker* ranker, pygrade_policy** policy, char* error,
                                                 size_t error_size);
PYGRADE_API pygrade_status pygrade_ranker_swap(pygrade_ranker* ranker, const pygrade_policy* policy, char* error,
                                               size_t error_size);
PYGRADE_API void pygrade_policy_free(pygrade_policy* policy);
PYGRADE_API const char* pygrade_policy_version(const pygrade_policy* policy);
PYGRADE_API const char* pygrade_policy_schema_hash(const pygrade_policy* policy);
PYGRADE_API size_t pygrade_policy_num_tasks(const pygrade_policy* policy);
PYGRADE_API size_t pygrade_policy_num_features(const pygrade_policy* policy);
PYGRADE_API size_t pygrade_policy_num_scenarios(const pygrade_policy* policy);
PYGRADE_API const char* pygrade_policy_task(const pygrade_policy* policy, size_t index);
PYGRADE_API const char* pygrade_policy_feature(const pygrade_policy* policy, size_t index);
PYGRADE_API const char* pygrade_policy_scenario(const pygrade_policy* policy, size_t index);
PYGRADE_API size_t pygrade_policy_num_items(const pygrade_policy* policy);
PYGRADE_API const char* pygrade_policy_item(const pygrade_policy* policy, size_t index);
PYGRADE_API const char* pygrade_policy_unproven(const pygrade_policy* policy);
enum { PYGRADE_POLICY_CONTEXT_ONLY = 1, PYGRADE_POLICY_TRADE_OFFS = 2 };
typedef struct pygrade_formula {
  size_t size;
  char transform[16];
  float beta;
  float epsilon;
  uint32_t flags;
  uint32_t num_inputs;
  const float* slope;
} pygrade_formula;
PYGRADE_API pygrade_status pygrade_policy_formula(const pygrade_policy* policy, pygrade_formula* formula, char* error,
                                                  size_t error_size);
PYGRADE_API pygrade_status pygrade_policy_static_weights(const pygrade_policy* policy, const char* scenario,
                                                         size_t scenario_size, float* weights, char* error,
                                                         size_t error_size);
enum {
  PYGRADE_REQUEST_EXPLORE = 1,
  PYGRADE_REQUEST_DRAW = 2,
  PYGRADE_REQUEST_NO_PAGE_TERMS = 4,
  PYGRADE_REQUEST_AS_LOGGED = 8
};
typedef struct pygrade_request {
  size_t size;
  const float* context;
  size_t features;
  const float* predictions;
  size_t candidates;
  size_t tasks;
  const uint8_t* mask;
  const float* boost_mul;
  const float* boost_add;
  const int32_t* groups;
  const int32_t* caps;
  size_t group_columns;
  const char* scenario;
  size_t scenario_size;
  uint64_t draw;
  uint32_t flags;
  uint32_t reserved;
  const float* values;
  const float* item_values;
  char* error;
  size_t error_size;
  const float* items;
  size_t item_columns;
  const char* const* categories;
  const float* embeddings;
  size_t embedding_size;
  const int64_t* item_ids;
  const int32_t* cap_slots;
  const float* decay;
  const float* production_scores;
  const int32_t* pins;
  const uint8_t* demoted;
} pygrade_request;
PYGRADE_API int64_t pygrade_stable_id(const char* name, size_t size);
enum {
  PYGRADE_VERDICT_NONE = 0,
  PYGRADE_VERDICT_BETTER = 1,
  PYGRADE_VERDICT_UNDECIDED = 2,
  PYGRADE_VERDICT_WORSE = 3,
  PYGRADE_VERDICT_UNDECIDABLE = 4,
  PYGRADE_VERDICT_UNTESTED = 5
};
typedef struct pygrade_page_effect {
  float effect;
  int32_t above;
  int32_t sorted_place;
} pygrade_page_effect;
enum { PYGRADE_FALLBACK_NONE = 0, PYGRADE_FALLBACK_SCENARIO = 1, PYGRADE_FALLBACK_GLOBAL = 2 };
typedef struct pygrade_page {
  size_t size;
  size_t k;
  float* values;
  int32_t* indices;
  float* weights;
  float* concentration;
  int32_t filled;
  int32_t missing_predictions;
  int32_t fallback;
  int32_t explored;
  uint64_t seed;
  char policy_version[16];
  float mixture_weight;
  int32_t verdict;
  char baseline[64];
  int32_t searched;
  int32_t shuffled;
  pygrade_page_effect* effects;
  int32_t missing_items;
  int32_t reserved;
} pygrade_page;
PYGRADE_API pygrade_status pygrade_ranker_rank(pygrade_ranker* ranker, const pygrade_request* request,
                                               pygrade_page* page);
typedef struct pygrade_batch {
  size_t size;
  const pygrade_request* requests;
  pygrade_page* pages;
  size_t count;
  int32_t num_threads;
  uint32_t flags;
  char* error;
  size_t error_size;
} pygrade_batch;
PYGRADE_API pygrade_status pygrade_ranker_rank_batch(pygrade_ranker* ranker, const pygrade_batch* batch);
typedef struct pygrade_mixture {
  size_t size;
  float mixture_weight;
  int32_t verdict;
  char baseline[64];
} pygrade_mixture;
PYGRADE_API pygrade_status pygrade_ranker_mixture(const pygrade_ranker* ranker, pygrade_mixture* mixture, char* error,
                                                  size_t error_size);
enum { PYGRADE_LOG_TIMESTAMP = 1 };
typedef struct pygrade_log_ids {
  size_t size;
  const char* request_id;
  size_t request_id_size;
  const char* user_id;
  size_t user_id_size;
  const int64_t* item_id;
  int64_t timestamp;
  uint32_t flags;
  uint32_t reserved;
} pygrade_log_ids;
PYGRADE_API pygrade_status pygrade_ranker_log_header(const pygrade_ranker* ranker, char* text, size_t capacity,
                                                     size_t* length, char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_ranker_log_rows(const pygrade_ranker* ranker, const pygrade_request* request,
                                                   const pygrade_page* page, const pygrade_log_ids* ids, char* text,
                                                   size_t capacity, size_t* length);
typedef struct pygrade_counters {
  size_t size;
  uint64_t requests;
  uint64_t fallback_scenario;
  uint64_t fallback_global;
  uint64_t explored;
  uint64_t missing_predictions;
  uint64_t empty_pages;
  uint64_t missing_items;
} pygrade_counters;
PYGRADE_API pygrade_status pygrade_ranker_counters(const pygrade_ranker* ranker, pygrade_counters* counters,
                                                   char* error, size_t error_size);
#ifdef __cplusplus
}
#endif
#endif
