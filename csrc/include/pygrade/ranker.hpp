// The whole serving path in one object: features and task predictions of a request in, page out.
//
// `Ranker` corrects the predictions, evaluates the policy, falls back to static weights if features are missing,
// explores on request, mixes the scores with the baseline's, and ranks. Where the correction has page terms, one
// expected value of corrected predictions makes the scores (no mixture), and the weights are not drawn, it searches the
// page: each place takes the item that is worth most below the items above it. `BlendedRanker` in Python calls this.
//
// `rank` takes no lock. Any number of threads may call it, also while another one swaps the policy. Requests of a size
// that it has met allocate nothing; the memory of large ones is given back. A forked child may use the rankers.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/ranking.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
template <class Value, class Memory>
struct HotSlot;
template <class Value, class Memory>
class HotSwap;
struct Found {        // in a request's predictions
  bool gaps;          // one is missing
  bool no_negatives;  // surely; false tells nothing
};
}  // namespace detail

// Whether a prediction is NaN or infinite. Its candidate ranks last and leaves the scores of the others alone.
inline bool is_missing(float prediction) { return !std::isfinite(prediction); }

// One request of N candidates: arrays of the caller, an empty one is not given, and options. See request.def.
struct Request {
#define PYGRADE_FIELD(type, name, rows, width, text) std::span<const type> name = {};
#define PYGRADE_RULES PageRules rules = {};
#define PYGRADE_OPTION(type, name, value, text) type name = value;
#include "pygrade/request.def"
};

// Effect that moved an item of a page that was searched by page terms.
struct PageEffect {
  float effect = 0.0f;             // E: exp(E) multiplies the part of its score that needs the root task
  std::int32_t above = 0;          // items above it whose own term has the sign of E and is 0.01 or more
  std::int32_t sorted_place = -1;  // its place by the scores alone, under the same rules; -1: none, it is not among k
};

// As text: "moved down 3: 2 like it above, click × 0.62" of an item in this place; "" if nothing moved it.
PYGRADE_API std::string describe(const PageEffect& effect, std::int32_t place, std::string_view root);

// Where `rank` writes. k is the size of values.
struct PageBuffer {
  // [k] final scores, best first unless the page is searched or has pins or demoted items; NaN if a prediction is
  // missing; -inf in padding
  std::span<float> values = {};
  std::span<std::int32_t> indices = {};  // [k] candidates; -1 in padding
  std::span<float> weights = {};         // [T] the served weights, or empty
  std::span<float> concentration = {};   // [T] the policy's output, NaN in a fallback, or empty
  std::span<PageEffect> effects = {};    // [k] of a page that is searched (Page::searched), or empty
};

enum class Fallback : std::uint8_t { none = 0, scenario = 1, global = 2 };  // whose static weights were served

struct Page {
  std::int32_t filled = 0;               // items on the page
  std::int32_t missing_predictions = 0;  // candidates, see is_missing
  // Item columns that the policy's correction reads, where the request had none of them: their means stood in.
  std::int32_t missing_items = 0;
  Fallback fallback = Fallback::none;
  bool explored = false;   // the weights are a draw; fallback requests never explore
  bool searched = false;   // by page terms: what stands above an item counted
  bool shuffled = false;   // for the log: the caller put the page in a random order
  std::uint64_t seed = 0;  // of the draw: dirichlet_sample(concentration, 1, seed >> 32, offset = seed & 0xffffffff)
  std::array<char, 12> policy_version{};
  float mixture_weight = 1.0f;  // share of the policy in the scores; the rest is the baseline's
  Verdict verdict = Verdict::none;
  std::array<char, Baseline::max_name + 1> baseline_name{};  // ends with 0

  // Sets version, mixture_weight, verdict and baseline.
  PYGRADE_API void set_policy(const Policy& policy);

  // As in the log.
  std::string_view exploration() const { return explored ? "dirichlet" : shuffled ? "shuffle" : "none"; }
  std::string_view version() const { return {policy_version.data(), policy_version.size()}; }
  std::string_view baseline() const { return baseline_name.data(); }
};

// Parts of the scores of N candidates, before boosts, rules and page terms; NaN where a prediction is missing.
struct ScoreParts {
  const Baseline* lead = nullptr;      // of the policy: the challenger, what ranks by values, or the baseline alone
  bool logarithm = false;              // the scores of `lead` are logarithms of sums
  std::vector<float> corrected;        // [N, T] corrected predictions; empty: nothing reads them
  std::vector<float> trees;            // [N] factors by which its trees move all predictions; empty: there are none
  std::vector<float> contributions;    // [N, T] that the lead (null: the network) adds up
  std::vector<float> scores;           // [N] of the lead: their sums, or the logarithms of these
  std::vector<float> baseline;         // [N] scores of the mixture's baseline; empty: nothing is mixed
  std::vector<double> share;           // [N] w · z(scores), w the mixture_weight, and
  std::vector<double> baseline_share;  // [N] (1 - w) · z(baseline), of which a mixture's score is the sum
  std::vector<double> task_shares;     // [N, T] that add up to the share of a network that is mixed; or empty

  // [N, T] what each task gives: its share, else its contribution.
  std::vector<float> of_tasks() const {
    return task_shares.empty() ? contributions : std::vector<float>(task_shares.begin(), task_shares.end());
  }
};

struct RankerOptions {
  std::optional<std::uint32_t> seed = {};  // of the exploration stream, below 2^31; by default from the system
};

// Since the start, over all threads.
struct RankerCounters {
  std::uint64_t requests = 0;
  std::uint64_t fallback_scenario = 0;
  std::uint64_t fallback_global = 0;
  std::uint64_t explored = 0;
  std::uint64_t missing_predictions = 0;  // candidates
  std::uint64_t empty_pages = 0;
  std::uint64_t missing_items = 0;  // pages, see Page
};

class PYGRADE_API Ranker {
 public:
  explicit Ranker(std::shared_ptr<const Policy> policy, const RankerOptions& options = {});
  // From a policy directory; ArtifactError if it is damaged or absent.
  static std::unique_ptr<Ranker> load(const std::string& directory, const RankerOptions& options = {});
  ~Ranker();
  Ranker(const Ranker&) = delete;
  Ranker& operator=(const Ranker&) = delete;

  // Throws std::invalid_argument for sizes that do not fit, for predictions that their scale can't have, for negative
  // ones under a logarithm, for values that are all 0 or not taken, and for missing or negative item_values;
  // then the buffer is untouched and nothing is counted.
  Page rank(const Request& request, const PageBuffer& buffer);

  // One page for each request, all by one policy, in up to num_threads threads; the pages do not depend on the number.
  // Requests that explore take the next draws in their order. All arguments are checked before any request is ranked.
  void rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
            int num_threads = 1);

  // Computes what each request's candidates are ranked by, scores[b][N], NaN where a prediction is missing: without
  // rules, pins, demotions, page terms and draws. All by one policy; arguments are checked before anything is scored,
  // and nothing is counted.
  void score(std::span<const Request> requests, std::span<const std::span<float>> scores, int num_threads = 1);

  // Parts of these scores with the weights[T] that a page was ranked with.
  static ScoreParts score_parts(const Policy& policy, const Request& request, std::span<const float> weights);

  // Requests that start after this returns are ranked by `policy`; std::invalid_argument if it has other tasks or
  // features, or both have corrections, by other item columns. Returns when no thread ranks with the old one, and no
  // Lease holds it, any more.
  void swap(std::shared_ptr<const Policy> policy);

  std::shared_ptr<const Policy> policy() const;
  RankerCounters counters() const;

  // The first of `count` consecutive draws of the exploration stream, all of one seed, for requests that name theirs
  // (Request::draw). count is below 2^32.
  std::uint64_t reserve_draws(std::uint64_t count);

  // Holds the policy in service, for callers that read it and rank by it: all pages of a lease are of one version.
  // `swap` waits for its end, so keep it short, and swap nothing meanwhile in the same thread.
  class Lease;

 private:
  using Owner = std::shared_ptr<const Policy>;
  struct Memory;  // of one thread at a time

  // Inputs of requests whose sizes and predictions were checked.
  struct Prepared;
  static Prepared read(Memory& memory, const Policy& used, const Request& given, detail::Found found);
  Prepared prepare(Memory& memory, const Policy& used, const Request& given, std::optional<std::uint64_t> draw,
                   detail::Found found);
  void score(Memory& memory, const Policy& used, const Request& given, detail::Found found, std::span<float> scores);
  Page rank(Memory& memory, const Policy& used, const Request& given, const PageBuffer& buffer,
            std::optional<std::uint64_t> draw, detail::Found found);

  std::unique_ptr<detail::HotSwap<Owner, Memory>> policies_;
  std::atomic<std::uint64_t> stream_;
};

class PYGRADE_API Ranker::Lease {
 public:
  explicit Lease(Ranker& ranker);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const std::shared_ptr<const Policy>& policy() const;

  // As Ranker::rank.
  Page rank(const Request& request, const PageBuffer& buffer);
  void rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
            int num_threads = 1);
  // As Ranker::score.
  void score(std::span<const Request> requests, std::span<const std::span<float>> scores, int num_threads = 1);

 private:
  Lease(Ranker& ranker, const Owner* held_by_another);

  Ranker& ranker_;
  detail::HotSlot<Owner, Memory>& slot_;
};

// The ids of a request and its candidates in the log.
struct LogIds {
  std::string_view request_id = {};
  std::string_view user_id = {};
  std::span<const std::int64_t> item_id = {};  // [N]; empty: the index
  std::optional<std::int64_t> timestamp = {};  // ms since 1970
};

// The request as rows of CSV in the columns of the log contract (request_id, user_id, item_id, position, x_…, p_…, y_…,
// i_… of the policy's correction, value if something prices tasks, category if page terms read it, scenario, w_…, a_…,
// seed, policy_version, exploration, timestamp, mixture_weight, baseline, verdict, and, if the policy takes values,
// v_…): one per candidate, as Python's Page.log_rows. The y_ of shown candidates are 0, the others empty: join the
// feedback by request_id and item_id. A candidate with a missing prediction is left out unless it was shown; then the
// smallest prediction of the task in the request stands in. Appends to `out`.
PYGRADE_API void append_log_header(const Policy& policy, std::string& out);
PYGRADE_API void append_log_rows(const Policy& policy, const Request& request, const PageBuffer& buffer,
                                 const Page& page, const LogIds& ids, std::string& out);
}  // namespace pygrade::inline v0_2
