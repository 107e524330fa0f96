"""A policy as a ranking expression of a search engine: Vespa's rank profiles, OpenSearch's script scores.

The engine evaluates one candidate at a time, so what depends on the request comes as its inputs, which
``POST /v1/weights`` of the service answers (`request_inputs` here): the weights of the tasks, and for each task the
shift and the slopes by which the correction moves its log odds. What depends on the whole page (means of candidates,
standard deviations of z-scores) has defaults: those of recorded requests, or of a request of which nothing is known.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.correction.inputs import REACH
from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.logs import Logs, evenly_spaced
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.serving.formula import Evaluation, Formula, Node, formula_of, walk
from pygrade.serving.ranker import BlendedRanker

Inputs = dict[str, NDArray[np.float64]]
_REQUESTS = 1000  # of a log, evenly spaced, that are compared
_SIGNS = {"add": (" + ", 1), "subtract": (" - ", 1), "multiply": (" * ", 2), "divide": (" / ", 2)}  # and how they bind


@dataclass
class Expression:
    """A formula of one candidate: its last step is the score."""

    formula: Formula
    steps: dict[str, Node]
    documents: dict[str, float | None]  # fields and what stands in for a missing one
    inputs: Inputs  # of the request, with defaults

    def evaluate(self, documents: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The steps, each [N] of one request's candidates in float64, as an engine computes them; a document may have
        what a step computes in its place."""
        values = {**self.inputs, **inputs}

        def column(field: tuple[str, float | None]) -> NDArray[np.float64]:
            name, missing = field
            found = np.asarray(documents[name] if missing is None else documents.get(name, missing), np.float64)
            return found if missing is None else np.where(np.isfinite(found), found, missing)

        kinds: dict[str, Callable[..., Any]] = {
            name: getattr(np, name) for name in ("add", "subtract", "multiply", "divide", "log", "exp")
        }
        kinds |= {"max": np.maximum, "min": np.minimum, "constant": float, "document": column}
        kinds["request"] = lambda place: float(values[place[0]][place[1]])
        computed = {name: np.asarray(documents[name], np.float64) for name in self.steps if name in documents}
        value_of = Evaluation(kinds, computed)
        return {name: value_of(node) for name, node in self.steps.items()}

    def texts(self, leaf: Callable[[Node], str]) -> dict[str, str]:
        """The steps as text in the syntax of most languages; leaf: of documents and numbers of the request."""

        def text(node: Node, step: bool = False) -> str:
            if node.name and not step:
                return node.name
            if node.simple is not None:
                return text(node.simple)
            if node.kind == "constant":
                return repr(node.fact)
            if node.kind in _SIGNS:
                sign, strength = _SIGNS[node.kind]
                sides = []
                for right, argument in enumerate(node.args):
                    simple = argument if argument.name else argument.simple or argument
                    weak = not simple.name and _SIGNS.get(simple.kind, ("", 3))[1] < strength + right
                    sides.append(f"({text(argument)})" if weak else text(argument))
                return sign.join(sides)
            return f"{node.kind}({', '.join(map(text, node.args))})" if node.args else leaf(node)

        return {name: text(node, name == node.name) for name, node in self.steps.items()}


def express(policy: FusionPolicy) -> Expression:
    """The score of a policy's pages, but for what is equal for all candidates of a request.

    Weights are those of the policy's network, static weights by default; z-scores are divided by the standard
    deviations that the request, or the default, names. ValueError for what no expression of one candidate holds: ranks,
    and names of tasks and columns that are no names in the engines.
    """
    policy.refuse_prices("an expression")
    mixture = policy.mixture
    for name in (*policy.tasks, *(policy.correction.items if policy.correction else ())):
        if not re.fullmatch(r"[A-Za-z0-9_ ]+", name):
            raise ValueError(f"{name!r} is a task or item column; an expression wants letters, digits and _")
    formula = formula_of(policy)
    nodes = list(walk(formula.score))
    for node in nodes:
        if node.kind == "fuse" and node.simple is None:
            raise ValueError(f"transform of {node.name} is rank, which needs all candidates at once; want another one")
    inputs: Inputs = {}
    if formula.variables and policy.correction is not None:
        inputs |= _shifts(policy.correction, None, np.zeros(len(formula.variables)))
    if policy.config.trade_offs:
        inputs["values"] = policy.spec.own_values(policy.spec.task_values, [""], 1)[0].astype(np.float64)
    if mixture is None or mixture.takes_network:
        inputs["weights"] = policy.fallback_weights().double().numpy()
    inputs |= {name: np.ones(len(steps)) for name, steps in formula.spreads.items()}
    steps = {node.name: node for node in nodes if node.name} | {"score": formula.score}
    documents = dict(node.fact for node in nodes if node.kind == "document")
    return Expression(formula, steps, documents, inputs)


def _shifts(c: Correction, context: NDArray[Any] | None, means: NDArray[Any]) -> Inputs:
    """shifts [T] and slopes [T, V] of a context [F] and the means [V] of the candidates' standardized variables."""
    x = np.zeros(len(c.x_mean))
    if context is not None and np.isfinite(context).any():
        unknown = ~np.isfinite(context)
        filled = np.concatenate([np.where(unknown, c.median, context), unknown[list(c.indicators)]])
        x = np.clip((filled - c.x_mean) / c.x_std, -REACH, REACH)
    b = np.einsum("z,tzu->tu", np.concatenate([[1.0], x, means]), c.weights.astype(np.float64))
    return {"shifts": b[:, 0] - b[:, 1:] @ means, "slopes": b[:, 1:]}


def request_inputs(
    policy: FusionPolicy,
    context: NDArray[np.float32] | None,
    predictions: NDArray[np.float32] | None = None,
    items: NDArray[np.float32] | None = None,
    item_values: NDArray[np.float32] | None = None,
) -> Inputs:
    """Inputs of the expression for a request beside values: exact with the predictions [N, T] as a log has them,
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
        return np.zeros(len(e.formula.variables))
    values = e.evaluate(_documents(policy, predictions, items, prices), {})
    return np.array([np.mean(values[node.name]) for node in e.formula.variables])


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
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in expression.formula.spreads}
    for context, predictions, items, prices in _requests(policy, logs):
        inputs = request_inputs(policy, context, predictions, items, prices)
        _measure(expression, _documents(policy, predictions, items, prices), inputs)
        for name in found:
            found[name].append(inputs[name])
    expression.inputs |= {name: np.mean(rows, 0) for name, rows in found.items() if rows}


def _measure(e: Expression, documents: Mapping[str, NDArray[Any]], inputs: Inputs) -> None:
    """Adds the deviations of one request to its inputs; those of mixed scores come last, as they read the others."""
    for name, nodes in e.formula.spreads.items():
        values = e.evaluate(documents, inputs)
        inputs[name] = np.array([np.std(values[node.name]) for node in nodes])


def _documents(
    policy: FusionPolicy, predictions: NDArray[Any], items: NDArray[Any] | None, prices: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    columns = dict(zip(policy.tasks, predictions.T, strict=True))  # as a log has them, behind the scales
    found = {f"{step}_{task}": column for step in ("p", "raw") for task, column in columns.items()}
    if items is not None and policy.correction is not None:
        found |= {f"i_{name}": column for name, column in zip(policy.correction.items, items.T, strict=True)}
    found = {name.replace(" ", "_"): column for name, column in found.items()}
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

    def leaf(node: Node) -> str:
        if node.kind == "request":
            places = ",".join(f"{axis}:{i}" for axis, i in zip("tv", node.fact[1], strict=False))
            return f"query({node.fact[0]}){{{places}}}"
        text, missing = f"attribute({node.fact[0]})", node.fact[1]
        return text if missing is None else f"if (isNan({text}) == 1, {missing!r}, {text})"

    lines = [f"rank-profile {name} {{", "    inputs {"]
    for key, default in e.inputs.items():
        axes = ",".join(f"{axis}[{size}]" for axis, size in zip("tv", default.shape, strict=False))
        lines.append(f"        query({key}) tensor<double>({axes}): {json.dumps(default.tolist())}")
    lines.append("    }")
    for step, text in e.texts(leaf).items():
        lines += [f"    function {step}() {{", f"        expression: {text}", "    }"]
    return "\n".join([*lines, "    first-phase {", "        expression: score", "    }", "}", ""])


def write_opensearch(e: Expression) -> str:
    """The JSON of a ``script`` for ``script_score``: Painless over doc values, with the request's inputs as ``params``.

    The engine wants scores ≥ 0, so the script returns 1 / (1 + exp(-score)), which keeps the order.
    """

    def leaf(node: Node) -> str:
        if node.kind == "request":
            return f"params.{node.fact[0]}" + "".join(f"[{i}]" for i in node.fact[1])
        text, missing = f"doc['{node.fact[0]}'].value", node.fact[1]
        return text if missing is None else f"(doc['{node.fact[0]}'].size() == 0 ? {missing!r} : {text})"

    texts = {step: re.sub(r"\b(log|exp|max|min)\(", r"Math.\1(", text) for step, text in e.texts(leaf).items()}
    lines = [f"double {step} = {text};" for step, text in texts.items()]
    source = " ".join([*lines, "return 1.0 / (1.0 + Math.exp(-score));"])
    params = {name: default.tolist() for name, default in e.inputs.items()}
    return json.dumps({"script": {"lang": "painless", "source": source, "params": params}}, indent=1) + "\n"
