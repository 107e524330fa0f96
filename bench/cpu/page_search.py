"""Pages whose items depend on the items above them: greedy, by a beam, and by a log-determinant."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import pygrade
from pygrade import reference
from . import core, verify
from .harness import OURS, ROTATIONS, Contender, Row
from .peers import Floats, aligned, random_scores

CATEGORIES, COSINE, TRADE_OFF = 32, -0.5, 0.5
OBJECTIVES = ("page_value", "mmr", "log_det")


class Inputs:
    """Rotated requests: values, roots, categories and embeddings with a cosine of about .5 within a category."""

    def __init__(self, count: int, width: int, k: int) -> None:
        generator = np.random.default_rng(0)
        self.k = k
        self.value = random_scores(ROTATIONS, (count,), seed=1)
        self.root = random_scores(ROTATIONS, (count,), seed=2)
        drawn = generator.integers(0, CATEGORIES, (ROTATIONS, count))
        self.categories = [np.ascontiguousarray(row, np.int32) for row in drawn]
        self.pairs = -0.3 * random_scores(1, (CATEGORIES, CATEGORIES), seed=3)[0]
        centers = generator.standard_normal((CATEGORIES, max(width, 1)))
        self.embeddings: list[Floats] = []
        for own in self.categories if width else ():
            vectors = centers[own] + generator.standard_normal((count, width))
            memory = aligned((count, width))
            memory[:] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            self.embeddings.append(memory)
        slots = np.arange(1.0, k + 1.0)
        self.attention = (slots**-0.7).astype(np.float32)
        self.examination = (slots**-0.9).astype(np.float32)

    def call(self, number: int, objective: str, beam: int) -> dict[str, Any]:
        """The arguments of the op for one request."""
        i = number % ROTATIONS
        given: dict[str, Any] = {"value": self.value[i], "root": None, "k": self.k, "objective": objective}
        if self.embeddings:
            given |= {"embeddings": self.embeddings[i], "cosine": 1.0 if objective == "log_det" else COSINE}
        if objective != "page_value":
            return given | {"trade_off": TRADE_OFF}
        given |= {"root": self.root[i], "attention": self.attention, "examination": self.examination, "beam": beam}
        return given | {"categories": self.categories[i], "pairs": self.pairs}


def numpy_page(inputs: Inputs, beam: int) -> Contender:
    """All prefixes of the beam at once, slot by slot."""

    def run(number: int) -> Any:
        i = number % ROTATIONS
        value, root, own = inputs.value[i], inputs.root[i], inputs.categories[i]
        effect, total = np.zeros((1, len(value)), np.float32), np.zeros(1, np.float32)
        page = np.zeros((1, 0), np.int64)
        scores = np.zeros((1, 0), np.float32)
        for slot in range(inputs.k):
            score = value + root * np.exp(effect)
            np.put_along_axis(score, page, -np.inf, axis=1)
            if beam == 1:
                rank, item = np.zeros(1, np.int64), score.argmax(1)
            else:
                sums = (total[:, None] + inputs.examination[slot] * score).ravel()
                best = np.argpartition(sums, -beam)[-beam:]
                best = best[np.argsort(-sums[best], kind="stable")]
                total = sums[best]
                rank, item = best // len(value), best % len(value)
            page = np.concatenate([page[rank], item[:, None]], axis=1)
            scores = np.concatenate([scores[rank], score[rank, item][:, None]], axis=1)
            similarity = inputs.pairs[own[item]][:, own]
            if inputs.embeddings:
                vectors = inputs.embeddings[i]
                similarity = similarity + np.float32(COSINE) * np.maximum(vectors[item] @ vectors.T, 0.0)
            effect = effect[rank] + inputs.attention[slot] * similarity
        return scores[0], page[0]

    return run


def numpy_map(inputs: Inputs) -> Contender:
    """The fast greedy MAP inference of Chen, Zhang & Zhou (NeurIPS 2018), in numpy."""

    def run(number: int) -> Any:
        i = number % ROTATIONS
        vectors = inputs.embeddings[i]
        relevance = np.float32(TRADE_OFF) * inputs.value[i]
        rows: NDArray[np.float32] = np.zeros((inputs.k, len(relevance)), np.float32)
        variance = np.einsum("nd,nd->n", vectors, vectors)
        taken, scores = [], []
        for slot in range(inputs.k):
            score = relevance + np.float32(1.0 - TRADE_OFF) * np.log(np.maximum(variance, 1e-6))
            score[taken] = -np.inf
            item = int(score.argmax())
            row = vectors @ vectors[item] - rows[:slot, item] @ rows[:slot]
            rows[slot] = row / np.sqrt(variance[item])
            variance = variance - rows[slot] ** 2
            taken.append(item)
            scores.append(score[item])
        return np.array(scores), np.array(taken)

    return run


def page(quick: bool, objective: str, width: int, beam: int) -> Row:
    """One request of 500 candidates and a page of 20."""
    count, k = 500, 20
    inputs = Inputs(count, width, k)

    def ours(number: int) -> Any:
        return pygrade.search_page(**inputs.call(number, objective, beam), num_threads=1)

    contenders: dict[str, Contender] = {OURS: ours}
    if objective == "log_det":
        contenders["numpy, fast greedy MAP"] = numpy_map(inputs)
    else:
        contenders["numpy"] = numpy_page(inputs, beam)
    for number in (0, 1):
        given = inputs.call(number, objective, beam)
        exact = {name: verify.tensor(v)[None] if isinstance(v, np.ndarray) else v for name, v in given.items()}
        for name in {"pairs", "attention", "examination"} & set(exact):
            exact[name] = exact[name][0]
        if "categories" in exact:
            exact["categories"] = exact["categories"].int()
        values, indices = reference.search_page(**exact)
        for name, run in contenders.items():
            result = run(number)
            verify.close(name, "values", result[0], values[0])
            verify.close(name, "indices", result[1], indices[0])
    shape = {"N": count, "d": width, "k": k, "beam": beam, "objective": objective}
    sizes = (count, width, k, CATEGORIES, beam, OBJECTIVES.index(objective))
    return core.row("search_page", shape, contenders, quick, ("search_page", sizes))
