"""A policy as a ranking expression of a search engine: Vespa's rank profiles, OpenSearch's script scores.

The engine evaluates one candidate at a time, so what depends on the request comes as its inputs, which
``POST /v1/weights`` of the service answers (`recorded_requests` here): the weights of the tasks, and for each task the
shift and the slopes by which the correction moves its log odds. What depends on the whole page (means of candidates,
standard deviations of z-scores) has defaults: those of recorded requests, or of a request of which nothing is known.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.logs import Logs, evenly_spaced
from pygrade.policy import FusionPolicy
from pygrade.serving.formula import Formula, Node, NodeValues, formula_of, walk
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
            values = np.asarray(documents[name] if missing is None else documents.get(name, missing), np.float64)
            return values if missing is None else np.where(np.isfinite(values), values, missing)

        kinds: dict[str, Callable[..., Any]] = {
            name: getattr(np, name) for name in ("add", "subtract", "multiply", "divide", "log", "exp")
        }
        kinds |= {"max": np.maximum, "min": np.minimum, "constant": float, "document": column}
        kinds["request"] = lambda index: float(values[index[0]][index[1]])
        computed = {name: np.asarray(documents[name], np.float64) for name in self.steps if name in documents}
        value_of = NodeValues(kinds, computed)
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
    policy.refuse_elsewhere("an expression")
    mixture = policy.mixture
    for name in (*policy.tasks, *(policy.correction.items if policy.correction else ())):
        if not re.fullmatch(r"[A-Za-z0-9_ ]+", name):
            raise ValueError(f"{name!r} is a task or item column; an expression needs letters, digits and _")
    formula = formula_of(policy)
    nodes = list(walk(formula.score))
    for node in nodes:
        if node.kind == "fuse" and node.simple is None:
            raise ValueError(
                f"transform of {node.name} is rank, which needs all candidates at once; expected another one"
            )
        if node.kind == "trees":
            count = node.fact.trees
            raise ValueError(
                f"the correction has {count} trees, which no expression holds; expected correction.trees off"
            )
    inputs = request_shifts(policy, None, None, None)
    if policy.config.trade_offs:
        inputs["values"] = policy.spec.own_values(policy.spec.task_values, [""], 1)[0].astype(np.float64)
    if mixture is None or mixture.uses_network:
        inputs["weights"] = policy.fallback_weights().double().numpy()
    inputs |= {name: np.ones(len(steps)) for name, steps in formula.spreads.items()}
    steps = {node.name: node for node in nodes if node.name} | {"score": formula.score}
    documents = dict(node.fact for node in nodes if node.kind == "document")
    return Expression(formula, steps, documents, inputs)


def request_shifts(policy: FusionPolicy, *request: NDArray[Any] | None) -> Inputs:
    """shifts [T] and slopes [T, V] of a request's context [F], its candidates' predictions [N, T] as a log has them and
    items [N, I], see `Correction.shifts`; without predictions those of a page of average candidates. Empty if
    nothing reads corrected predictions."""
    if policy.correction is None or not policy.uses_corrected:
        return {}
    added = policy.correction.shifts(*request)
    return {"shifts": added[:, 0], "slopes": added[:, 1:]}


def compare(policy: FusionPolicy, expression: Expression, logs: Logs, k: int, exact: bool = False) -> dict[str, float]:
    """Pages of recorded requests by the expression against those of `BlendedRanker`.

    exact: with the inputs of the whole page; else as an engine has them, from the context alone, and `fit_defaults`.
    ``equal``: share of the pages that are equal item by item; ``kept``: mean share of a page's items.
    """
    equal, kept = [], []
    for record in recorded_requests(policy, logs, k):
        # The weights of a network of the context alone are those of the page.
        inputs = record.inputs | (
            _deviations(expression, record) if exact else request_shifts(policy, record.context, None, None)
        )
        score = np.broadcast_to(expression.evaluate(record.documents, inputs)["score"], record.count)
        own = np.lexsort((np.arange(record.count), -score))[: len(record.page)]
        equal.append(bool((own == record.page).all()))
        kept.append(len(np.intersect1d(own, record.page)) / max(len(record.page), 1))
    return {"requests": len(equal), "equal": float(np.mean(equal or 0)), "kept": float(np.mean(kept or 0))}


def fit_defaults(policy: FusionPolicy, expression: Expression, logs: Logs) -> None:
    """Makes the standard deviations that only a whole page knows those of recorded requests, on average."""
    measured = [_deviations(expression, record) for record in recorded_requests(policy, logs, 1)]
    if measured:
        expression.inputs |= {name: np.mean([row[name] for row in measured], 0) for name in measured[0]}


@dataclass
class RecordedRequest:
    """A logged request as an engine has it, with the inputs of its whole page, and the page that is served."""

    context: NDArray[np.float32]  # [F]
    documents: dict[str, NDArray[Any]]
    inputs: Inputs
    page: NDArray[np.int32]  # places
    count: int  # of candidates


def recorded_requests(policy: FusionPolicy, logs: Logs, k: int) -> Iterator[RecordedRequest]:
    """Requests of a log, evenly spaced, with pages of k by their scores."""
    if logs.tasks != policy.tasks or logs.features != policy.features:
        raise ValueError(f"the log has tasks {logs.tasks} and features {logs.features}; expected the policy's")
    logs = replace(logs.select(evenly_spaced(logs.num_requests, _REQUESTS)), scenario=None)
    page = BlendedRanker(policy, seed=0).rank_log(logs, k, page_terms=False)
    items = item_inputs(policy, logs)
    for r in range(logs.num_requests):
        rows = slice(int(logs.offsets[r]), int(logs.offsets[r + 1]))
        predictions, own = logs.predictions[rows], None if items is None else items[rows]
        columns = dict(zip(policy.tasks, predictions.T, strict=True))  # as a log has them, behind the scales
        documents = {f"{step}_{task}": column for step in ("p", "raw") for task, column in columns.items()}
        if own is not None and policy.correction is not None:
            documents |= {f"i_{name}": column for name, column in zip(policy.correction.items, own.T, strict=True)}
        documents = {name.replace(" ", "_"): column for name, column in documents.items()}
        if logs.value is not None:
            documents["value"] = logs.value[rows]
        inputs = request_shifts(policy, logs.context[r], predictions, own)
        inputs["weights"] = page.weights[r].astype(np.float64)
        served = page.indices[r][page.indices[r] >= 0]
        yield RecordedRequest(logs.context[r], documents, inputs, served, len(predictions))


def _deviations(e: Expression, record: RecordedRequest) -> Inputs:
    """The standard deviations of a request's nodes; those of mixed scores come last, as they read the others."""
    deviations: Inputs = {}
    for name, nodes in e.formula.spreads.items():
        values = e.evaluate(record.documents, record.inputs | deviations)
        deviations[name] = np.array([np.std(values[node.name]) for node in nodes])
    return deviations


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

    The engine needs scores ≥ 0, so the script returns 1 / (1 + exp(-score)), which keeps the order.
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
