"""python -m bench.study.whole_pages OUT.json [PART …]: page terms on fresh worlds. See the protocol.

It fits the correction and page terms to a log as `train` does, behind gate and guard, and measures the pages of test
requests in closed form. OUT keeps what it has.
"""

import json
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.study.settings import load_settings
from pygrade._typing import Array, Floats
from pygrade.config.marketplace import MarketplaceConfig, PageEffects
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.correction.fit import Fitted, fit_correction
from pygrade.correction.pages import FittedPages, fit_pages
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.keys import hashes
from pygrade.simulation.marketplace import TASK_VALUES, Marketplace, Requests
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.cross_fit import fold_of_requests
from pygrade.training.propensity import slot_propensity

VALUES = np.array(TASK_VALUES)
TESTS, SLOTS, BEAM = 3_000, 10, 8
THETAS = (0.1, 0.2, 0.4, 0.8, 1.2, 1.8, 2.5)  # of maximal marginal relevance
HELPS = 0.3  # gain of a complement
_BLOCK = 500  # requests searched at a time


@dataclass(frozen=True)
class Part:
    """Logs of one kind."""

    name: str
    worlds: tuple[int, ...]
    requests: int
    pages: PageEffects
    kind: str = "main"  # of world: a regime of the study
    search: bool = True  # measures every method; else only whether page terms are served, and what they earn


def _worlds(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


MODERATE, STRONG = PageEffects(strength=0.5), PageEffects(strength=1.5)
PARTS = (
    Part("moderate", _worlds(9801, 5), 20_000, MODERATE),
    Part("strong", _worlds(9801, 5), 20_000, STRONG),
    Part("strong, complements", _worlds(9801, 5), 20_000, replace(STRONG, complement=HELPS)),
    Part("moderate, complements", _worlds(9801, 5), 20_000, replace(MODERATE, complement=HELPS)),
    Part("moderate, 5,000", _worlds(9801, 10), 5_000, MODERATE),
    Part("strong, 5,000", _worlds(9801, 5), 5_000, STRONG),
    Part("confounded, nothing there", _worlds(9811, 10), 20_000, PageEffects(hidden_taste=0.5), search=False),
    Part("confounded, moderate", _worlds(9811, 3), 20_000, replace(MODERATE, hidden_taste=0.5), search=False),
    Part("nothing there, 2,000", _worlds(9831, 12), 2_000, PageEffects(), search=False),
    Part("nothing there, 5,000", _worlds(9831, 10), 5_000, PageEffects(), search=False),
    Part("nothing there, 20,000", _worlds(9831, 6), 20_000, PageEffects(), search=False),
    Part("nothing there, accurate, 5,000", _worlds(9831, 6), 5_000, PageEffects(), "accurate", search=False),
    Part("nothing there, hyped, 5,000", _worlds(9831, 6), 5_000, PageEffects(), "hype", search=False),
    Part("moderate, 2,000", _worlds(9801, 5), 2_000, MODERATE, search=False),
)


@dataclass(frozen=True)
class Learned:
    """What a log gives."""

    logs: Logs
    fitted: Fitted
    pages: FittedPages | None
    exponent: float
    seconds: dict[str, float]  # of CPU


def learn(logs: Logs) -> Learned:
    """The correction and page terms, as `train` fits them."""
    config = TrainConfig()
    propensity = slot_propensity(logs, RewardConfig())
    curve, cluster = propensity.curve(SLOTS), clusters_of(logs)
    fold = fold_of_requests(cluster, config.trust.folds, 0)
    start = time.process_time()
    fitted = fit_correction(logs, propensity.examine(logs)[logs.shown], fold, cluster, config.correction)
    licensed = fitted.licensed
    corrected = logs.predictions if licensed is None else licensed.cross_fitted(logs, fold)
    middle = time.process_time()
    parents = fitted.frame.parents if licensed is None else licensed.correction.parents
    pages = fit_pages(logs, corrected, parents, curve, fold, cluster)
    seconds = {"correction": middle - start, "pages": time.process_time() - middle}
    return Learned(logs, fitted, pages, propensity.exponent, seconds)


class Search:
    """The pages of test requests under a world's truth and a log's terms."""

    def __init__(self, world: Marketplace, requests: Requests, found: Learned) -> None:
        assert found.pages is not None
        self.world, self.requests, self.terms = world, requests, found.pages.terms
        n, size, tasks = requests.p_hat.shape
        licensed, rows = found.fitted.licensed, np.ascontiguousarray(requests.p_hat.reshape(-1, tasks))
        if licensed is not None:
            columns = licensed.correction.item_columns({}, hashes(requests.item_id.ravel().astype(np.int64)))
            rows = licensed.correction.apply(requests.context, rows, np.arange(n + 1) * size, columns)
        self.corrected = rows.reshape(n, size, tasks)
        self.value = self.corrected @ VALUES  # all events need the click
        self.examined = np.arange(1.0, SLOTS + 1) ** -found.exponent
        self.attention = self.terms.attention[:SLOTS].astype(np.float64)

    def learned(self, rows: slice | Array) -> Array:
        """L [n, C, C]: what items do to each other by the log's terms."""
        effects, terms, item = self.world.page_effects, self.terms, self.requests.item_id[rows]
        code = terms.codes(np.array(effects.categories))[effects.category[item]]
        known = (code[:, :, None] >= 0) & (code[:, None] >= 0)
        unit = effects.unit[item]
        likeness = np.where(known, terms.pairs[code[:, :, None], code[:, None]], 0)
        return np.asarray(likeness + terms.cosine * np.maximum(unit @ unit.transpose(0, 2, 1), 0), np.float32)

    def true(self, rows: slice) -> Array:
        return self.world.page_effects.between(self.requests.item_id[rows])

    def page_value(self, page: Array) -> Floats:
        return np.asarray(self.world.expected(self.requests, page).value)

    def sorted(self) -> Array:
        return np.argsort(-self.value, 1, kind="stable")[:, :SLOTS]

    def search(self, width: int, truth: bool = False) -> Array:
        """Pages [n, K], greedy (1) or by a beam; truth: with the world's own effects and attention."""
        pages = []
        for start in range(0, len(self.requests), _BLOCK):
            rows = slice(start, start + _BLOCK)
            likeness = self.true(rows) if truth else self.learned(rows)
            attention = self.world.attention(SLOTS).astype(np.float64) if truth else self.attention
            examined = attention if truth else self.examined
            pages.append(beam_pages(self.value[rows], likeness, attention, examined, width, truth))
        return np.concatenate(pages)

    def claimed(self, page: Array) -> float:
        """Mean value of pages by the log's terms."""
        total = 0.0
        for start in range(0, len(page), _BLOCK):
            rows = slice(start, start + _BLOCK)
            total += float(self.worth(self.value[rows], self.learned(rows), page[rows, None]).sum())
        return total / len(page)

    def worth(self, value: Floats, likeness: Array, page: Array) -> Floats:
        """[n, G]: by the log's terms, of G pages [n, G, K] of each request."""
        n = np.arange(len(page))[:, None, None]
        inside = np.triu(likeness[n[..., None], page[..., :, None], page[..., None, :]], 1)
        factor = np.exp((self.attention[:, None] * inside).sum(-2))
        return np.asarray((self.examined * value[n, page] * factor).sum(-1))

    def marginal(self, theta: float) -> Array:
        """Maximal marginal relevance: z of the value, less θ times the largest likeness above."""
        effects = self.world.page_effects
        pages = []
        for start in range(0, len(self.requests), _BLOCK):
            rows = slice(start, start + _BLOCK)
            item, value = self.requests.item_id[rows], self.value[rows]
            unit, category = effects.unit[item], effects.category[item]
            alike = 0.6 * (category[:, :, None] == category[:, None])
            alike = alike + 0.4 * np.maximum(unit @ unit.transpose(0, 2, 1), 0)
            score = (value - value.mean(1, keepdims=True)) / (value.std(1, keepdims=True) + 1e-9)
            most, every = np.zeros_like(score), np.arange(len(score))
            page = np.empty((len(score), SLOTS), np.int64)
            for k in range(SLOTS):
                page[:, k] = pick = (score - theta * most).argmax(1)
                score[every, pick] = -np.inf
                most = np.maximum(most, alike[every, pick])
            pages.append(page)
        return np.concatenate(pages)


def beam_pages(
    value: Floats, likeness: Array, attention: Floats, examined: Floats, width: int, exact: bool = False
) -> Array:
    """Pages [n, K] of highest Σ examined · value · exp(Σ_above attention · likeness[above, item]), by a beam of
    ``width`` prefixes; exact: each item above is looked at by chance, as in the marketplace.
    """
    n, size = value.shape
    every = np.arange(n)
    score = np.log(np.maximum(value, 1e-12))[:, None]  # [n, beams, C]
    pages, total = np.empty((n, 1, 0), np.int64), np.zeros((n, 1))
    for k in range(len(examined)):
        weight = examined[k] if width > 1 else 1.0
        extended = (total[..., None] * (width > 1) + weight * np.exp(score)).reshape(n, -1)
        kept = min(width, extended.shape[1])
        top = np.argpartition(-extended, kept - 1, 1)[:, :kept] if kept > 1 else extended.argmax(1)[:, None]
        beam, pick = top // size, top % size
        total = np.take_along_axis(extended, top, 1)
        pages = np.concatenate([np.take_along_axis(pages, beam[..., None], 1), pick[..., None]], -1)
        score = np.take_along_axis(score, beam[..., None], 1)
        np.put_along_axis(score, pick[..., None], -np.inf, 2)
        above = likeness[every[:, None], pick]
        score = score + (np.log1p(-attention[k] * (1 - np.exp(above))) if exact else attention[k] * above)
    return np.asarray(pages[every, total.argmax(1)])


def learned_world(part: Part, seed: int) -> tuple[Marketplace, Learned]:
    base = MarketplaceConfig() if part.kind == "main" else load_settings().regimes[part.kind].marketplace
    config = SimulateConfig(requests=part.requests, seed=seed, likeness=True, world=replace(base, pages=part.pages))
    world = Marketplace(config.world, seed)
    return world, learn(simulate_logs(config, world=world))


def measure(part: Part, seed: int) -> dict[str, Any]:
    """One world: what the log shows, and the methods' values over corrected expected value, in per cent."""
    world, found = learned_world(part, seed)
    record: dict[str, Any] = {"part": part.name, "world": seed, "seconds": found.seconds}
    record["corrected"] = found.fitted.licensed is not None
    if found.pages is None:
        return record | {"served": False}
    gain, terms = found.pages.gain, found.pages.terms
    record |= {"z": gain.z, "z page": gain.z_page, "z shuffled": gain.z_shuffled, "z helps": gain.z_helps}
    record |= {"served": gain.passes}
    record |= {"same": float(np.diag(terms.pairs).mean()), "cosine": terms.cosine, "exponent": found.exponent}
    if not (part.search or gain.passes):
        return record
    search = Search(world, world.requests(TESTS, seed, "test"), found)
    own = search.sorted()
    over = float(search.page_value(own).mean())

    def lift(page: Array) -> float:
        return 100 * (float(search.page_value(page).mean()) / over - 1)

    greedy = search.search(1)
    record |= {"greedy": lift(greedy)}
    if part.search or terms.pairs.max() > 0:
        beam = search.search(BEAM)
        record |= {"beam": lift(beam), "claim": 100 * (search.claimed(beam) / search.claimed(greedy) - 1)}
    takes_beam = float(terms.pairs.max()) > 0 and record.get("claim", 0.0) >= 1.0
    record["method"] = "beam" if takes_beam else "greedy"
    record["lift"] = record[record["method"]] if gain.passes else 0.0
    if part.search:
        record |= {
            "greedy, true": lift(search.search(1, truth=True)),
            "beam, true": lift(search.search(BEAM, truth=True)),
        }
        record["mmr"] = max(lift(search.marginal(theta)) for theta in THETAS)
        without = Marketplace(replace(world.config, pages=replace(part.pages, strength=0.0)), seed)
        record["lost"] = 100 * (over / float(without.expected(search.requests, own).value.mean()) - 1)
    return record


def run(out: Path, wanted: list[str]) -> None:
    """Adds to OUT what it lacks, of these parts (none: all)."""
    logging.getLogger("pygrade").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if unknown := [name for name in wanted if name not in {part.name for part in PARTS}]:
        raise SystemExit(f"no part {unknown[0]!r}; want some of: {'; '.join(part.name for part in PARTS)}")
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for part in PARTS:
        for seed in part.worlds if not wanted or part.name in wanted else ():
            if not any(entry["part"] == part.name and entry["world"] == seed for entry in found):
                found.append(measure(part, seed))
                out.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n", encoding="utf-8")
                print(json.dumps(found[-1]), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:])
