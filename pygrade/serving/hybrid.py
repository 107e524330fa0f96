"""Fusion weights of a policy as a hybrid query of a search engine: OpenSearch, Elasticsearch, Vespa or Qdrant.

A retriever is a task of the policy, and its *term* of a document the task's prediction. Each engine adds up weight ·
term, so a policy can be written for it if it does the same: `PolicyConfig` with transform identity, on terms made as
the engine makes them (`normalize_hits`). The files hold one set of weights for all queries. Those of a single query are
what ``POST /v1/weights`` of the service answers, to stand in their place. No file was run against an engine.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.logs.prediction_scale import PredictionScale
from pygrade.policy import FusionPolicy

TERMS = {  # that an engine adds up
    "opensearch": ("min_max", "rrf"),
    "elasticsearch": ("min_max", "rrf"),
    "vespa": ("min_max", "rrf", "raw"),
    "qdrant": ("rrf", "raw"),
}
_DEPTH = 100  # hits of a retriever
_NEAR = 1e-4  # of the largest term to what its formula gives


def normalize_hits(
    scores: NDArray[Any], offsets: NDArray[np.int64], terms: str = "min_max", rank_constant: int = 60
) -> NDArray[np.float32]:
    """Terms [M, T] of scores [M, T] of the documents that any of T retrievers returned; NaN: this retriever did not.

    Each query, which ends at offsets [R + 1], and retriever is a list of its own; a document that it lacks has the term
    0, as in the engines. min_max: (score - least) / (largest - least), 1 where all are equal; rrf: 1 / (rank_constant +
    rank), the best score having rank 1, of equal ones the first row. ValueError names another shape, term or constant.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(scores):
        raise ValueError(f"scores has shape {scores.shape}, offsets end at {offsets[-1:]}; expected [M, T] and 0 to M")
    if terms not in ("min_max", "rrf") or rank_constant < 1:
        raise ValueError(f"terms is {terms!r}, rank_constant {rank_constant}; expected min_max or rrf, and at least 1")
    result = np.zeros(scores.shape, np.float32)
    for start, stop in pairwise(offsets):
        for t in range(scores.shape[1]):
            rows = start + np.flatnonzero(~np.isnan(scores[start:stop, t]))
            own = scores[rows, t]
            if terms == "rrf":
                result[rows[np.argsort(-own, kind="stable")], t] = 1 / (rank_constant + 1 + np.arange(len(rows)))
            elif len(rows):
                result[rows, t] = (own - own.min()) / np.ptp(own) if np.ptp(own) > 0 else 1.0
    return result


@dataclass(frozen=True)
class HybridWeights:
    """Weights of retrievers, and what they are weights of."""

    engine: str
    terms: str
    retrievers: tuple[str, ...]
    weights: tuple[float, ...]  # sum 1
    rank_constant: int  # of rrf, else 0
    per_query: bool  # they are the static ones of a policy that has weights for each query


def hybrid_weights(policy: FusionPolicy, form: str) -> HybridWeights:
    """The weights that ``form``, ENGINE:TERMS, holds. ValueError names what the engine cannot express, and the cure."""
    engine, _, terms = form.partition(":")
    if terms not in TERMS.get(engine, ()):
        known = ", ".join(f"{name}:{term}" for name in TERMS for term in TERMS[name])
        cure = "; it has no minimum of a list, so train on rrf or raw" if form == "qdrant:min_max" else ""
        raise ValueError(f"engine is {form!r}{cure}; expected vespa, opensearch, or one of {known}")
    policy.refuse_elsewhere("a hybrid query")
    mixture, config = policy.mixture, policy.config
    network = mixture is None or (mixture.uses_network and mixture.mixture_weight == 1.0)
    rankings = () if mixture is None else mixture.ranked_by
    if mixture is not None and 0.0 < mixture.mixture_weight < 1.0:
        raise ValueError(
            "what is served mixes two rankings by z-scores; an engine adds up one: train --cross-fit.mixture-weights 1"
        )
    if network:
        name, transform, priced, weights = "the policy", config.transform, config.value_tasks, policy.fallback_weights()
        if config.corrected or config.trade_offs:
            raise ValueError(
                "the policy reads corrected predictions or values; train --no-correction.enabled, no trade-offs"
            )
        if not config.context_only:
            raise ValueError(
                "the policy reads the candidates' predictions, which nobody has before the search; expected "
                "train --policy.context-only"
            )
        own = tuple(weights.tolist())
    else:
        (ranking,) = rankings
        name, transform, priced, own = ranking.name, ranking.transform, ranking.value_tasks, ranking.weights
        if ranking.corrected or ranking.calibration:
            raise ValueError(f"{name!r} is served, of predictions that are mapped first; train --no-correction.enabled")
    if transform != "identity" or priced:
        how = f"transform {transform}{' and priced predictions' if priced else ''}"
        raise ValueError(
            f"{name!r} is served, of {how}; an engine adds up weight · term: train --policy.transform identity, on "
            "terms of normalize_hits"
        )
    if min(own) < 0 or sum(own) <= 0:
        raise ValueError(f"{name!r} has weights {own}; a search engine needs weights of at least 0")
    constant = _check_terms(policy, terms)
    return HybridWeights(engine, terms, policy.tasks, tuple(w / sum(own) for w in own), constant, network)


def _check_terms(policy: FusionPolicy, terms: str) -> int:
    """The constant of rrf, else 0. ValueError: predictions of the training were no such terms."""
    constant = 0
    for t, task in enumerate(policy.tasks):
        scale = policy.scales.get(task, PredictionScale(low=0.0, high=float("nan")))
        if scale.kind != "probability" or scale.given is not None:
            raise ValueError(f"scale of {task!r} is {scale.kind}, which maps it; expected terms as they are added up")
        if t == 0 and terms == "rrf" and scale.high > 0:
            constant = round(1 / scale.high) - 1
        high = {"min_max": 1.0, "rrf": 1 / (constant + 1), "raw": scale.high}[terms]
        if terms != "raw" and not (scale.low >= 0 and abs(scale.high - high) <= _NEAR * high):
            raise ValueError(
                f"predictions of {task!r} went from {scale.low:.6g} to {scale.high:.6g}; expected {terms} terms, up to "
                f"{high:.6g}, as of normalize_hits"
            )
    if terms == "rrf" and not 1 <= constant <= 10_000:
        raise ValueError(f"rrf terms of the training have the rank constant {constant}; expected 1 to 10,000")
    return constant


def write_hybrid(hybrid: HybridWeights) -> str:
    """The file of the engine. What a retriever is, ``<name>``, is for the reader to fill in."""
    weights = [round(weight, 6) for weight in hybrid.weights]
    weights[int(np.argmax(weights))] += round(1 - sum(weights), 6)
    pairs = list(zip(hybrid.retrievers, [round(weight, 6) for weight in weights], strict=True))
    if hybrid.engine == "vespa":
        return _write_vespa(hybrid, pairs)
    write = {"opensearch": _opensearch, "elasticsearch": _elasticsearch, "qdrant": _qdrant}[hybrid.engine]
    return json.dumps(write(hybrid, pairs), indent=2) + "\n"


Pairs = list[tuple[str, float]]  # retriever and weight


def _opensearch(hybrid: HybridWeights, pairs: Pairs) -> dict[str, Any]:
    """A search pipeline: of PUT _search/pipeline/NAME, or of a single request as its search_pipeline."""
    parameters = {"weights": [weight for _, weight in pairs]}
    if hybrid.terms == "rrf":
        combination = {"technique": "rrf", "rank_constant": hybrid.rank_constant, "parameters": parameters}
        processor: dict[str, Any] = {"score-ranker-processor": {"combination": combination}}
    else:
        combination = {"technique": "arithmetic_mean", "parameters": parameters}
        normalization = {"technique": "min_max"}
        processor = {"normalization-processor": {"normalization": normalization, "combination": combination}}
    order = "queries of the hybrid query, in order: " + ", ".join(hybrid.retrievers)
    return {"description": order, "phase_results_processors": [processor]}


def _elasticsearch(hybrid: HybridWeights, pairs: Pairs) -> dict[str, Any]:
    """The body of a search with an rrf retriever (weights since 9.2) or a linear one."""
    extra = {} if hybrid.terms == "rrf" else {"normalizer": "minmax"}
    retrievers = [
        {"retriever": {"standard": {"query": {f"<{name}>": {}}}}, "weight": weight, **extra} for name, weight in pairs
    ]
    own: dict[str, Any] = {"retrievers": retrievers, "rank_window_size": _DEPTH}
    if hybrid.terms == "rrf":
        return {"retriever": {"rrf": {**own, "rank_constant": hybrid.rank_constant}}}
    return {"retriever": {"linear": own}}


def _qdrant(hybrid: HybridWeights, pairs: Pairs) -> dict[str, Any]:
    """A query by a formula of the prefetches' scores (1.14; rrf with k: 1.16).

    Qdrant's own weighted rrf divides the rank by the weight: another formula. Here each list gets its rrf, with ranks
    from 0, then its weight.
    """
    prefetch: list[dict[str, Any]] = [{"query": f"<{name}>", "limit": _DEPTH} for name, _ in pairs]
    if hybrid.terms == "rrf":
        rrf = {"rrf": {"k": hybrid.rank_constant + 1}}
        prefetch = [{"prefetch": [one], "query": rrf, "limit": _DEPTH} for one in prefetch]
    terms = [{"mult": [weight, f"$score[{i}]"]} for i, (_, weight) in enumerate(pairs)]
    defaults = {f"$score[{i}]": 0.0 for i in range(len(pairs))}
    return {"prefetch": prefetch, "query": {"formula": {"sum": terms}, "defaults": defaults}, "limit": 10}


def _write_vespa(hybrid: HybridWeights, pairs: Pairs) -> str:
    """A rank profile. Vespa normalizes each term over the hits of the global phase, those of all retrievers."""
    names = [name.replace(" ", "_") for name in hybrid.retrievers]
    call = {"min_max": "normalize_linear({})", "rrf": f"reciprocal_rank({{}}, {hybrid.rank_constant})", "raw": "{}"}
    terms = [f"query(weights){{t:{i}}} * {call[hybrid.terms].format(name)}" for i, name in enumerate(names)]
    lines = ["rank-profile hybrid {", "    inputs {"]
    lines += [f"        query(weights) tensor<double>(t[{len(pairs)}]): {json.dumps([w for _, w in pairs])}", "    }"]
    for name in names:
        lines += [f"    function {name}() {{", f"        expression: <{name}>", "    }"]
    if hybrid.terms == "raw":
        lines += ["    first-phase {", f"        expression: {' + '.join(terms)}", "    }"]
    else:
        lines += ["    first-phase {", f"        expression: {' + '.join(names)}", "    }", "    match-features {"]
        lines += [*(f"        {name}" for name in names), "    }", "    global-phase {"]
        lines += [f"        expression: {' + '.join(terms)}", f"        rerank-count: {_DEPTH}", "    }"]
    return "\n".join([*lines, "}", ""])
