"""The score of a candidate as a tree, from which exports are printed: torch and ONNX (`export`), search engines
(`expressions`).

Leaves are constants, fields of a document (``p_click``, ``i_price``, ``value``) and numbers of the request (weights,
values, the shift and the slopes by which the correction moves a task's log odds). The network that makes the
weights, and what makes shifts and slopes of the context, are not in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from pygrade.correction.inputs import EPSILON as RATIO_EPSILON
from pygrade.correction.inputs import LEAST_PARENT, MOST_MAPPED_LOG, RATIO, REACH, SMALLEST, downward
from pygrade.logs.prediction_scale import LARGEST_LOG, PredictionScale, parents_of
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import EPSILON

Operand = Union["Node", float]
Fusion = tuple[str, float, float, Sequence[float]]  # transform, beta, epsilon, slope [T]
Value = Any  # of a node: a number, or an array or tensor of candidates
MOST_MOVE = 60.0  # of a sum of leaves


@dataclass(frozen=True, eq=False)
class Node:
    """An operation on other nodes.

    kind: constant, document, request, add, subtract, multiply, divide, log, exp, max, min, clip, piecewise (a map by
    its knots), fuse (Σ_t w_t f_t(p_t) of n terms and their n weights, where f may read all candidates) or trees (the
    sum of leaves by variables [V], their means and the context). ``fact``: the number, the name (and place), the knots,
    the formula's arguments, or the correction. ``name``: of a step. ``simple``: the same in the other kinds; None of
    trees and of a fuse that needs all candidates at once.
    """

    kind: str
    args: tuple["Node", ...] = ()
    fact: Any = None
    name: str = ""
    simple: "Node | None" = None

    def __add__(self, other: Operand) -> "Node":
        return Node("add", (self, node_of(other)))

    def __sub__(self, other: Operand) -> "Node":
        return Node("subtract", (self, node_of(other)))

    def __mul__(self, other: Operand) -> "Node":
        return Node("multiply", (self, node_of(other)))

    def __truediv__(self, other: Operand) -> "Node":
        return Node("divide", (self, node_of(other)))

    def at_least(self, number: float) -> "Node":
        return Node("max", (self, node_of(number)))

    def at_most(self, number: float) -> "Node":
        return Node("min", (self, node_of(number)))

    def clip(self, low: float, high: float) -> "Node":
        return Node("clip", (self,), (low, high), simple=self.at_most(high).at_least(low))

    def log(self) -> "Node":
        return Node("log", (self,))

    def exp(self) -> "Node":
        return Node("exp", (self,))


def node_of(operand: Operand) -> Node:
    return operand if isinstance(operand, Node) else Node("constant", fact=float(operand))


def document(name: str, missing: float | None = None) -> Node:
    """A field of the candidate; missing: what stands in for one that is not finite, None: every document has it."""
    return Node("document", fact=(name, missing))


def request(name: str, *index: int) -> Node:
    """A number of an input of the request."""
    return Node("request", fact=(name, index))


def total(terms: Sequence[Node]) -> Node:
    result, *others = terms
    for term in others:
        result = result + term
    return result


def piecewise(p: Node, x: Sequence[float], y: Sequence[float]) -> Node:
    """y_i + (p - x_i) · slope_i in the segment of p; the last one has no end. In simple nodes a sum of hinges."""
    at, to = np.asarray(x, np.float32), np.asarray(y, np.float32)
    slopes = np.diff(to) / np.diff(at)
    hinges = zip(at[1:-1], slopes[:-1], slopes[1:], strict=True)
    terms = [node_of(to[0]), (p - at[0]) * slopes[0], *((p - knot).at_least(0.0) * (b - a) for knot, a, b in hinges)]
    return Node("piecewise", (p,), (at, to), simple=total(terms))


def walk(*nodes: Node) -> Iterator[Node]:
    """Simple nodes below these and they themselves, each once and after its arguments."""
    seen: set[Node] = set()

    def visit(node: Node) -> Iterator[Node]:
        if node not in seen:
            seen.add(node)
            for argument in (node.simple,) if node.simple else node.args:
                yield from visit(argument)
            yield node

    for node in nodes:
        yield from visit(node)


class NodeValues:
    """Values of nodes, each computed once, by the functions of ``kinds``: of a node without one its simple form's."""

    def __init__(self, kinds: Mapping[str, Callable[..., Value]], steps: Mapping[str, Value]) -> None:
        """kinds: by kind, of the arguments' values and the fact, if there is one; steps: values of named nodes."""
        self.kinds, self.steps = kinds, steps
        self.values: dict[Node, Value] = {}

    def __call__(self, node: Node) -> Value:
        if node.name in self.steps:
            return self.steps[node.name]
        if node not in self.values:
            if node.simple is not None and node.kind not in self.kinds:
                self.values[node] = self(node.simple)
            else:
                facts = () if node.fact is None else (node.fact,)
                self.values[node] = self.kinds[node.kind](*map(self, node.args), *facts)
        return self.values[node]


@dataclass
class Formula:
    """The nodes of a policy's score."""

    names: set[str] = field(default_factory=set)  # of steps
    raw: list[Node] = field(default_factory=list)  # [T] predictions as a log has them
    corrected: list[Node] = field(default_factory=list)  # [T]; the raw ones if nothing reads corrected ones
    variables: list[Node] = field(default_factory=list)  # [V] the correction's, standardized
    network_terms: list[Node] = field(default_factory=list)  # [T] that the policy's network reads
    spreads: dict[str, list[Node]] = field(default_factory=dict)  # inputs: standard deviations of nodes in the page
    score: Node = Node("constant", fact=0.0)

    def let(self, name: str, node: Node) -> Node:
        """Name a step. ValueError if names of tasks or columns make two steps of one name."""
        name = name.replace(" ", "_")
        if name in self.names:
            raise ValueError(f"tasks or item columns have names that make {name!r} twice; an expression needs others")
        self.names.add(name)
        return Node(node.kind, node.args, node.fact, name, node.simple)

    def fuse(self, name: str, terms: Sequence[Node], weights: Sequence[Node], fusion: "Fusion") -> Node:
        """Σ_t w_t f_t(p_t) as a step. In simple nodes without what all candidates share: a z-score is divided by the
        standard deviation of its term, an input of the request."""
        transform, beta, epsilon, slope = fusion
        summands, spread = [], f"{name}_deviations"
        for t, (p, w) in enumerate(zip(terms, weights, strict=True)):
            if transform in ("log", "zlog"):
                p = (p + beta).log()
            elif transform == "log1p":
                p = (p * slope[t] + 1.0).log()
            if transform in ("zscore", "zlog"):
                p = p if p.name else self.let(f"{name}_f{t}", p)
                self.spreads.setdefault(spread, []).append(p)
                p = p / (request(spread, t) + epsilon)
            summands.append(p * w)
        simple = None if transform == "rank" else total(summands)
        return self.let(f"{name}_score", Node("fuse", (*terms, *weights), fusion, simple=simple))


def formula_of(policy: FusionPolicy) -> Formula:
    """The score of a policy's pages without page terms, boosts and rules. A request has weights [T] of the network and,
    with trade-offs, ``values`` [T] of the tasks; with a correction that is read, shifts [T] and slopes [T, V]."""
    f, config, mixture = Formula(), policy.config, policy.mixture
    f.raw = f.corrected = _read_scales(f, policy)
    if policy.uses_corrected and policy.correction is not None:
        f.corrected = _correct(f, policy.correction, f.raw)
    slope = config.slope if isinstance(config.slope, tuple) else (config.slope,) * len(policy.tasks)

    def rank_by(
        name: str, transform: str, terms: Sequence[Node], weights: Sequence[Node], priced: Sequence[str]
    ) -> Node:
        value = document("value")
        terms = [p * value if task in priced else p for task, p in zip(policy.tasks, terms, strict=True)]
        return f.fuse(name, terms, weights, (transform, config.beta, config.epsilon, slope))

    f.network_terms = f.corrected if config.corrected else f.raw
    parts = []  # of the score, the baseline's first
    for ranking in mixture.ranked_by[::-1] if mixture else ():
        name = "baseline" if mixture and ranking is mixture.baseline else "challenger"
        terms = f.corrected if ranking.corrected else f.raw
        if ranking.calibration:
            pairs = zip(terms, ranking.calibration, strict=True)
            terms = [f.let(f"{name}_p{t}", piecewise(p, *knots)) for t, (p, knots) in enumerate(pairs)]
        weights = [node_of(float(np.float32(weight))) for weight in ranking.weights]
        if config.trade_offs:  # a task that was worth 0 in the training has no other value
            worth = zip(ranking.weights, policy.spec.task_values, strict=True)
            over = [np.float32(weight) / np.float32(value) if value else 0.0 for weight, value in worth]
            weights = [node_of(float(weight)) * request("values", t) for t, weight in enumerate(over)]
        score = rank_by(name, ranking.transform, terms, weights, ranking.value_tasks)
        if ranking.logarithm:
            score = f.fuse(f"{name}_log", [score], [node_of(1.0)], ("log", config.beta, 0.0, ()))
        parts.append(score)
    if mixture is None or mixture.uses_network:
        weights = [request("weights", t) for t in range(len(policy.tasks))]
        parts.append(rank_by("policy", config.transform, f.network_terms, weights, config.value_tasks))
    f.score = parts[0]
    if mixture is not None and mixture.mixture_weight < 1.0:
        standardize: Fusion = ("zscore", 0.0, EPSILON, ())
        shares = [node_of(float(np.float32(share))) for share in (1.0 - mixture.mixture_weight, mixture.mixture_weight)]
        if len(parts) == 2:
            f.score = f.fuse("mixture", parts, shares, standardize)
        else:  # the order is the same
            f.score = Node("fuse", (parts[0], shares[0]), standardize, simple=parts[0])
    return f


def _read_scales(f: Formula, policy: FusionPolicy) -> list[Node]:
    """`FusionPolicy.read_predictions` of documents on the policy's scales."""
    scales = [policy.scales.get(task, PredictionScale()) for task in policy.tasks]
    parents = parents_of(scales, policy.tasks)
    read: dict[int, Node] = {}
    for t in downward(parents):
        task, scale = policy.tasks[t], scales[t]
        p = document(f"p_{task}".replace(" ", "_"))
        p = f.let(f"score_{task}", piecewise(p, scale.x, scale.y)) if scale.x else p
        kind = scale.kind if scale.kind != "score" else "log" if scale.amount else "logit"
        if kind == "percent":
            p = p / 100.0
        elif kind == "log":
            p = p.clip(-LARGEST_LOG, LARGEST_LOG).exp()
        elif kind == "logit":
            p = node_of(1.0) / ((p * -1.0).clip(-LARGEST_LOG, LARGEST_LOG).exp() + 1.0)
        read[t] = f.let(f"raw_{task}", p if parents[t] < 0 else p * read[parents[t]])
    return [read[t] for t in range(len(scales))]


def _correct(f: Formula, c: Correction, raw: Sequence[Node]) -> list[Node]:
    """`pygrade.reference.correct`, with shifts [T] and slopes [T, V] of the request in place of its context and means:
    shift_t + Σ_v slope_tv · v."""
    p = _map(f, c, raw) if c.form else list(raw)
    ratios = [
        p[t] if s < 0 else f.let(f"ratio_{task}", (p[t] / (p[s] + RATIO_EPSILON)).clip(*RATIO))
        for t, (task, s) in enumerate(zip(c.tasks, c.parents, strict=True))
    ]
    fields = [_log_odds(ratio, amount) for ratio, amount in zip(ratios, c.amounts, strict=True)]
    fields += [
        document(f"i_{column}".replace(" ", "_"), float(c.l_mean[len(fields) + i])) for i, column in enumerate(c.items)
    ]
    f.variables = [
        f.let(f"z_{name}", ((value - float(c.l_mean[v])) / float(c.l_std[v])).clip(-REACH, REACH))
        for v, (name, value) in enumerate(zip((*c.tasks, *c.items), fields, strict=True))
    ]
    corrected = list(p)
    for t in downward(c.parents):
        terms = [request("shifts", t), *(z * request("slopes", t, v) for v, z in enumerate(f.variables))]
        factor = f.let(f"shift_{c.tasks[t]}", total(terms)).exp()
        if c.amounts[t]:
            moved = p[t].at_least(SMALLEST) * factor
        elif c.parents[t] < 0:
            moved = (p[t].clip(SMALLEST, 1 - SMALLEST) * factor).at_most(1.0)
        else:
            moved = _shifted(ratios[t], factor) * corrected[c.parents[t]]
        corrected[t] = f.let(f"corrected_{c.tasks[t]}", moved)
    if not c.trees:
        return corrected
    factor = f.let("trees", Node("trees", tuple(f.variables), c).clip(-MOST_MOVE, MOST_MOVE).exp())
    return [f.let(f"moved_{task}", p * factor) for task, p in zip(c.tasks, corrected, strict=True)]


def _map(f: Formula, c: Correction, raw: Sequence[Node]) -> list[Node]:
    """`pygrade.reference.map_predictions`."""
    mapped = list(raw)
    for t in downward(c.parents):
        task, s, p = c.tasks[t], c.parents[t], raw[t]
        child = c.form == "conditional" and s >= 0  # no amount
        if child:
            p = f.let(f"map_ratio_{task}", (p / raw[s].at_least(LEAST_PARENT)).clip(*RATIO))
        z = (_log_odds(p, c.amounts[t]) - float(c.map_mean[t])) / float(c.map_std[t])
        z = f.let(f"map_z_{task}", z.clip(-6.0, 6.0))
        level, slope, *hinges = (float(w) for w in c.map_weights[t])
        bends = [(z - float(k)).at_least(0.0) * w for w, k in zip(hinges, c.map_knots[t], strict=True)]
        factor = f.let(f"map_{task}", total([z * slope + level, *bends])).exp()
        moved = p.at_least(SMALLEST) * factor if c.amounts[t] else _shifted(p, factor)
        if child:
            moved = moved * mapped[s]
        elif c.form == "marginal" and not c.amounts[t]:
            moved = moved.at_most(float(np.exp(MOST_MAPPED_LOG)))
        mapped[t] = f.let(f"mapped_{task}", moved)
    return mapped


def _rest(p: Node) -> Node:
    return (node_of(1.0) - p).at_least(SMALLEST)


def _log_odds(p: Node, amount: bool) -> Node:
    return p.at_least(SMALLEST).log() if amount else (p.clip(SMALLEST, 1 - SMALLEST) / _rest(p)).log()


def _shifted(p: Node, factor: Node) -> Node:
    """The probability whose odds are those of p times the factor; sigmoids of ONNX runtimes are coarse near 0."""
    odds = p.clip(SMALLEST, 1 - SMALLEST) * factor
    return odds / (_rest(p) + odds)
