#include "pygrade/ranker.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <type_traits>

#include "counts.hpp"
#include "families.hpp"
#include "pygrade/history_reasons.hpp"
#include "scores.hpp"
#include "serving/request_fields.hpp"
#include "util/parallel.hpp"

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

// State of BlendedRanker of Python.
struct Server {
  Ranker ranker;
  const std::size_t tasks, features;       // of every policy in service
  std::atomic<std::uint64_t> numbered{0};  // requests so far; the number is the id of a request without one

  Server(const std::shared_ptr<const Policy>& policy, const RankerOptions& options)
      : ranker(policy, options), tasks(policy->tasks().size()), features(policy->features().size()) {}
};

// Refuses offsets[B + 1] that are no rows of B requests, one after the other.
void check_offsets(std::span<const std::int64_t> offsets, std::int64_t rows) {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != rows || !std::ranges::is_sorted(offsets))
    throw py::value_error("offsets must ascend from 0 to the number of rows, " + std::to_string(rows));
}

// The rows of each request of the predictions.
struct Candidates {
  py::object array;  // [B, N, T], or [M, T] with offsets
  py::object offsets = py::none();
  std::span<const std::int64_t> bounds;  // [B + 1] if jagged
  std::size_t batch, total;

  Candidates(py::handle given, py::handle jagged, std::size_t tasks)
      : array(cast_array(given, "predictions", Dtype::float32)) {
    const bool dense = jagged.is_none();
    const Array p = bindings::array(array, "predictions", Dtype::float32,
                                    dense ? Shape{any_size, any_size, tasks} : Shape{any_size, tasks});
    batch = static_cast<std::size_t>(p.shape[0]);
    total = static_cast<std::size_t>(p.size()) / tasks;
    if (dense) return;
    offsets = cast_array(jagged, "offsets", Dtype::int64);
    bounds = span_of<const std::int64_t>(offsets, "offsets");
    check_offsets(bounds, p.shape[0]);
    batch = bounds.size() - 1;
  }
  std::size_t begin(std::size_t b) const {
    return bounds.empty() ? b * (total / batch) : static_cast<std::size_t>(bounds[b]);
  }
};

// An optional array of one row for each candidate or request, in any shape.
template <class T>
struct Rows {
  py::object array = py::none();
  std::span<const T> values;
  std::size_t width = 1;

  Rows() = default;
  // columns: 0, any number.
  Rows(py::handle given, const char* name, std::size_t rows, std::size_t columns = 1) {
    if (given.is_none()) return;
    array = cast_array(given, name, dtype_of<T>());
    const Array a = any_array(array, name);
    values = a.span<const T>();
    width = columns == 0 && rows > 0 ? values.size() / rows : columns;
    if (values.size() != rows * width)
      throw py::value_error(std::string(name) + " has shape " + shape_text(a) + "; expected " + std::to_string(rows) +
                            " × " + (columns == 0 ? std::string("any number of") : std::to_string(columns)) +
                            " values");
  }
  std::span<const T> of(std::array<std::size_t, 2> rows) const {
    return values.empty() ? values : values.subspan(rows[0] * width, (rows[1] - rows[0]) * width);
  }
};

// A name of each candidate, None: unknown; the list keeps the texts.
template <>
struct Rows<std::string_view> {
  std::vector<std::string_view> values;

  Rows() = default;
  Rows(py::handle given, const char* name, std::size_t rows, std::size_t) {
    if (given.is_none()) return;
    const auto refuse = [&] {
      throw py::value_error(std::string(name) + " does not hold a name, or None, for each of " + std::to_string(rows) +
                            " candidates");
    };
    if (!PyList_Check(given.ptr()) || static_cast<std::size_t>(PyList_GET_SIZE(given.ptr())) != rows) refuse();
    values.reserve(rows);
    for (std::size_t i = 0; i < rows; ++i) {
      PyObject* const text = PyList_GET_ITEM(given.ptr(), static_cast<py::ssize_t>(i));
      if (text != Py_None && !PyUnicode_Check(text)) refuse();
      py::ssize_t size = 0;
      const char* const bytes = text == Py_None ? "" : PyUnicode_AsUTF8AndSize(text, &size);
      if (bytes == nullptr) throw py::error_already_set();
      values.emplace_back(bytes, static_cast<std::size_t>(size));
    }
  }
  std::span<const std::string_view> of(std::array<std::size_t, 2> rows) const {
    return values.empty() ? std::span<const std::string_view>() : std::span(values).subspan(rows[0], rows[1] - rows[0]);
  }
};

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

// The arguments of a call by name, of which request.def has a row each: None, or its default, where one is not given.
struct Call {
  enum Place : std::size_t {
    k,
    offsets,
    seed,
#define PYGRADE_FIELD(type, name, rows, width, text) name,
#define PYGRADE_RULE(type, name, rows, width, json, text) name,
#define PYGRADE_OPTION(type, name, value, text) name,
#include "pygrade/request.def"
    count
  };
  std::array<py::handle, count> given;

  Call() {
    given.fill(Py_None);
#define PYGRADE_OPTION(type, name, value, text) \
  if constexpr (std::is_same_v<type, bool>) given[name] = type(value) ? Py_True : Py_False;
#include "pygrade/request.def"
  }
  py::handle operator[](Place place) const { return given[place]; }
  bool flag(Place place) const {
    py::detail::make_caster<bool> flag;
    if (!flag.load(given[place], false)) throw py::type_error(text_of(place) + " is no bool; expected True or False");
    return flag;
  }
  void set(PyObject* name, PyObject* value) {
    auto at = std::ranges::find(names(), name);  // most are interned
    if (at == names().end())
      at = std::ranges::find_if(names(), [&](PyObject* known) { return PyUnicode_Compare(known, name) == 0; });
    if (at == names().end()) throw py::type_error("there is no argument " + py::repr(name).cast<std::string>());
    given[static_cast<std::size_t>(at - names().begin())] = value;
  }

 private:
  static const std::array<PyObject*, count>& names() {
    static const std::array<PyObject*, count> made = [] {
      std::array<PyObject*, count> texts{};
      std::size_t at = 0;
      for (const char* text : {
               "k",
               "offsets",
               "seed",
#define PYGRADE_FIELD(type, name, rows, width, text) #name,
#define PYGRADE_RULE(type, name, rows, width, json, text) #name,
#define PYGRADE_OPTION(type, name, value, text) #name,
#include "pygrade/request.def"
           })
        texts[at++] = PyUnicode_InternFromString(text);
      return texts;
    }();
    return made;
  }
  static std::string text_of(Place place) { return py::cast<std::string>(names()[place]); }
};

// The requests of a call: arrays of B requests or of all candidates, see request.def.
struct Requests {
  const Candidates candidates;
  const std::size_t batch, total, places;  // places of each page
  const Scenarios scenarios;
  const bool explore, page_terms, as_logged;
  std::uint64_t draw = 0;  // of the first request
#define PYGRADE_FIELD(type, name, rows, width, text) Rows<type> name;
#define PYGRADE_RULE PYGRADE_COLUMN
#include "pygrade/request.def"

  Requests(const Server& server, Call call, std::size_t page_length)
      : candidates(call[Call::predictions], call[Call::offsets], server.tasks),
        batch(candidates.batch),
        total(candidates.total),
        places(page_length),
        scenarios(call[Call::scenario], batch),
        explore(call.flag(Call::explore)),
        page_terms(call.flag(Call::page_terms)),
        as_logged(call.flag(Call::as_logged)) {
    call.given[Call::predictions] = candidates.array;
    const struct {
      std::size_t one, candidates, places;
    } all{batch, total, batch * places}, once{1, total, 0};
    detail::FieldSizes sizes{.features = server.features, .tasks = server.tasks};
#define PYGRADE_RULE(type, name, rows, columns, json, text)   \
  if (#rows == std::string_view("one") && sizes.columns == 0) \
    sizes.columns = Rows<type>(call[Call::name], #name, 1, 0).values.size();
#include "pygrade/request.def"
#define PYGRADE_FIELD(type, name, rows, columns, text) \
  name = Rows<type>(call[Call::name], #name, all.rows, sizes.columns);
#define PYGRADE_RULE(type, name, rows, columns, json, text) \
  name = Rows<type>(call[Call::name], #name, once.rows, sizes.columns);
#include "pygrade/request.def"
  }

  Request of(std::size_t b) const {
    Request request{.scenario = scenarios.of(b),
                    .explore = explore,
                    .draw = draw + b,
                    .page_terms = page_terms,
                    .as_logged = as_logged};
    const struct {
      std::array<std::size_t, 2> one, candidates, places;
    } of_request{{b, b + 1}, {candidates.begin(b), candidates.begin(b + 1)}, {b * places, (b + 1) * places}},
        of_all{{0, 1}, of_request.candidates, {}};
#define PYGRADE_FIELD(type, name, rows, columns, text) request.name = name.of(of_request.rows);
#define PYGRADE_RULE(type, name, rows, columns, json, text) request.rules.name = name.of(of_all.rows);
#include "pygrade/request.def"
    return request;
  }
};

// Fields of a Page by its names, see _core.pyi.
py::dict rank(Server& server, const Call& call) {
  const std::size_t tasks = server.tasks, features = server.features;
  Requests given(server, call, static_cast<std::size_t>(list_length(call[Call::k])));
  const std::size_t batch = given.batch, places = given.places;
  const Output<float> known(batch, features), scores(batch, places), weights(batch, tasks), concentration(batch, tasks);
  const Output<std::int32_t> indices(batch, places);
  const Output<bool> fallback(batch), explored(batch);
  const Output<std::uint64_t> draws(batch);
  const std::span<const float> context = given.context.values;
  if (context.size() > known.values.size()) throw py::value_error("context has more values than features");
  std::ranges::fill(known.values, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < context.size(); ++i)
    if (std::isfinite(context[i])) known.values[i] = context[i];
  std::vector<PageEffect> effects(given.categories.values.empty() && given.embeddings.values.empty() ? 0
                                                                                                     : batch * places);
  std::vector<std::uint8_t> searched(batch, 0);
  constexpr std::int64_t last_seed = std::numeric_limits<std::int32_t>::max();
  if (!call[Call::draw].is_none())
    given.draw =
        static_cast<std::uint64_t>(integer(call[Call::draw], "draw", 0, std::numeric_limits<std::int64_t>::max()));
  else if (!call[Call::seed].is_none())
    given.draw = static_cast<std::uint64_t>(integer(call[Call::seed], "seed", 0, last_seed)) << 32;
  else if (given.explore)
    given.draw = server.ranker.reserve_draws(batch);

  const auto request_of = [&](std::size_t b) {
    Request request = given.of(b);
    request.context = known.row(b, features);
    return request;
  };
  const auto buffer_of = [&](std::size_t b) {
    return PageBuffer{scores.row(b, places), indices.row(b, places), weights.row(b, tasks), concentration.row(b, tasks),
                      effects.empty() ? std::span<PageEffect>() : std::span(effects).subspan(b * places, places)};
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
  if (policy->trade_offs() || policy->has_values() || !given.values.values.empty()) {
    const Output<float> table(batch, tasks);
    Policy::RequestValues memory;
    for (std::size_t b = 0; b < batch; ++b) {
      policy->find_values(given.values.of({b, b + 1}), given.scenarios.of(b), memory);
      std::ranges::copy(memory.values, table.row(b, tasks).begin());
    }
    in_force = table.array;
  }
  const Owners& owners = owners_of(policy);
  const std::pair<const char*, py::object> fields[] = {{"values", scores.array},
                                                       {"indices", indices.array},
                                                       {"weights", weights.array},
                                                       {"concentration", concentration.array},
                                                       {"fallback", fallback.array},
                                                       {"explored", explored.array},
                                                       {"seed", draws.array},
                                                       {"policy", owners.policy},
                                                       {"policy_version", owners.version},
                                                       {"context", known.array},
                                                       {"request_values", in_force},
                                                       {"first_number", py::cast(server.numbered.fetch_add(batch))},
                                                       {"predictions", given.candidates.array},
                                                       {"bounds", given.candidates.offsets},
                                                       {"item_values", given.item_values.array},
                                                       {"item_columns", given.items.array},
                                                       {"embeddings", given.embeddings.array},
                                                       {"as_logged", py::cast(given.as_logged)},
                                                       {"moves", moves_of(searched, effects, batch, places)}};
  static const auto names = [&] {
    std::array<PyObject*, std::size(fields)> made{};
    std::ranges::transform(fields, made.begin(),
                           [](const auto& entry) { return PyUnicode_InternFromString(entry.first); });
    return made;
  }();
  py::dict made;
  for (std::size_t i = 0; i < names.size(); ++i) PyDict_SetItem(made.ptr(), names[i], fields[i].second.ptr());
  return made;
}

// rank_pages(ranker, **arguments), past pybind11's dispatcher.
PyObject* rank_pages(PyObject*, PyObject* const* given, Py_ssize_t size, PyObject* keywords) noexcept {
  try {
    Call call;
    if (size != 1) throw py::type_error("expected the ranker, and all else by name");
    for (Py_ssize_t i = 0; keywords != nullptr && i < PyTuple_GET_SIZE(keywords); ++i)
      call.set(PyTuple_GET_ITEM(keywords, i), given[1 + i]);
    return rank(py::cast<Server&>(py::handle(given[0])), call).release().ptr();
  } catch (...) {
    return set_error();
  }
}

// Requests that are scored, by name as those of rank_pages.
Requests requests_of(const Server& server, const py::kwargs& named) {
  Call call;
  for (const auto& [name, value] : named) call.set(name.ptr(), value.ptr());
  return {server, call, 0};
}

// Scores [M] of all candidates, into result.
void score(Server& server, py::handle result, int num_threads, const py::kwargs& named) {
  const Requests given = requests_of(server, named);
  const auto to = span_of<float>(result, "result", {given.total});
  std::vector<Request> requests;
  std::vector<std::span<float>> scores;
  for (std::size_t b = 0; b < given.batch; ++b) {
    const std::size_t begin = given.candidates.begin(b);
    requests.push_back(given.of(b));
    scores.push_back(to.subspan(begin, given.candidates.begin(b + 1) - begin));
  }
  const py::gil_scoped_release release;
  server.ranker.score(requests, scores, num_threads);
}

// Parts of these scores with weights[B, T]: contributions[M, T], or shares of a mixed network, the baseline's share
// [M], 0 without one, and corrected predictions [M, T], None if nothing reads them.
py::tuple score_parts(Server& server, py::handle weights, const py::kwargs& named) {
  const Requests given = requests_of(server, named);
  const std::size_t tasks = server.tasks, total = given.total;
  const Rows<float> served(weights, "weights", given.batch, tasks);
  const Output<float> contributions(total, tasks), baseline(total), corrected(total, tasks);
  std::ranges::fill(baseline.values, 0.0f);
  const auto policy = server.ranker.policy();
  bool corrects = false;
  for (std::size_t b = 0; b < given.batch; ++b) {
    const auto parts = Ranker::score_parts(*policy, given.of(b), served.of({b, b + 1}));
    const auto to = [&](const Output<float>& output, std::size_t width) {
      return output.values.begin() + static_cast<std::ptrdiff_t>(given.candidates.begin(b) * width);
    };
    std::ranges::copy(parts.of_tasks(), to(contributions, tasks));
    std::ranges::copy(parts.baseline_share, to(baseline, 1));
    std::ranges::copy(parts.corrected, to(corrected, tasks));
    corrects |= !parts.corrected.empty();
  }
  return py::make_tuple(contributions.array, baseline.array, corrects ? corrected.array : py::object(py::none()));
}

// Reasons by history of candidates[n] of a request: for each a list of (whose columns, task, factor, text).
py::list history_reasons(Server& server, std::size_t request, py::handle candidates, const py::kwargs& named) {
  const auto policy = server.ranker.policy();
  const Requests given = requests_of(server, named);
  if (request >= given.batch)
    throw py::value_error("request is " + std::to_string(request) + "; there are " + std::to_string(given.batch));
  py::list result;
  for (const auto& reasons :
       pygrade::history_reasons(*policy, given.of(request), span_of<const std::int32_t>(candidates, "candidates"))) {
    py::list own;
    for (const HistoryReason& reason : reasons)
      own.append(py::make_tuple(History::group_names[static_cast<std::size_t>(reason.group)],
                                policy->tasks()[reason.task], reason.factor, reason.text));
    result.append(own);
  }
  return result;
}

// Scores result[M] of a mixture from those of its parts, base[M] and other[M], in the requests of offsets[B + 1].
void mix_scores(py::handle base, py::handle other, double mixture_weight, py::handle offsets, py::handle result,
                int num_threads) {
  const auto bases = span_of<const float>(base, "base");
  const auto others = span_of<const float>(other, "other", {bases.size()});
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  const auto to = span_of<float>(result, "result", {bases.size()});
  check_offsets(bounds, static_cast<std::int64_t>(bases.size()));
  if (!(mixture_weight >= 0.0 && mixture_weight <= 1.0))
    throw py::value_error("mixture_weight is " + std::to_string(mixture_weight) + "; expected a number from 0 to 1");
  const auto batch = static_cast<std::int64_t>(bounds.size() - 1);
  const double mean = static_cast<double>(bases.size()) / static_cast<double>(std::max<std::int64_t>(batch, 1));
  const Mixture mixture{.mixture_weight = mixture_weight};
  const py::gil_scoped_release release;
  detail::parallel_for(batch, num_threads, detail::grain_of(200.0 + mean), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> pair;
    for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b) {
      const auto first = static_cast<std::size_t>(bounds[b]), rows = static_cast<std::size_t>(bounds[b + 1]) - first;
      if (rows == 0) continue;
      pair.resize(2 * rows);
      std::ranges::copy(bases.subspan(first, rows), pair.begin());
      std::ranges::copy(others.subspan(first, rows), pair.begin() + static_cast<std::ptrdiff_t>(rows));
      mixture.mix(pair, to.subspan(first, rows));
    }
  });
}
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
      .def("score", &score, "result"_a, "num_threads"_a)
      .def("score_parts", &score_parts, "weights"_a)
      .def("history_reasons", &history_reasons, "request"_a, "candidates"_a)
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
  module.def("mix_scores", &mix_scores, "base"_a, "other"_a, "mixture_weight"_a, "offsets"_a, "result"_a,
             "num_threads"_a);
  module.def(
      "describe_move",
      [](float effect, std::int32_t above, std::int32_t sorted_place, std::int32_t place, const std::string& root) {
        return describe({effect, above, sorted_place}, place, root);
      },
      "effect"_a, "above"_a, "sorted_place"_a, "place"_a, "root"_a);
  static PyMethodDef definition{"rank_pages", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&rank_pages)),
                                METH_FASTCALL | METH_KEYWORDS, "rank_pages(ranker: object, **arguments) -> dict"};
  module.attr("rank_pages") = py::reinterpret_steal<py::object>(PyCFunction_New(&definition, nullptr));
}
}  // namespace pygrade::inline v0_2::bindings
