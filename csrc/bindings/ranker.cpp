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

// The predictions [M, T], and the rows of each request.
struct Candidates {
  py::object array;  // [B, N, T], or [M, T] with offsets
  py::object offsets = py::none();
  std::span<const float> predictions;
  std::span<const std::int64_t> bounds;  // [B + 1] if jagged
  std::size_t batch, total;

  Candidates(py::handle given, py::handle jagged, std::size_t tasks)
      : array(cast_array(given, "predictions", Dtype::float32)) {
    const bool dense = jagged.is_none();
    const Array p = bindings::array(array, "predictions", Dtype::float32,
                                    dense ? Shape{any_size, any_size, tasks} : Shape{any_size, tasks});
    predictions = p.span<const float>();
    batch = static_cast<std::size_t>(p.shape[0]);
    total = predictions.size() / tasks;
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

  // columns: 0, any number.
  Rows(py::handle given, const char* name, std::size_t rows, std::size_t columns = 1) {
    if (given.is_none()) return;
    array = cast_array(given, name, dtype_of<T>());
    const Array a = any_array(array, name);
    values = a.span<const T>();
    width = columns == 0 && rows > 0 ? values.size() / rows : columns;
    if (values.size() != rows * width)
      throw py::value_error(std::string(name) + " has shape " + shape_text(a) + "; want " + std::to_string(rows) +
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

std::uint64_t draw_of(py::handle seed, bool explore, Ranker& ranker, std::size_t batch) {
  if (seed.is_none()) return explore ? ranker.reserve_draws(batch) : 0;
  return static_cast<std::uint64_t>(integer(seed, "seed", 0, std::numeric_limits<std::int32_t>::max())) << 32;
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

// The arguments of rank_pages, by name: None where one is not given.
struct Call {
  enum Place : std::size_t {
    k,
    offsets,
    seed,
#define PYGRADE_FIELD(type, name, rows, width, text) name,
#define PYGRADE_RULE(type, name, rows, width, text) name,
#define PYGRADE_OPTION(type, name, value, text) name,
#include "pygrade/request.def"
    count
  };
  std::array<py::handle, count> given;

  Call() { given.fill(Py_None); }
  py::handle operator[](Place place) const { return given[place]; }
  bool flag(Place place, const char* name) const {
    py::detail::make_caster<bool> flag;
    if (!flag.load(given[place], false)) throw py::type_error(std::string(name) + " is no bool; want True or False");
    return flag;
  }
  // false: there is no argument of this name, which is interned.
  bool set(PyObject* name, PyObject* value) {
    static const std::array<PyObject*, count> names = [] {
      std::array<PyObject*, count> made{};
      std::size_t at = 0;
      for (const char* text : {
               "k",
               "offsets",
               "seed",
#define PYGRADE_FIELD(type, name, rows, width, text) #name,
#define PYGRADE_RULE(type, name, rows, width, text) #name,
#define PYGRADE_OPTION(type, name, value, text) #name,
#include "pygrade/request.def"
           })
        made[at++] = PyUnicode_InternFromString(text);
      return made;
    }();
    const auto at = std::ranges::find(names, name);
    if (at != names.end()) given[static_cast<std::size_t>(at - names.begin())] = value;
    return at != names.end();
  }
};

// Fields of a Page by its names, see _core.pyi.
py::dict rank(Server& server, Call call) {
  const std::size_t tasks = server.tasks, features = server.features;
  const Candidates candidates(call[Call::predictions], call[Call::offsets], tasks);
  const std::size_t batch = candidates.batch, total = candidates.total;
  const auto places = static_cast<std::size_t>(list_length(call[Call::k]));
  const Scenarios scenarios(call[Call::scenario], batch);
  const bool explore = call.flag(Call::explore, "explore"), page_terms = call.flag(Call::page_terms, "page_terms"),
             as_logged = call.flag(Call::as_logged, "as_logged");
  const Rows<std::int32_t> limits(call[Call::caps], "caps", 1, 0);
  const Rows<float> decays(call[Call::decay], "decay", 1, 0);
  call.given[Call::predictions] = candidates.array;
  const detail::FieldSizes width{
      .features = features, .tasks = tasks, .group_columns = std::max(limits.values.size(), decays.values.size())};
  const struct {
    std::size_t one, candidates, places;
  } all{batch, total, batch * places}, once{1, total, 0};
#define PYGRADE_FIELD(type, name, rows, columns, text) \
  const Rows<type> name(call[Call::name], #name, all.rows, width.columns);
#define PYGRADE_RULE(type, name, rows, columns, text) \
  const Rows<type> name(call[Call::name], #name, once.rows, width.columns);
#include "pygrade/request.def"

  const Output<float> known(batch, features), scores(batch, places), weights(batch, tasks), concentration(batch, tasks);
  const Output<std::int32_t> indices(batch, places);
  const Output<bool> fallback(batch), explored(batch);
  const Output<std::uint64_t> draws(batch);
  if (context.values.size() > known.values.size()) throw py::value_error("context has more values than features");
  std::ranges::fill(known.values, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < context.values.size(); ++i)
    if (std::isfinite(context.values[i])) known.values[i] = context.values[i];
  std::vector<PageEffect> effects(categories.values.empty() && embeddings.values.empty() ? 0 : batch * places);
  std::vector<std::uint8_t> searched(batch, 0);
  const std::uint64_t first = draw_of(call[Call::seed], explore, server.ranker, batch);

  const auto request_of = [&](std::size_t b) {
    Request request{.scenario = scenarios.of(b),
                    .explore = explore,
                    .draw = first + b,
                    .page_terms = page_terms,
                    .as_logged = as_logged};
    const struct {
      std::array<std::size_t, 2> one, candidates, places;
    } of_request{{b, b + 1}, {candidates.begin(b), candidates.begin(b + 1)}, {b * places, (b + 1) * places}},
        of_all{{0, 1}, of_request.candidates, {}};
#define PYGRADE_FIELD(type, name, rows, columns, text) request.name = name.of(of_request.rows);
#define PYGRADE_RULE(type, name, rows, columns, text) request.rules.name = name.of(of_all.rows);
#include "pygrade/request.def"
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
  if (policy->trade_offs() || policy->valued() || !values.values.empty()) {
    const Output<float> table(batch, tasks);
    Policy::RequestValues memory;
    for (std::size_t b = 0; b < batch; ++b) {
      policy->find_values(values.of({b, b + 1}), scenarios.of(b), memory);
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
                                                       {"predictions", candidates.array},
                                                       {"bounds", candidates.offsets},
                                                       {"item_values", item_values.array},
                                                       {"item_columns", items.array},
                                                       {"embeddings", embeddings.array},
                                                       {"as_logged", py::cast(as_logged)},
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
    if (size != 1) throw py::type_error("want the ranker, and all else by name");
    for (Py_ssize_t i = 0; keywords != nullptr && i < PyTuple_GET_SIZE(keywords); ++i)
      if (PyObject* name = PyTuple_GET_ITEM(keywords, i); !call.set(name, given[1 + i]))
        throw py::type_error("there is no argument " + py::repr(name).cast<std::string>());
    return rank(py::cast<Server&>(py::handle(given[0])), call).release().ptr();
  } catch (...) {
    return set_error();
  }
}

// Logged requests as arrays, see FusionPolicy.scores.
struct LoggedRequests {
  Candidates candidates;
  std::vector<Request> requests;

  LoggedRequests(const Server& server, py::handle context, py::handle predictions, py::handle offsets,
                 py::handle scenario, py::handle values, py::handle item_values, py::handle items)
      : candidates(predictions, offsets, server.tasks),
        requests(candidates.batch),
        scenarios_(scenario, candidates.batch),
        context_(context, "context", candidates.batch, server.features),
        values_(values, "values", candidates.batch, server.tasks),
        item_values_(item_values, "item_values", candidates.total),
        items_(items, "items", candidates.total, 0) {
    for (std::size_t b = 0; b < candidates.batch; ++b) {
      const std::size_t begin = candidates.begin(b), end = candidates.begin(b + 1);
      requests[b] = {.context = context_.of({b, b + 1}),
                     .predictions = candidates.predictions.subspan(begin * server.tasks, (end - begin) * server.tasks),
                     .scenario = scenarios_.of(b),
                     .values = values_.of({b, b + 1}),
                     .item_values = item_values_.of({begin, end}),
                     .items = items_.of({begin, end}),
                     .as_logged = true};
    }
  }

 private:
  Scenarios scenarios_;
  Rows<float> context_, values_, item_values_, items_;
};

// Scores [M] of all candidates, into result.
void score(Server& server, py::handle context, py::handle predictions, py::handle offsets, py::handle scenario,
           py::handle values, py::handle item_values, py::handle items, py::handle result, int num_threads) {
  const LoggedRequests log(server, context, predictions, offsets, scenario, values, item_values, items);
  const auto to = span_of<float>(result, "result", {log.candidates.total});
  std::vector<std::span<float>> scores;
  for (std::size_t b = 0; b < log.requests.size(); ++b)
    scores.push_back(to.subspan(log.candidates.begin(b), log.candidates.begin(b + 1) - log.candidates.begin(b)));
  const py::gil_scoped_release release;
  server.ranker.score(log.requests, scores, num_threads);
}

// Parts of these scores with weights[B, T]: contributions[M, T], or shares of a mixed network, the baseline's share
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
    const auto parts = Ranker::score_parts(*policy, log.requests[b], served.of({b, b + 1}));
    const auto to = [&](const Output<float>& output, std::size_t width) {
      return output.values.begin() + static_cast<std::ptrdiff_t>(log.candidates.begin(b) * width);
    };
    if (parts.task_shares.empty())
      std::ranges::copy(parts.contributions, to(contributions, tasks));
    else
      std::ranges::copy(parts.task_shares, to(contributions, tasks));
    std::ranges::copy(parts.baseline_share, to(baseline, 1));
    std::ranges::copy(parts.corrected, to(corrected, tasks));
    corrects |= !parts.corrected.empty();
  }
  return py::make_tuple(contributions.array, baseline.array, corrects ? corrected.array : py::object(py::none()));
}

// Scores result[M] of a mixture from those of its parts, base[M] and other[M], in the requests of offsets[B + 1].
void mix_scores(py::handle base, py::handle other, double trust, py::handle offsets, py::handle result,
                int num_threads) {
  const auto bases = span_of<const float>(base, "base");
  const auto others = span_of<const float>(other, "other", {bases.size()});
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  const auto to = span_of<float>(result, "result", {bases.size()});
  check_offsets(bounds, static_cast<std::int64_t>(bases.size()));
  if (!(trust >= 0.0 && trust <= 1.0))
    throw py::value_error("trust is " + std::to_string(trust) + "; want a number from 0 to 1");
  const auto batch = static_cast<std::int64_t>(bounds.size() - 1);
  const double mean = static_cast<double>(bases.size()) / static_cast<double>(std::max<std::int64_t>(batch, 1));
  const Mixture mixture{.trust = trust};
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
  module.def("mix_scores", &mix_scores, "base"_a, "other"_a, "trust"_a, "offsets"_a, "result"_a, "num_threads"_a);
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
