"""A policy as a ranking expression of a search engine: Vespa's rank profiles, OpenSearch's script scores.

The engine evaluates one candidate at a time, so what depends on the request comes as its inputs, which
``POST /v1/weights`` of the service answers (`request_inputs` here): the weights of the tasks, and for each task the
shift and the slopes by which the correction moves its log odds. What depends on the whole page (means of candidates,
standard deviations of z-scores) has defaults: those of recorded requests, or of a request of which nothing is known.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.correction.inputs import RATIO, SMALLEST, downward
from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.logs import Logs, evenly_spaced
from pygrade.logs.prediction_scale import LARGEST_LOG, PredictionScale, parents_of
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import EPSILON, Baseline
from pygrade.serving.ranker import BlendedRanker

Inputs = dict[str, NDArray[np.float64]]
_REQUESTS = 1000  # of a log, evenly spaced, that are compared


@dataclass
class Expression:
    """Steps that compute a candidate's score, in a syntax of Python: + - * /, log, exp, max, min, names of steps,
    ``document("p_click")`` and ``request("weights", 0)``. The last step is the score."""

    steps: dict[str, str] = field(default_factory=dict)
    documents: dict[str, float | None] = field(default_factory=dict)  # fields and what stands in for a missing one
    inputs: Inputs = field(default_factory=dict)  # of the request, with defaults
    variables: list[str] = field(default_factory=list)  # steps of the correction's standardized variables
    spreads: dict[str, list[str]] = field(default_factory=dict)  # inputs that are the standard deviations of steps

    def let(self, name: str, text: str) -> str:
        """Adds a step; returns its name. ValueError if names of tasks or columns make two steps of one name."""
        if name in self.steps:
            raise ValueError(f"tasks or item columns have names that make {name!r} twice; an expression wants others")
        self.steps[name] = text
        return name

    def document(self, name: str, missing: float | None = None) -> str:
        """A field of the candidate; missing None: every document has it."""
        self.documents[name] = missing
        return f'document("{name}")'

    def request(self, name: str, *place: int) -> str:
        """A number of an input."""
        return f'request("{name}", {", ".join(map(str, place))})'

    def spread(self, name: str, step: str) -> str:
        """The standard deviation of a step within the page, which is an input."""
        steps = self.spreads.setdefault(name, [])
        steps.append(step)
        self.inputs[name] = np.ones(len(steps))
        return self.request(name, len(steps) - 1)

    def evaluate(self, documents: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The steps, each [N] of one request's candidates in float64, as an engine computes them; a document may have
        what a step computes in its place."""
        given = {**self.inputs, **inputs}
        found: dict[str, Any] = {
            "log": np.log,
            "exp": np.exp,
            "max": np.maximum,
            "min": np.minimum,
            "document": lambda name: self._column(documents, name),
            "request": lambda name, *place: float(given[name][place]),
        }
        for name, text in self.steps.items():
            known = documents.get(name)
            # Our own text, of numbers and these names.
            found[name] = eval(text, {"__builtins__": {}}, found) if known is None else np.asarray(known, np.float64)
        return {name: found[name] for name in self.steps}

    def _column(self, documents: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
        missing = self.documents[name]
        column = np.asarray(documents[name] if missing is None else documents.get(name, missing), np.float64)
        return column if missing is None else np.where(np.isfinite(column), column, missing)


def express(policy: FusionPolicy) -> Expression:
    """The score of a policy's pages, but for what is equal for all candidates of a request.

    Weights are those of the policy's network, static weights by default; z-scores are divided by the standard
    deviations that the request, or the default, names. ValueError for what no expression of one candidate holds: ranks,
    and names of tasks and columns that are no names in the engines.
    """
    policy.refuse_prices("an expression")
    mixture, spec = policy.mixture, policy.config
    for name in (*policy.tasks, *(policy.correction.items if policy.correction else ())):
        if not re.fullmatch(r"[A-Za-z0-9_ ]+", name):
            raise ValueError(f"{name!r} is a task or item column; an expression wants letters, digits and _")
    e = Expression()
    raw = _read(e, policy)
    corrected = raw
    if policy.takes_corrected and policy.correction is not None:
        corrected = _correct(e, policy.correction, raw)
    if spec.trade_offs:
        e.inputs["values"] = policy.spec.own_values(policy.spec.task_values, [""], 1)[0].astype(np.float64)
    parts = []  # of the score, and whose they are
    if mixture is None or mixture.takes_network:
        e.inputs["weights"] = policy.fallback_weights().double().numpy()
        weights = [e.request("weights", t) for t in range(len(raw))]
        slope = spec.slope if isinstance(spec.slope, tuple) else (spec.slope,) * len(raw)
        given = _priced(e, corrected if spec.corrected else raw, policy, spec.value_tasks)
        parts.append(_fuse(e, "policy", given, weights, spec.transform, spec.beta, spec.epsilon, slope))
    for entry in mixture.ranked_by if mixture else ():
        name = "baseline" if mixture and entry is mixture.baseline else "challenger"
        parts.append(_baseline(e, name, entry, policy, corrected if entry.corrected else raw))
    if len(parts) == 1:
        e.let("score", parts[0])
        return e
    assert mixture is not None
    trust = float(np.float32(mixture.trust))
    shares = [f"{part} / ({e.spread('deviations', part)} + {EPSILON!r})" for part in parts]
    e.let("score", f"{trust!r} * {shares[0]} + {1.0 - trust!r} * {shares[1]}")
    return e


def _read(e: Expression, policy: FusionPolicy) -> list[str]:
    """Steps of the tasks' predictions as a log has them, of documents on the policy's scales."""
    scales = [policy.scales.get(task, PredictionScale()) for task in policy.tasks]
    for t in downward(parents_of(scales, policy.tasks)):
        task, scale, kind = policy.tasks[t], scales[t], scales[t].kind
        text = e.document(f"p_{_slug(task)}")
        if kind == "score":
            text = e.let(
                f"score_{_slug(task)}", _hinges(text, *(np.asarray(s, np.float32) for s in (scale.x, scale.y)))
            )
            kind = "log" if scale.amount else "logit"
        if kind == "percent":
            text = f"{text} / 100.0"
        elif kind in ("log", "logit"):
            cut = f"max(min({text}, {LARGEST_LOG}), {-LARGEST_LOG})"
            text = f"exp({cut})" if kind == "log" else f"1.0 / (1.0 + exp(-({cut})))"
        e.let(f"raw_{_slug(task)}", text if scale.given is None else f"raw_{_slug(scale.given)} * ({text})")
    return [f"raw_{_slug(task)}" for task in policy.tasks]


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _fuse(
    e: Expression,
    name: str,
    given: Sequence[str],
    weights: Sequence[str],
    transform: str,
    beta: float,
    epsilon: float,
    slope: Sequence[float],
) -> str:
    """Σ_t w_t f_t(p_t) without what all candidates share; z-scores divide by the request's deviations."""
    if transform == "rank":
        raise ValueError(f"transform of the {name} is rank, which needs all candidates at once; want another one")
    terms = []
    for t, (p, w) in enumerate(zip(given, weights, strict=True)):
        text = p
        if transform in ("log", "zlog"):
            text = f"log({p} + {beta!r})"
        elif transform == "log1p":
            text = f"log(1.0 + {slope[t]!r} * {p})"
        if transform in ("zscore", "zlog"):
            text = e.let(f"{name}_f{t}", text)
            text = f"{text} / ({e.spread(f'{name}_deviations', text)} + {epsilon!r})"
        terms.append(f"{w} * {text}")
    return e.let(f"{name}_score", " + ".join(terms))


def _priced(e: Expression, given: Sequence[str], policy: FusionPolicy, tasks: Sequence[str]) -> list[str]:
    value = e.document("value") if tasks else ""
    return [f"{p} * {value}" if task in tasks else p for task, p in zip(policy.tasks, given, strict=True)]


def _baseline(e: Expression, name: str, entry: Baseline, policy: FusionPolicy, given: Sequence[str]) -> str:
    spec = policy.config
    if entry.calibration:  # of segments, as a sum of hinges
        given = [
            e.let(f"{name}_p{t}", _hinges(p, *(np.asarray(side, np.float32) for side in knots)))
            for t, (p, knots) in enumerate(zip(given, entry.calibration, strict=True))
        ]
    factors = [float(np.float32(w)) for w in entry.weights]
    weights = [repr(w) for w in factors]
    if spec.trade_offs:  # a task that was worth 0 in the training has no other value
        over = [w / float(np.float32(v)) if v else 0.0 for w, v in zip(factors, policy.spec.task_values, strict=True)]
        weights = [f"{w!r} * {e.request('values', t)}" for t, w in enumerate(over)]
    slope = spec.slope if isinstance(spec.slope, tuple) else (spec.slope,) * len(weights)
    given = _priced(e, given, policy, entry.value_tasks)
    found = _fuse(e, name, given, weights, entry.transform, spec.beta, spec.epsilon, slope)
    return e.let(f"{name}_log", f"log({found} + {spec.beta!r})") if entry.logarithm else found


def _hinges(p: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> str:
    slopes = np.diff(y) / np.diff(x)
    terms = [repr(float(y[0])), f"{float(slopes[0])!r} * ({p} - {float(x[0])!r})"]
    terms += [
        f"{float(b - a)!r} * max({p} - {float(at)!r}, 0.0)"
        for at, a, b in zip(x[1:-1], slopes[:-1], slopes[1:], strict=True)
    ]
    return " + ".join(terms)


def _correct(e: Expression, c: Correction, raw: Sequence[str]) -> list[str]:
    """`pygrade.reference.correct`, with shifts [T] and slopes [T, V] of the request in place of its context and means:
    shift_t + Σ_v slope_tv · v."""
    tasks, order = [_slug(task) for task in c.tasks], downward(c.parents)
    p = _mapped(e, c, raw) if c.form else list(raw)
    low, high = RATIO
    ratios = [
        p[t] if s < 0 else e.let(f"ratio_{tasks[t]}", f"max(min({p[t]} / ({p[s]} + 1e-07), {high!r}), {low!r})")
        for t, s in enumerate(c.parents)
    ]
    fields = [e.let(f"odds_{tasks[t]}", _odds(ratios[t], c.amounts[t])) for t in range(len(tasks))]
    fields += [e.document(f"i_{_slug(column)}", float(c.l_mean[len(tasks) + i])) for i, column in enumerate(c.items)]
    names = (*tasks, *map(_slug, c.items))
    variables = [
        e.let(f"z_{names[v]}", f"max(min(({fields[v]} - {float(c.l_mean[v])!r}) / {float(c.l_std[v])!r}, 4.0), -4.0)")
        for v in range(len(fields))
    ]
    e.variables = variables
    e.inputs |= _shifts(c, None, np.zeros(len(variables)))
    corrected = list(p)
    for t in order:
        terms = [e.request("shifts", t), *(f"{e.request('slopes', t, v)} * {z}" for v, z in enumerate(variables))]
        shift = e.let(f"shift_{tasks[t]}", " + ".join(terms))
        if c.amounts[t]:
            text = f"max({p[t]}, {SMALLEST!r}) * exp({shift})"
        elif c.parents[t] < 0:
            text = f"min({_cut(p[t])} * exp({shift}), 1.0)"
        else:
            text = f"{corrected[c.parents[t]]} / (1.0 + exp(-({fields[t]} + {shift})))"
        corrected[t] = e.let(f"corrected_{tasks[t]}", text)
    return corrected


def _mapped(e: Expression, c: Correction, raw: Sequence[str]) -> list[str]:
    """`pygrade.reference.map_predictions`."""
    mapped, (low, high) = list(raw), RATIO
    for t in downward(c.parents):
        task, s = _slug(c.tasks[t]), c.parents[t]
        child = c.form == "conditional" and s >= 0
        p = raw[t]
        if child:
            p = e.let(f"map_ratio_{task}", f"max(min({raw[t]} / max({raw[s]}, 1e-09), {high!r}), {low!r})")
        odds = e.let(f"map_odds_{task}", _odds(p, c.amounts[t]))
        mean, std = float(c.map_mean[t]), float(c.map_std[t])
        z = e.let(f"map_z_{task}", f"max(min(({odds} - {mean!r}) / {std!r}, 6.0), -6.0)")
        level, slope, *hinges = (float(w) for w in c.map_weights[t])
        terms = [odds, repr(level), f"{slope!r} * {z}"]
        terms += [f"{w!r} * max({z} - {float(k)!r}, 0.0)" for w, k in zip(hinges, c.map_knots[t], strict=True)]
        bent = e.let(f"map_{task}", " + ".join(terms))
        if c.amounts[t]:
            text = f"exp({bent})"
        else:
            text = f"1.0 / (1.0 + exp(-({bent})))"
            text = f"{mapped[s]} * ({text})" if child else f"min({text}, exp(-0.001))" if c.form == "marginal" else text
        mapped[t] = e.let(f"mapped_{task}", text)
    return mapped


def _cut(p: str) -> str:
    return f"max(min({p}, {1 - SMALLEST!r}), {SMALLEST!r})"


def _odds(p: str, amount: bool) -> str:
    if amount:
        return f"log(max({p}, {SMALLEST!r}))"
    return f"log({_cut(p)} / (1.0 - {_cut(p)}))"


def _shifts(c: Correction, context: NDArray[Any] | None, means: NDArray[Any]) -> Inputs:
    """shifts [T] and slopes [T, V] of a context [F] and the means [V] of the candidates' standardized variables."""
    x = np.zeros(len(c.x_mean))
    if context is not None and np.isfinite(context).any():
        unknown = ~np.isfinite(context)
        filled = np.concatenate([np.where(unknown, c.median, context), unknown[list(c.indicators)]])
        x = np.clip((filled - c.x_mean) / c.x_std, -4.0, 4.0)
    b = np.einsum("z,tzu->tu", np.concatenate([[1.0], x, means]), c.weights.astype(np.float64))
    return {"shifts": b[:, 0] - b[:, 1:] @ means, "slopes": b[:, 1:]}


def request_inputs(
    policy: FusionPolicy,
    context: NDArray[np.float32] | None,
    predictions: NDArray[np.float32] | None = None,
    items: NDArray[np.float32] | None = None,
    item_values: NDArray[np.float32] | None = None,
) -> Inputs:
    """Inputs of the expression for a request beside multipliers: exact with the predictions [N, T] as a log has them,
    items [N, I] and prices [N] of all candidates, else those of a page of average candidates, without weights: the
    default, static ones count.
    """
    inputs: Inputs = {}
    c = policy.correction if policy.takes_corrected else None
    if c is not None:
        inputs |= _shifts(c, context, _means(policy, predictions, items, item_values))
    if (policy.mixture is None or policy.mixture.takes_network) and predictions is not None:
        page = BlendedRanker(policy, seed=0).rank(
            _one(context), predictions[None], 1, items=_one(items), item_values=_one(item_values), as_logged=True
        )
        inputs["weights"] = page.weights[0].astype(np.float64)
    return inputs


def _means(
    policy: FusionPolicy, predictions: NDArray[Any] | None, items: NDArray[Any] | None, prices: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Means of the candidates' standardized variables [V]; 0, the mean of the training's, without candidates."""
    e = express(policy)
    if predictions is None:
        return np.zeros(len(e.variables))
    values = e.evaluate(_documents(policy, predictions, items, prices), {})
    return np.array([np.mean(values[step]) for step in e.variables])


def compare(policy: FusionPolicy, expression: Expression, logs: Logs, k: int, exact: bool = False) -> dict[str, float]:
    """Pages of recorded requests by the expression against those of `BlendedRanker`.

    exact: with the inputs of the whole page; else as an engine has them, from the context alone, and `fit_defaults`.
    ``equal``: share of the pages that are equal item by item; ``kept``: mean share of a page's items.
    """
    ranker, equal, kept, count = BlendedRanker(policy, seed=0), 0.0, 0.0, 0
    for context, predictions, items, prices in _requests(policy, logs):
        inputs = request_inputs(policy, context, predictions, items, prices)
        if not exact:  # the weights of a network of the context alone are those of the page
            inputs |= request_inputs(policy, context)
        documents = _documents(policy, predictions, items, prices)
        if exact:
            _measure(expression, documents, inputs)
        score = np.broadcast_to(expression.evaluate(documents, inputs)["score"], len(predictions))
        page = ranker.rank(
            context[None], predictions[None], k, items=_one(items), item_values=_one(prices), as_logged=True
        )
        served = page.indices[0][page.indices[0] >= 0]
        own = np.lexsort((np.arange(len(score)), -score))[: len(served)]
        equal += bool((own == served).all())
        kept += len(np.intersect1d(own, served)) / max(len(served), 1)
        count += 1
    return {"requests": count, "equal": equal / max(count, 1), "kept": kept / max(count, 1)}


def fit_defaults(policy: FusionPolicy, expression: Expression, logs: Logs) -> None:
    """Makes the standard deviations that only a whole page knows those of recorded requests, on average."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in expression.spreads}
    for context, predictions, items, prices in _requests(policy, logs):
        inputs = request_inputs(policy, context, predictions, items, prices)
        _measure(expression, _documents(policy, predictions, items, prices), inputs)
        for name in found:
            found[name].append(inputs[name])
    expression.inputs |= {name: np.mean(rows, 0) for name, rows in found.items() if rows}


def _measure(e: Expression, documents: Mapping[str, NDArray[Any]], inputs: Inputs) -> None:
    """Adds the deviations of one request to its inputs; those of mixed scores come last, as they read the others."""
    for name, steps in e.spreads.items():
        values = e.evaluate(documents, inputs)
        inputs[name] = np.array([np.std(values[step]) for step in steps])


def _documents(
    policy: FusionPolicy, predictions: NDArray[Any], items: NDArray[Any] | None, prices: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    columns = dict(zip(policy.tasks, predictions.T, strict=True))  # as a log has them, behind the scales
    found = {f"{step}_{_slug(task)}": column for step in ("p", "raw") for task, column in columns.items()}
    if items is not None and policy.correction is not None:
        found |= {f"i_{_slug(name)}": column for name, column in zip(policy.correction.items, items.T, strict=True)}
    return found if prices is None else {**found, "value": prices}


def _one(array: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if array is None else array[None]


def _requests(policy: FusionPolicy, logs: Logs) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Context, predictions, item columns and prices of requests of a log, evenly spaced."""
    if logs.tasks != policy.tasks or logs.features != policy.features:
        raise ValueError(f"the log has tasks {logs.tasks} and features {logs.features}; want the policy's")
    items = item_inputs(policy, logs)
    for r in evenly_spaced(logs.num_requests, _REQUESTS):
        rows = slice(int(logs.offsets[r]), int(logs.offsets[r + 1]))
        yield (
            logs.context[r],
            logs.predictions[rows],
            None if items is None else items[rows],
            None if logs.value is None else logs.value[rows],
        )


def write_vespa(e: Expression, name: str = "pygrade") -> str:
    """A rank profile, to stand in a schema whose documents have the fields as attributes."""

    def translate(text: str) -> str:
        text = re.sub(r'document\("(\w+)"\)', lambda m: _vespa_field(m[1], e.documents[m[1]]), text)
        text = re.sub(r'request\("(\w+)", (\d+), (\d+)\)', r"query(\1){t:\2,v:\3}", text)
        return re.sub(r'request\("(\w+)", (\d+)\)', r"query(\1){t:\2}", text)

    lines = [f"rank-profile {name} {{", "    inputs {"]
    for key, default in e.inputs.items():
        axes = ",".join(f"{axis}[{size}]" for axis, size in zip("tv", default.shape, strict=False))
        lines.append(f"        query({key}) tensor<double>({axes}): {json.dumps(default.tolist())}")
    lines.append("    }")
    for step, text in e.steps.items():
        lines += [f"    function {step}() {{", f"        expression: {translate(text)}", "    }"]
    return "\n".join([*lines, "    first-phase {", "        expression: score", "    }", "}", ""])


def _vespa_field(name: str, missing: float | None) -> str:
    text = f"attribute({name})"
    return text if missing is None else f"if (isNan({text}) == 1, {missing!r}, {text})"


def write_opensearch(e: Expression) -> str:
    """The JSON of a ``script`` for ``script_score``: Painless over doc values, with the request's inputs as ``params``.

    The engine wants scores ≥ 0, so the script returns 1 / (1 + exp(-score)), which keeps the order.
    """

    def translate(text: str) -> str:
        text = re.sub(r'document\("(\w+)"\)', lambda m: _painless_field(m[1], e.documents[m[1]]), text)
        text = re.sub(r'request\("(\w+)", (\d+), (\d+)\)', r"params.\1[\2][\3]", text)
        text = re.sub(r'request\("(\w+)", (\d+)\)', r"params.\1[\2]", text)
        return re.sub(r"\b(log|exp|max|min)\(", r"Math.\1(", text)

    lines = [f"double {step} = {translate(text)};" for step, text in e.steps.items()]
    source = " ".join([*lines, "return 1.0 / (1.0 + Math.exp(-score));"])
    params = {name: default.tolist() for name, default in e.inputs.items()}
    return json.dumps({"script": {"lang": "painless", "source": source, "params": params}}, indent=1) + "\n"


def _painless_field(name: str, missing: float | None) -> str:
    text = f"doc['{name}'].value"
    return text if missing is None else f"(doc['{name}'].size() == 0 ? {missing!r} : {text})"
