// The counters of the serving structs, one row each: their names in Python, their series in /metrics.
#pragma once

#include <cstdint>

#include "pygrade/exposures.hpp"
#include "pygrade/history_store.hpp"
#include "pygrade/pipeline.hpp"

namespace pygrade::inline v0_2::detail {
template <class T>
struct Count {
  const char* name;
  std::uint64_t T::* member;
  const char* series = nullptr;  // of /metrics, if it has one
};

inline constexpr Count<FeatureCounters> feature_counts[] = {
    {"reads", &FeatureCounters::reads, "pygrade_feature_reads_total"},
    {"defaults", &FeatureCounters::defaults, "pygrade_feature_defaults_total"},
    {"store_errors", &FeatureCounters::store_errors, "pygrade_store_errors_total"},
    {"user_misses", &FeatureCounters::user_misses, "pygrade_unknown_users_total"},
    {"item_misses", &FeatureCounters::item_misses, "pygrade_unknown_items_total"},
    {"updates", &FeatureCounters::updates, "pygrade_feature_updates_total"},
};

inline constexpr Count<RankerCounters> ranker_counts[] = {
    {"requests", &RankerCounters::requests},
    {"fallback_scenario", &RankerCounters::fallback_scenario},
    {"fallback_global", &RankerCounters::fallback_global},
    {"explored", &RankerCounters::explored},
    {"missing_predictions", &RankerCounters::missing_predictions, "pygrade_missing_predictions_total"},
    {"empty_pages", &RankerCounters::empty_pages},
    {"missing_items", &RankerCounters::missing_items},
};

inline constexpr Count<PipelineCounters> pipeline_counts[] = {
    {"degraded_store", &PipelineCounters::degraded_store},
    {"degraded_deadline", &PipelineCounters::degraded_deadline},
    {"degraded_version", &PipelineCounters::degraded_version},
    {"reloads", &PipelineCounters::reloads},
};

inline constexpr Count<ExposureCounters> exposure_counts[] = {
    {"requests", &ExposureCounters::requests, "pygrade_exposures_total"},
    {"complete", &ExposureCounters::complete, "pygrade_exposures_complete_total"},
    {"dropped", &ExposureCounters::dropped, "pygrade_exposures_dropped_total"},
    {"lost", &ExposureCounters::lost, "pygrade_exposures_lost_total"},
    {"rows", &ExposureCounters::rows, "pygrade_exposure_rows_total"},
    {"files", &ExposureCounters::files, "pygrade_exposure_files_total"},
    {"bytes", &ExposureCounters::bytes, "pygrade_exposure_bytes_total"},
    {"errors", &ExposureCounters::errors, "pygrade_exposure_errors_total"},
};

inline constexpr Count<HistoryCounters> history_counts[] = {
    {"pages", &HistoryCounters::pages, "pygrade_history_pages_total"},
    {"dropped", &HistoryCounters::dropped, "pygrade_history_dropped_total"},
    {"events", &HistoryCounters::events, "pygrade_history_events_total"},
    {"ignored", &HistoryCounters::ignored, "pygrade_history_ignored_total"},
    {"errors", &HistoryCounters::errors, "pygrade_history_errors_total"},
};

template <class T, std::size_t N>
void add_counts(T& sum, const T& more, const Count<T> (&counts)[N]) {
  for (const Count<T>& count : counts) sum.*count.member += more.*count.member;
}
}  // namespace pygrade::inline v0_2::detail
