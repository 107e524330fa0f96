#include "pygrade/ranker.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>

#include "counts.hpp"
#include "families.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

// The deleter of a policy in service: keeps the core's policy, the FusionPolicy that it was made from and its version.
// The core lets go of them in any thread, with or without the GIL.
struct Owners {
  std::shared_ptr<Policy> core;
  py::object policy, version;

  void operator()(const Policy*) {
    const py::gil_scoped_acquire acquired;
    policy = version = py::object();
    core.reset();
  }
};

std::shared_ptr<const Policy> owned(std::shared_ptr<Policy> core, py::object policy) {
  const Policy* address = core.get();
  py::str version(core->version());
  return {address, Owners{std::move(core), std::move(policy), std::move(version)}};
}

const Owners& owners_of(const std::shared_ptr<const Policy>& policy) { return *std::get_deleter<Owners>(policy); }

// What BlendedRanker of Python holds.
struct Server {
  Ranker ranker;
  const std::size_t tasks, features;       // of every policy in service
  std::atomic<std::uint64_t> numbered{0};  // requests so far; the number is the id of a request without one

  Server(const std::shared_ptr<const Policy>& policy, const RankerOptions& options)
      : ranker(policy, options), tasks(policy->tasks().size()), features(policy->features().size()) {}
};

// The predictions, and the rows of each request.
struct Candidates {
  Array predictions;                     // [B, N, T], or [M, T] with offsets
  std::span<const std::int64_t> bounds;  // [B + 1] if jagged
  std::size_t batch, total;

  std::span<const float> rows(std::size_t first, std::size_t last, std::size_t tasks) const {
    return predictions.span<const float>().subspan(first * tasks, (last - first) * tasks);
  }
  std::size_t begin(std::size_t b) const { return bounds.empty() ? b * (total / batch) : at(b); }
  std::size_t end(std::size_t b) const { return bounds.empty() ? (b + 1) * (total / batch) : at(b + 1); }

 private:
  std::size_t at(std::size_t b) const { return static_cast<std::size_t>(bounds[b]); }
};

Candidates candidates_of(py::handle predictions, py::handle offsets, std::int64_t tasks) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  if (offsets.is_none()) {
    const Array p = array(predictions, "predictions", Dtype::float32, {any_size, any_size, tasks});
    return {p, {}, size(p.shape[0]), size(p.shape[0] * p.shape[1])};
  }
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, tasks});
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  if (bounds.empty() || bounds.front() != 0 || bounds.back() != p.shape[0] || !std::ranges::is_sorted(bounds))
    throw py::value_error("offsets must ascend from 0 to the number of prediction rows");
  return {p, bounds, bounds.size() - 1, size(p.shape[0])};
}

// An optional array with `columns` values for each candidate, in any shape.
template <class T>
struct Rows {
  std::span<const T> values;
  std::size_t columns = 1;

  Rows(py::handle value, const char* name, std::size_t total, std::size_t width = 1) : columns(width) {
    if (value.is_none()) return;
    const Array a = any_array(value, name);
    if (a.dtype != dtype_of<T>() || a.size() != static_cast<std::int64_t>(total * width))
      throw py::value_error(std::string(name) + " does not hold its values for each candidate");
    values = a.span<const T>();
  }
  std::span<const T> of(std::size_t begin, std::size_t end) const {
    return values.empty() ? values : values.subspan(begin * columns, (end - begin) * columns);
  }
};

// The columns of an array of any shape whose rows are candidates; the core knows how many it wants.
std::size_t columns_of(py::handle rows, const char* name, std::size_t total) {
  if (rows.is_none() || total == 0) return 0;
  return static_cast<std::size_t>(any_array(rows, name).size()) / total;
}

// The name of each candidate, or none; the list keeps the texts.
std::vector<std::string_view> names_of(py::handle categories, std::size_t total) {
  std::vector<std::string_view> names;
  if (categories.is_none()) return names;
  if (!PyList_Check(categories.ptr()) || static_cast<std::size_t>(PyList_GET_SIZE(categories.ptr())) != total)
    throw py::value_error("categories must be a list of one name for each candidate");
  names.reserve(total);
  for (std::size_t i = 0; i < total; ++i) {
    PyObject* const name = PyList_GET_ITEM(categories.ptr(), static_cast<py::ssize_t>(i));
    py::ssize_t size = 0;
    const char* const text = name == Py_None ? "" : PyUnicode_AsUTF8AndSize(name, &size);
    if (text == nullptr) throw py::error_already_set();
    names.emplace_back(text, static_cast<std::size_t>(size));
  }
  return names;
}

// One name for all requests, or a list of one for each.
struct Scenarios {
  std::optional<std::string_view> all;
  std::vector<std::string> each;

  Scenarios(py::handle value, std::size_t batch) {
    if (value.is_none()) return;
    if (PyUnicode_Check(value.ptr())) {
      all = py::cast<std::string_view>(value);
    } else {
      each = py::cast<std::vector<std::string>>(value);
      if (each.size() != batch) throw py::value_error("scenario must have one name for each request");
    }
  }
  std::optional<std::string_view> of(std::size_t b) const {
    return each.empty() ? all : std::optional<std::string_view>(each[b]);
  }
};

std::uint64_t draw_of(py::handle seed, bool explore, Ranker& ranker, std::size_t batch) {
  if (seed.is_none()) return explore ? ranker.reserve_draws(batch) : 0;
  const auto given = py::cast<std::int64_t>(seed);
  if (given < 0 || given >> 31) throw py::value_error("seed must be 0 … 2^31 - 1");
  return static_cast<std::uint64_t>(given) << 32;
}

// A new array that a Page keeps.
template <class T>
struct Output {
  py::object array;
  std::span<T> values;

  explicit Output(std::size_t rows) : Output(rows, Shape{rows}) {}
  Output(std::size_t rows, std::size_t columns) : Output(rows * columns, Shape{rows, columns}) {}

  std::span<T> row(std::size_t b, std::size_t columns) const { return values.subspan(b * columns, columns); }

 private:
  Output(std::size_t size, const Shape& shape)
      : array(new_numpy(py::dtype::num_of<T>(), shape)),
        values(static_cast<T*>(py::reinterpret_borrow<py::array>(array).mutable_data()), size) {}
};

// NaN for values that are not finite; all NaN without a context.
void copy_context(py::handle context, std::size_t batch, std::size_t features, std::span<float> to) {
  constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
  std::ranges::fill(to, unknown);
  if (context.is_none()) return;
  const auto from = span_of<const float>(context, "context", {batch, features});
  for (std::size_t i = 0; i < to.size(); ++i)
    if (std::isfinite(from[i])) to[i] = from[i];
}

// (searched [B], effects, items above and sorted places [B, k]), or None if no page was searched.
py::object moves_of(std::span<const std::uint8_t> searched, std::span<const PageEffect> moved, std::size_t batch,
                    std::size_t k) {
  if (std::ranges::count(searched, 1) == 0) return py::none();
  const Output<bool> found(batch);
  const Output<float> effects(batch, k);
  const Output<std::int32_t> above(batch, k), places(batch, k);
  std::ranges::copy(searched, found.values.begin());
  for (std::size_t i = 0; i < moved.size(); ++i) {
    effects.values[i] = moved[i].effect;
    above.values[i] = moved[i].above;
    places.values[i] = moved[i].sorted_place;
  }
  return py::make_tuple(found.array, effects.array, above.array, places.array);
}

// Server, context, predictions, k, offsets, scenario, mask, boost_mul, boost_add, groups, caps, explore, seed, values,
// item_values, items, categories, embeddings, page_terms, as_logged → what a Page holds, see _core.pyi.
py::object rank(const Arguments<20>& arguments) {
  const auto& [self, context, predictions, length, offsets, scenario, mask, boost_mul, boost_add, groups, caps,
               exploring, seed, task_values, item_values, items, categories, embeddings, page_terms, logged] =
      arguments;
  auto& server = py::cast<Server&>(self);
  const std::size_t tasks = server.tasks, features = server.features;
  const Candidates candidates = candidates_of(predictions, offsets, static_cast<std::int64_t>(tasks));
  const std::size_t batch = candidates.batch, total = candidates.total;
  const auto k = static_cast<std::size_t>(list_length(length));
  const Scenarios scenarios(scenario, batch);
  if (groups.is_none() != caps.is_none()) throw py::value_error("groups and caps belong together");
  const auto limits = optional_span<const std::int32_t>(caps, "caps");
  if (std::ranges::any_of(limits, [](std::int32_t cap) { return cap < -1; }))
    throw py::value_error("caps holds a number below -1; want -1 (no cap) or more");
  const Rows<std::uint8_t> eligible(mask, "mask", total);
  const Rows<float> factor(boost_mul, "boost_mul", total);
  const Rows<float> addend(boost_add, "boost_add", total);
  const Rows<std::int32_t> member(groups, "groups", total, limits.size());
  const Rows<float> prices(item_values, "item_values", total);
  const Rows<float> item_columns(items, "items", total, columns_of(items, "items", total));
  const Rows<float> given(task_values, "values", batch, tasks);
  const auto names = names_of(categories, total);
  const Rows<float> vectors(embeddings, "embeddings", total, columns_of(embeddings, "embeddings", total));
  const bool with_terms = py::cast<bool>(page_terms);
  std::vector<PageEffect> effects(names.empty() && vectors.values.empty() ? 0 : batch * k);
  std::vector<std::uint8_t> searched(batch, 0);
  const bool explore = py::cast<bool>(exploring), as_logged = py::cast<bool>(logged);

  const Output<float> known(batch, features), values(batch, k), weights(batch, tasks), concentration(batch, tasks);
  const Output<std::int32_t> indices(batch, k);
  const Output<bool> fallback(batch), explored(batch);
  const Output<std::uint64_t> draws(batch);
  copy_context(context, batch, features, known.values);
  const std::uint64_t first = draw_of(seed, explore, server.ranker, batch);

  const auto request_of = [&](std::size_t b) {
    const std::size_t begin = candidates.begin(b), end = candidates.end(b);
    const PageRules rules{eligible.of(begin, end), factor.of(begin, end), addend.of(begin, end), member.of(begin, end),
                          limits};
    return Request{known.row(b, features),
                   candidates.rows(begin, end, tasks),
                   rules,
                   scenarios.of(b),
                   explore,
                   first + b,
                   given.of(b, b + 1),
                   prices.of(begin, end),
                   item_columns.of(begin, end),
                   names.empty() ? std::span<const std::string_view>() : std::span(names).subspan(begin, end - begin),
                   vectors.of(begin, end),
                   with_terms,
                   {},
                   {},
                   as_logged};
  };
  const auto buffer_of = [&](std::size_t b) {
    return PageBuffer{values.row(b, k), indices.row(b, k), weights.row(b, tasks), concentration.row(b, tasks),
                      effects.empty() ? std::span<PageEffect>() : std::span(effects).subspan(b * k, k)};
  };
  const auto keep = [&](std::span<const Page> pages) {
    for (std::size_t b = 0; b < batch; ++b) {
      fallback.values[b] = pages[b].fallback != Fallback::none;
      explored.values[b] = pages[b].explored;
      searched[b] = pages[b].searched;
      draws.values[b] = pages[b].seed;
    }
  };
  // No lease is held under the GIL: a swap waits for leases, and a fork, which holds the GIL, for swaps.
  std::shared_ptr<const Policy> policy;
  if (batch == 1) {
    const py::gil_scoped_release release;
    Ranker::Lease lease(server.ranker);
    policy = lease.policy();
    const Page page = lease.rank(request_of(0), buffer_of(0));
    keep({&page, 1});
  } else {
    const int threads = thread_count(py::none());
    const py::gil_scoped_release release;
    std::vector<Request> requests(batch);
    std::vector<PageBuffer> buffers(batch);
    std::vector<Page> pages(batch);
    for (std::size_t b = 0; b < batch; ++b) {
      requests[b] = request_of(b);
      buffers[b] = buffer_of(b);
    }
    Ranker::Lease lease(server.ranker);
    policy = lease.policy();
    lease.rank(requests, buffers, pages, threads);
    keep(pages);
  }
  py::object in_force = py::none();
  if (policy->trade_offs() || policy->valued() || !task_values.is_none()) {
    const Output<float> table(batch, tasks);
    Policy::RequestValues memory;
    for (std::size_t b = 0; b < batch; ++b) {
      policy->find_values(given.of(b, b + 1), scenarios.of(b), memory);
      std::ranges::copy(memory.values, table.row(b, tasks).begin());
    }
    in_force = table.array;
  }
  const Owners& owners = owners_of(policy);
  return py::make_tuple(values.array, indices.array, weights.array, concentration.array, fallback.array, explored.array,
                        draws.array, owners.policy, owners.version, known.array, in_force,
                        server.numbered.fetch_add(batch), moves_of(searched, effects, batch, k));
}

// Logged requests as arrays, see FusionPolicy.scores.
struct LoggedRequests {
  Candidates candidates;
  std::vector<Request> requests;

  LoggedRequests(const Server& server, py::handle context, py::handle predictions, py::handle offsets,
                 py::handle scenario, py::handle values, py::handle item_values, py::handle items)
      : candidates(candidates_of(predictions, offsets, static_cast<std::int64_t>(server.tasks))),
        requests(candidates.batch),
        scenarios_(scenario, candidates.batch) {
    const std::size_t batch = candidates.batch, total = candidates.total;
    const Rows<float> known(context, "context", batch, server.features), given(values, "values", batch, server.tasks),
        prices(item_values, "item_values", total);
    const Rows<float> columns(items, "items", total, columns_of(items, "items", total));
    for (std::size_t b = 0; b < batch; ++b) {
      const std::size_t begin = candidates.begin(b), end = candidates.end(b);
      requests[b] = {.context = known.of(b, b + 1),
                     .predictions = candidates.rows(begin, end, server.tasks),
                     .scenario = scenarios_.of(b),
                     .values = given.of(b, b + 1),
                     .item_values = prices.of(begin, end),
                     .items = columns.of(begin, end),
                     .as_logged = true};
    }
  }

 private:
  Scenarios scenarios_;
};

// Scores [M] of all candidates, into result.
void score(Server& server, py::handle context, py::handle predictions, py::handle offsets, py::handle scenario,
           py::handle values, py::handle item_values, py::handle items, py::handle result, int num_threads) {
  const LoggedRequests log(server, context, predictions, offsets, scenario, values, item_values, items);
  const auto to = span_of<float>(result, "result", {log.candidates.total});
  std::vector<std::span<float>> scores;
  for (std::size_t b = 0; b < log.requests.size(); ++b)
    scores.push_back(to.subspan(log.candidates.begin(b), log.candidates.end(b) - log.candidates.begin(b)));
  const py::gil_scoped_release release;
  server.ranker.score(log.requests, scores, num_threads);
}

// What they are made of with weights[B, T]: contributions[M, T], or shares of a mixed network, the baseline's share
// [M], 0 without one, and corrected predictions [M, T], None if nothing reads them.
py::tuple score_parts(Server& server, py::handle context, py::handle predictions, py::handle offsets,
                      py::handle scenario, py::handle values, py::handle item_values, py::handle items,
                      py::handle weights) {
  const LoggedRequests log(server, context, predictions, offsets, scenario, values, item_values, items);
  const std::size_t tasks = server.tasks, total = log.candidates.total;
  const Rows<float> served(weights, "weights", log.requests.size(), tasks);
  const Output<float> contributions(total, tasks), baseline(total), corrected(total, tasks);
  std::ranges::fill(baseline.values, 0.0f);
  const auto policy = server.ranker.policy();
  bool corrects = false;
  for (std::size_t b = 0; b < log.requests.size(); ++b) {
    const auto parts = Ranker::score_parts(*policy, log.requests[b], served.of(b, b + 1));
    const auto to = [&](const Output<float>& output, std::size_t width) {
      return output.values.begin() + static_cast<std::ptrdiff_t>(log.candidates.begin(b) * width);
    };
    const auto narrow = [](double value) { return static_cast<float>(value); };
    if (parts.task_shares.empty())
      std::ranges::copy(parts.contributions, to(contributions, tasks));
    else
      std::ranges::transform(parts.task_shares, to(contributions, tasks), narrow);
    std::ranges::transform(parts.baseline_share, to(baseline, 1), narrow);
    std::ranges::copy(parts.corrected, to(corrected, tasks));
    corrects |= !parts.corrected.empty();
  }
  return py::make_tuple(contributions.array, baseline.array, corrects ? corrected.array : py::object(py::none()));
}

// The core's own checks don't name the request; Python's do.
py::object pages_fast_path(const Arguments<20>& arguments) {
  try {
    return rank(arguments);
  } catch (const std::invalid_argument& error) {
    throw py::value_error(error.what());
  }
}

constexpr auto rank_names =
    "ranker, context, predictions, k, offsets, scenario, mask, boost_mul, boost_add, groups, caps, explore, seed, "
    "values, item_values, items, categories, embeddings, page_terms, as_logged";

}  // namespace

void bind_ranker(py::module_& module) {
  py::class_<Server>(module, "Ranker")
      .def(py::init([](std::shared_ptr<Policy> core, py::object policy, std::uint32_t seed) {
             return std::make_unique<Server>(owned(std::move(core), std::move(policy)), RankerOptions{.seed = seed});
           }),
           "core"_a, "policy"_a, "seed"_a)
      .def(
          "swap",
          [](Server& server, std::shared_ptr<Policy> core, py::object policy) {
            auto next = owned(std::move(core), std::move(policy));
            const py::gil_scoped_release release;
            server.ranker.swap(std::move(next));
          },
          "core"_a, "policy"_a)
      .def("score", &score, "context"_a, "predictions"_a, "offsets"_a, "scenario"_a, "values"_a, "item_values"_a,
           "items"_a, "result"_a, "num_threads"_a)
      .def("score_parts", &score_parts, "context"_a, "predictions"_a, "offsets"_a, "scenario"_a, "values"_a,
           "item_values"_a, "items"_a, "weights"_a)
      .def_property_readonly("policy", [](const Server& server) { return owners_of(server.ranker.policy()).policy; })
      .def_property_readonly("version", [](const Server& server) { return owners_of(server.ranker.policy()).version; })
      .def(
          "reserve_draws", [](Server& server, std::uint32_t count) { return server.ranker.reserve_draws(count); },
          "count"_a)
      .def_property_readonly("counters", [](const Server& server) {
        py::dict counts;
        add_counts(counts, server.ranker.counters(), detail::ranker_counts);
        return counts;
      });
  module.def(
      "describe_move",
      [](float effect, std::int32_t above, std::int32_t sorted_place, std::int32_t place, const std::string& root) {
        return describe({effect, above, sorted_place}, place, root);
      },
      "effect"_a, "above"_a, "sorted_place"_a, "place"_a, "root"_a);
  def_positional<&rank, LeftAlone::nothing>(module, "rank_pages", rank_names);
  def_positional<&pages_fast_path, LeftAlone::all>(module, "rank_pages_fast_path", rank_names);
}

}  // namespace pygrade::inline v0_2::bindings
