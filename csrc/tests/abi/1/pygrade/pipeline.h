#ifndef PYGRADE_PIPELINE_H
#define PYGRADE_PIPELINE_H
#include "pygrade/pygrade.h"
#ifdef __cplusplus
extern "C" {
#endif
typedef struct pygrade_pipeline pygrade_pipeline;
typedef struct pygrade_workspace pygrade_workspace;
typedef struct pygrade_model_rows {
  size_t size;
  size_t rows;
  size_t request_dense_size;
  size_t request_ids_size;
  size_t dense_size;
  size_t ids_size;
  const float* request_dense;
  const int64_t* request_ids;
  const float* dense;
  const int64_t* ids;
  const int64_t* item_ids;
  int64_t user_id;
  int64_t timestamp;
  int32_t known_user;
  int32_t reserved;
  size_t first;
  void* user_data;
} pygrade_model_rows;
typedef int (*pygrade_predict)(void* user, const pygrade_model_rows* rows, float* probabilities);
enum {
  PYGRADE_PIPELINE_SEED = 1,
  PYGRADE_PIPELINE_TTL = 2,
  PYGRADE_PIPELINE_ANY_VERSION = 4,
  PYGRADE_PIPELINE_READ_ONLY = 8,
  PYGRADE_PIPELINE_NO_ITEM_FEATURES = 16
};
typedef struct pygrade_pipeline_options {
  size_t size;
  uint32_t flags;
  uint32_t seed;
  double ttl;
  size_t cache;
  uint32_t store_timeout_ms;
  uint32_t reserved;
  pygrade_predict predict;
  void* user;
  char* error;
  size_t error_size;
} pygrade_pipeline_options;
PYGRADE_API pygrade_status pygrade_pipeline_load(const char* artifact, const char* store,
                                                 const pygrade_pipeline_options* options, pygrade_pipeline** pipeline);
typedef struct pygrade_file {
  const char* path;
  const void* content;
  size_t content_size;
} pygrade_file;
PYGRADE_API pygrade_status pygrade_pipeline_create(const pygrade_file* files, size_t count, const char* store,
                                                   const pygrade_pipeline_options* options,
                                                   pygrade_pipeline** pipeline);
PYGRADE_API pygrade_status pygrade_pipeline_reload(pygrade_pipeline* pipeline, const char* artifact, char* error,
                                                   size_t error_size);
PYGRADE_API pygrade_status pygrade_pipeline_reload_files(pygrade_pipeline* pipeline, const pygrade_file* files,
                                                         size_t count, char* error, size_t error_size);
PYGRADE_API void pygrade_pipeline_free(pygrade_pipeline* pipeline);
typedef struct pygrade_pipeline_info {
  size_t size;
  char version[16];
  char schema_hash[24];
  uint64_t items;
  size_t request_features;
  size_t item_features;
} pygrade_pipeline_info;
PYGRADE_API pygrade_status pygrade_pipeline_describe(const pygrade_pipeline* pipeline, pygrade_pipeline_info* info,
                                                     char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_pipeline_policy(const pygrade_pipeline* pipeline, pygrade_policy** policy,
                                                   char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_pipeline_feature(const pygrade_pipeline* pipeline, size_t index, char* name,
                                                    size_t capacity, char* error, size_t error_size);
PYGRADE_API pygrade_status pygrade_workspace_create(pygrade_workspace** workspace, char* error, size_t error_size);
PYGRADE_API void pygrade_workspace_free(pygrade_workspace* workspace);
typedef struct pygrade_context {
  const char* name;
  const char* text;
  size_t text_size;
  double number;
} pygrade_context;
typedef struct pygrade_item_column {
  const char* name;
  const float* values;
} pygrade_item_column;
typedef struct pygrade_page_rules {
  size_t size;
  const uint8_t* mask;
  const float* boost_mul;
  const float* boost_add;
  const int32_t* groups;
  const int32_t* caps;
  size_t group_columns;
  const float* item_values;
  const int32_t* cap_slots;
  const float* decay;
} pygrade_page_rules;
typedef int (*pygrade_rules)(void* user, const int64_t* item_ids, size_t count, pygrade_page_rules* rules);
typedef int (*pygrade_history_columns)(void* user, const int64_t* item_ids, size_t count, float* context,
                                       size_t features, float* items, size_t item_columns);
enum {
  PYGRADE_USER_EXPLORE = 1,
  PYGRADE_USER_DRAW = 2,
  PYGRADE_USER_ELIGIBLE = 4,
  PYGRADE_USER_NO_PAGE_TERMS = 8,
  PYGRADE_USER_AS_LOGGED = 16
};
typedef struct pygrade_user_request {
  size_t size;
  int64_t user_id;
  int64_t timestamp;
  const char* scenario;
  size_t scenario_size;
  const pygrade_context* context;
  size_t context_size;
  size_t candidates;
  const int64_t* item_ids;
  size_t items;
  const int64_t* seen;
  size_t seen_size;
  const int64_t* eligible;
  size_t eligible_size;
  const float* values;
  size_t tasks;
  pygrade_rules rules;
  void* user;
  uint64_t draw;
  uint32_t deadline_us;
  uint32_t flags;
  pygrade_workspace* workspace;
  char* error;
  size_t error_size;
  const float* predictions;
  const pygrade_item_column* item_features;
  size_t item_features_size;
  void* user_data;
  uint64_t waited_us;
  const char* const* categories;
  const float* embeddings;
  size_t embedding_size;
  const float* production_scores;
  const int32_t* pins;
  const uint8_t* demoted;
  pygrade_history_columns history;
  void* history_user;
} pygrade_user_request;
enum {
  PYGRADE_DEGRADED_NONE = 0,
  PYGRADE_DEGRADED_STORE = 1,
  PYGRADE_DEGRADED_DEADLINE = 2,
  PYGRADE_DEGRADED_VERSION = 3,
  PYGRADE_DEGRADED_HISTORY = 4
};
typedef struct pygrade_user_page {
  size_t size;
  size_t k;
  int64_t* items;
  float* scores;
  float* weights;
  float* concentration;
  int32_t filled;
  int32_t candidates;
  int32_t missing_predictions;
  int32_t degraded;
  int32_t fallback;
  int32_t explored;
  uint64_t seed;
  char policy_version[16];
  char artifact_version[16];
  float mixture_weight;
  int32_t verdict;
  char baseline[64];
  float history;
  float seconds[5];
  const int64_t* candidate_ids;
  const float* predictions;
  pygrade_page_effect* effects;
  int32_t searched;
  int32_t missing_items;
} pygrade_user_page;
PYGRADE_API pygrade_status pygrade_pipeline_rank(pygrade_pipeline* pipeline, const pygrade_user_request* request,
                                                 pygrade_user_page* page);
typedef struct pygrade_user_batch {
  size_t size;
  const pygrade_user_request* requests;
  pygrade_user_page* pages;
  size_t count;
  int32_t num_threads;
  uint32_t flags;
  char* error;
  size_t error_size;
} pygrade_user_batch;
PYGRADE_API pygrade_status pygrade_pipeline_rank_batch(pygrade_pipeline* pipeline, const pygrade_user_batch* batch);
typedef struct pygrade_events {
  size_t size;
  size_t count;
  const int64_t* user_id;
  const int64_t* item_id;
  const int64_t* time;
  const char* const* scenario;
  const char* const* outcomes;
  const double* const* values;
  size_t num_outcomes;
  char* error;
  size_t error_size;
} pygrade_events;
PYGRADE_API pygrade_status pygrade_pipeline_update(pygrade_pipeline* pipeline, const pygrade_events* events);
typedef struct pygrade_pipeline_counters {
  size_t size;
  uint64_t requests;
  uint64_t degraded_store;
  uint64_t degraded_deadline;
  uint64_t fallback_scenario;
  uint64_t fallback_global;
  uint64_t explored;
  uint64_t missing_predictions;
  uint64_t empty_pages;
  uint64_t store_errors;
  uint64_t user_misses;
  uint64_t item_misses;
  uint64_t updates;
  uint64_t reloads;
  uint64_t degraded_version;
} pygrade_pipeline_counters;
PYGRADE_API pygrade_status pygrade_pipeline_count(const pygrade_pipeline* pipeline, pygrade_pipeline_counters* counters,
                                                  char* error, size_t error_size);
#ifdef __cplusplus
}
#endif
#endif
