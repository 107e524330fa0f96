"""Page terms of a log: what stands above an item and its clicks, beside all that corrected predictions explain.

    log μ(row) = log q(slot) + log p + moves of the correction + a free number of the slot
                 + Σ_{j above} a_j (s · same category + P[c_j, c_i] + κ max(0, cos(e_j, e_i)))

p is the corrected prediction of the root task, cross-fitted; a_j the attention of slot j, its propensity. The terms are
blocks of the same likelihood as the correction, with precisions by the evidence. The numbers of the slots are free, so
that the sums over what is above cannot stand in for a wrong slot curve.

*Two candidates.* The one number s (κ, if the log has no categories), and all terms. All are served only where they pass
and add to a passing s what s has to add to nothing.

*The gate.* Held-out likelihood with the terms over that without them, both with free slots, by user: above 2 standard
errors row by row, and given the events of the page, where whatever makes a whole page better than predicted cancels.

*The guard.* What production knows and the predictions miss puts similar items together, and similarity then seems to
help. In shuffled pages the order knows nothing: given the events of the page, and similarity to the *whole* page, the
terms may not lower their likelihood by more than one standard error. Coefficients above 0, that something
helps, count only if they raise it by half of one; else they are 0. Without shuffled pages no terms are served.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pygrade import ops
from pygrade._typing import Array, Floats, Floats32, Ints
from pygrade.correction import newton
from pygrade.correction.gate import zscore
from pygrade.correction.inputs import InputScaling, TaskRows, amounts_of, parents_of
from pygrade.logs import Logs, evenly_spaced
from pygrade.metrics.texts import count_text
from pygrade.policy.page_terms import MAX_CATEGORIES, MAX_COEFFICIENT, PageTerms

NEEDED = 2.0  # standard errors of held-out likelihood, row by row and given the page
GUARD, BACKED = -1.0, 0.5  # standard errors of shuffled pages' likelihood that terms, and those that help, need
LEAST_EFFECT = 0.05  # coefficient below which nothing is served
FEWEST_EVENTS = 100  # of shuffled pages that the guard is run on
_ONE_IN_FIFTY = 0.02  # of the pages, advised where none is shuffled
BEAM, LEAST_CLAIM = 8, 0.01  # prefixes of the search where pairs help, and what they have to claim over greedy
_CLAIMED = 1_000  # requests that the claim is made on
_PAIRED = 8  # categories, the most frequent ones, that have a coefficient a pair
_FREE = 1e-2  # precision of the slots' numbers
_ROUNDS, _RENEW = 5, (0, 2)
_GUARD_STEPS = 12
_BLOCK = 4096  # requests that are computed at a time

_Terms = tuple[Floats, float]  # coefficients of pairs [C, C], the most frequent category first, and of the cosine


@dataclass(frozen=True)
class PageGain:
    """Results of the gate and of the randomized check, in standard errors above 0."""

    z: float  # of the held-out likelihood, row by row
    z_page: float  # given the events of each page
    z_shuffled: float | None  # of shuffled pages; None: too few of them
    z_helps: float | None = None  # of shuffled pages, by the coefficients above 0 alone; None if there are none
    empty: bool = False  # no coefficient is worth serving

    @property
    def passes(self) -> bool:
        shuffled = self.z_shuffled is not None and self.z_shuffled >= GUARD
        return self.z > NEEDED and self.z_page > NEEDED and shuffled and not self.empty

    @property
    def text(self) -> str:
        """The figures in a line."""
        shuffled = "too few shuffled pages" if self.z_shuffled is None else f"on shuffled pages {self.z_shuffled:.1f}"
        helps = "" if self.z_helps is None else f", what helps {self.z_helps:.1f}"
        return f"likelihood z {self.z:.1f}, given the page's events {self.z_page:.1f}, {shuffled}{helps}"


@dataclass(frozen=True, eq=False)
class FittedPages:
    """Page terms of the whole log and of the log without each fold, greedy, and whether they may be served."""

    terms: PageTerms
    folds: tuple[PageTerms, ...]
    gain: PageGain
    slots: Floats  # [K] examination of the slots, relative to the first: the curve times the free numbers
    moves: Floats  # [S] what stands above each shown row adds to its log odds, by terms that its fold taught nothing


def can_fit(logs: Logs) -> str:
    """The reason why page terms can't be fitted to a log; "": they can."""
    if logs.category is None and logs.embedding is None:
        return "the log has no category and no embedding of items"
    if not logs.slots_known:
        return "the slots are unknown"
    return ""


def missing_shuffles(logs: Logs) -> str:
    """Shuffled pages that the randomized check of page terms still needs, and the number of further requests like the
    log's that would hold them; "": none, or no page terms can be fitted.
    """
    amounts = amounts_of(logs)
    root = -1 if can_fit(logs) else root_of(logs, parents_of(logs.feedback[logs.shown], amounts), amounts)
    if root < 0 or (events := shuffled_events(logs, root)) >= FEWEST_EVENTS:
        return ""
    share = 0.0 if logs.exploration is None else float((logs.exploration == "shuffle").mean())
    wanted = share or _ONE_IN_FIFTY
    more = (FEWEST_EVENTS - events) / (wanted * int((logs.feedback[logs.shown, root] > 0).sum()) / logs.num_requests)
    return (
        f"{events:,} events of {logs.tasks[root]} on shuffled pages, expected {FEWEST_EVENTS}: effects of an item on "
        "those below it cannot be told from what production knows, so that no page terms are served; "
        f"about {count_text(more)} more requests with {100 * wanted:.2g} % of the pages shuffled have them"
    )


def shuffled_events(logs: Logs, root: int) -> int:
    """Events of a task on shuffled pages, which the guard needs."""
    if logs.exploration is None:
        return 0
    rows = logs.shown & (logs.exploration == "shuffle")[logs.row_request]
    return int((logs.feedback[rows, root] > 0).sum())


def root_of(logs: Logs, parents: tuple[int, ...], amounts: tuple[bool, ...]) -> int:
    """The root task, no amount, through which most of the events' value passes; -1: there is none."""
    worth = np.abs(logs.event_values.astype(np.float64))
    shown = logs.shown
    value = (logs.feedback[shown] * (worth[shown] if len(worth) > 1 else worth)).sum(0, dtype=np.float64)
    total = np.zeros(len(parents))
    for t in range(len(parents)):
        total[ancestor(parents, t)] += value[t]
    roots = [t for t, parent in enumerate(parents) if parent < 0 and not amounts[t] and total[t] > 0]
    return max(roots, key=lambda t: total[t], default=-1)


def ancestor(parents: tuple[int, ...], t: int) -> int:
    """The root task of a task."""
    return t if parents[t] < 0 else ancestor(parents, parents[t])


def fit_pages(
    logs: Logs, corrected: Floats32, parents: tuple[int, ...], curve: Floats, fold: Array, cluster: Array
) -> FittedPages | None:
    """Page terms over corrected, cross-fitted predictions [M, T]; None if no root task has value.

    curve [K]: examination of the slots, 1 of the first; fold [R]: from 0; cluster [R]: of dependent requests, each in
    one fold. ValueError if the log cannot have page terms, see `can_fit`.
    """
    if reason := can_fit(logs):
        raise ValueError(f"no page terms: {reason}; expected a log with slots and items' categories or embeddings")
    scaling = InputScaling.of(_without_items(logs), corrected, parents)
    root = root_of(logs, scaling.parents, scaling.amounts)
    if root < 0:
        return None
    task = _PageFit(logs, corrected, scaling, root, np.asarray(curve, np.float64), fold, cluster)
    return task.fit()


def choose_beam(terms: PageTerms, logs: Logs, corrected: Floats32, parents: tuple[int, ...], examined: Floats) -> float:
    """The gain in the value of a page that the terms claim for a beam over greedy: 0.01 is 1 %. 0 if no pair helps.

    corrected: predictions [M, T] of the log, of which evenly spaced requests are taken; examined [K]: of the slots.
    """
    if not (terms.pairs > 0).any():
        return 0.0
    some = replace(logs, predictions=corrected).select(evenly_spaced(logs.num_requests, _CLAIMED))
    worth = some.predictions * some.event_values
    through = np.array([logs.tasks[ancestor(parents, t)] == terms.root for t in range(len(parents))])
    value, root = (torch.from_numpy(worth[:, tasks].sum(1).astype(np.float32)) for tasks in (~through, through))
    slots, examination = len(examined), torch.from_numpy(examined.astype(np.float32))
    page_inputs: dict[str, Any] = {}
    if some.category is not None:
        page_inputs |= {"pairs": torch.tensor(terms.pairs), "categories": torch.from_numpy(terms.codes(some.category))}
    if terms.cosine and some.embedding is not None and some.embeddings is not None:
        page_inputs |= {"cosine": terms.cosine, "embeddings": torch.from_numpy(_unit(some.embeddings)[some.embedding])}
    attention = terms.attention[np.minimum(np.arange(slots), len(terms.attention) - 1)]
    total = []
    for beam in (1, BEAM):
        scores, _ = ops.search_page(
            value,
            root,
            slots,
            torch.from_numpy(attention),
            examination,
            beam=beam,
            offsets=torch.from_numpy(some.offsets),
            **page_inputs,
        )
        total.append(float((torch.nan_to_num(scores, neginf=0.0) * examination).sum()))
    return total[1] / total[0] - 1.0 if total[0] > 0 else 0.0


def _without_items(logs: Logs) -> Logs:
    """The corrected predictions hold what item columns say."""
    return replace(logs, items=(), item_features=None)


class _Sums:
    """Sums over the items above each shown row, and over its whole page, weighted by attention."""

    def __init__(self, logs: Logs, attention: Floats) -> None:
        shown = np.flatnonzero(logs.shown)
        request = logs.row_request[shown]
        self.order = np.lexsort((logs.position[shown], request))  # by slot within the page
        self.request, self.weight = request[self.order], attention[logs.position[shown[self.order]]]
        self.count = logs.num_requests
        self.sizes = np.bincount(self.request, minlength=self.count)
        self.categories, self.code = self._categories(logs, shown[self.order])
        self.rank = np.arange(len(shown)) - (np.cumsum(self.sizes) - self.sizes)[self.request]
        self.dimension = 0 if logs.embeddings is None else logs.embeddings.shape[1]
        self._place = None if logs.embedding is None else logs.embedding[shown[self.order]]
        self._vectors = logs.embeddings

    @staticmethod
    def _categories(logs: Logs, rows: Ints) -> tuple[tuple[str, ...], Ints]:
        """Names, the most frequent first, and each row's place among them, -1: unknown or too rare."""
        if logs.category is None:
            return (), np.full(len(rows), -1)
        names, code = np.unique(logs.category.astype(str), return_inverse=True)
        counts = np.where(names == "", 0, np.bincount(code[rows], minlength=len(names)))
        kept = np.argsort(-counts, kind="stable")[: min(int((counts > 0).sum()), MAX_CATEGORIES)]
        number = np.full(len(names), -1)
        number[kept] = np.arange(len(kept))
        return tuple(names[kept].tolist()), number[code[rows]]

    def back(self, values: Array) -> Array:
        """Values by page and slot in the order of the log's shown rows."""
        result = np.empty_like(values)
        result[self.order] = values
        return result

    @cached_property
    def same(self) -> tuple[Floats, Floats]:
        """Return the attention ([S] each) to items of the same category above, and on the rest of the whole page."""
        group = np.where(self.code >= 0, self.request * len(self.categories) + self.code, -1)
        order = np.argsort(group, kind="stable")
        weight = np.where(group[order] >= 0, self.weight[order], 0.0)
        first = np.append(True, group[order[1:]] != group[order[:-1]])
        before = np.cumsum(weight) - weight
        above, whole = np.empty(len(group)), np.empty(len(group))
        above[order] = before - np.maximum.accumulate(np.where(first, before, 0.0))
        number = np.cumsum(first) - 1
        whole[order] = (np.bincount(number)[number] - 1.0) * (group[order] >= 0)
        return above, whole * self.weight.mean()

    @property
    def paired(self) -> int:
        """Categories with a coefficient a pair."""
        return min(len(self.categories), _PAIRED)

    @cached_property
    def pairs(self) -> Floats:
        """Return the attention [S, C · C] to items above, by category of the item and of the item above."""
        count = self.paired
        one = (self.code[:, None] == np.arange(count)) * self.weight[:, None]
        before = np.cumsum(one, 0) - one
        start = (np.cumsum(self.sizes) - self.sizes)[self.request]
        before = before - before[start]
        result = np.zeros((len(one), count, count))
        own = np.flatnonzero((self.code >= 0) & (self.code < count))
        result[own, :, self.code[own]] = before[own]
        return result.reshape(len(one), count * count)

    @cached_property
    def cosine(self) -> tuple[Floats, Floats]:
        """Return the same, [S] each, of cosines of embeddings, where they are positive."""
        above, whole = np.zeros(len(self.code)), np.zeros(len(self.code))
        if self._place is None or self._vectors is None:
            return above, whole
        unit = _unit(self._vectors)
        ends = np.cumsum(self.sizes)
        for start in range(0, self.count, _BLOCK):
            stop = min(start + _BLOCK, self.count)
            rows = slice(ends[start] - self.sizes[start], ends[stop - 1])
            number, rank = self.request[rows] - start, self.rank[rows]
            longest = int(self.sizes[start:stop].max(initial=0))
            page = np.zeros((stop - start, longest, self.dimension), np.float32)
            page[number, rank] = unit[self._place[rows]]
            attention = np.zeros((stop - start, longest))
            attention[number, rank] = self.weight[rows]
            similarity = np.maximum(page @ page.transpose(0, 2, 1), 0)
            similarity[:, np.arange(longest), np.arange(longest)] = 0
            above[rows] = np.einsum("rj,rji->ri", attention, np.triu(similarity, 1))[number, rank]
            whole[rows] = similarity.sum(1)[number, rank]
        return above, whole * self.weight.mean()


def _unit(vectors: Floats32) -> Floats32:
    """Return vectors [E + 1, d] of length 1, and of 0 as the last, for place -1."""
    every = np.append(vectors, np.zeros((1, vectors.shape[1]), np.float32), 0)
    length = np.linalg.norm(every, axis=1, keepdims=True)
    return np.asarray(every / np.where(length > 0, length, 1), np.float32)


class _PageFit:
    """Facts that both fits of a log share."""

    def __init__(
        self,
        logs: Logs,
        corrected: Floats32,
        scaling: InputScaling,
        root: int,
        curve: Floats,
        fold: Array,
        cluster: Array,
    ) -> None:
        self.logs, self.scaling, self.root, self.fold, self.cluster = logs, scaling, root, fold, cluster
        self.count, self.curve = int(fold.max()) + 1, curve / curve[0]
        shown = logs.shown
        self.request, self.slot = logs.row_request[shown], logs.position[shown]
        self.theta, self.y = curve[self.slot], logs.feedback[shown, root].astype(np.float64)
        self.inputs = scaling.inputs(_without_items(logs), corrected)
        self.sums = sums = _Sums(logs, self.curve)
        blocks: dict[str, Floats] = {}
        if sums.categories:
            blocks["same"] = sums.back(sums.same[0])[:, None]
            blocks["pairs"] = sums.back(sums.pairs)
        if sums.dimension:
            blocks["cosine"] = sums.back(sums.cosine[0])[:, None]
        self.blocks = {name: block for name, block in blocks.items() if block.any()}
        used = np.unique(self.slot)
        self.free = used[used > used[0]]  # slots with a number of their own
        self.slots = (self.slot[:, None] == self.free).astype(np.float64)

    def fit(self) -> FittedPages:
        null = self._fit({}, None)
        one, one_mean = self._candidate(dict([*self.blocks.items()][:1]), null)
        if len(self.blocks) < 2:
            return one
        every, mean = self._candidate(self.blocks, null)
        adds = not one.gain.passes or min(self._gate(mean, one_mean)) > NEEDED
        return every if adds and every.gain.passes else one

    def _candidate(
        self, blocks: Mapping[str, Floats], null: tuple[newton.Solution, Floats]
    ) -> tuple[FittedPages, Floats]:
        """Page terms of blocks of columns over none, as gate and guard find them, and their held-out mean [S]."""
        solution, mean = self._fit(blocks, null[0].vector)
        pairs, cosine, z_shuffled, z_helps = self._guarded(self._coefficients(solution.vector, blocks), null[1])
        helps = z_helps is not None and z_helps >= BACKED
        largest = max(float(np.abs(pairs).max(initial=0.0)), abs(cosine))
        gain = PageGain(*self._gate(mean, null[1]), z_shuffled, z_helps, largest < LEAST_EFFECT)
        folds = [self._coefficients(vector, blocks) for vector in solution.folds]
        folds = folds if helps else [_without_help(*coefficients) for coefficients in folds]
        terms, fold = [self._terms(*coefficients) for coefficients in folds], self.fold[self.request]
        moves = np.stack([self._above(*coefficients) for coefficients in folds])[fold, np.arange(len(fold))]
        slots, own = self.curve.copy(), null[0].vector.size - len(self.free)
        slots[self.free] *= np.exp(solution.vector[own : own + len(self.free)])
        return FittedPages(self._terms(pairs, cosine), tuple(terms), gain, slots, moves), mean

    def _fit(self, blocks: Mapping[str, Floats], start: Floats | None) -> tuple[newton.Solution, Floats]:
        """The solution with blocks of columns, and its held-out mean [S]; start: of fewer columns."""
        shape = (self.inputs.z.shape[1], self.inputs.u.shape[1])
        own, at = shape[0] * shape[1], shape[0] * shape[1] + len(self.free)
        places = newton.blocks_of(self.scaling.groups, shape[1])
        for name, block in blocks.items():
            places[name] = np.arange(at, at + block.shape[1])
            at += block.shape[1]
        columns = np.concatenate([self.slots, *blocks.values()], 1)
        rows = TaskRows(self.root, self.scaling, self.inputs, self.logs, self.theta, extra=columns)
        design = newton.Design(shape, places, extra=at - own)
        first = newton.Solution(np.zeros(at), np.full(at, newton.FIRST_PRECISION))
        first.precision[0], first.precision[own : own + len(self.free)] = newton.LEVEL_PRECISION, _FREE
        if start is not None:
            first.vector[: len(start)] = start
        solution = newton.solve(rows, design, first, _ROUNDS, _RENEW if start is None else _RENEW[:1])
        solution.folds = newton.cross_fit(rows, design, solution, self.fold[rows.request], self.count)
        mean, row_fold = np.empty(len(self.y)), self.fold[self.request]
        for k, vector in enumerate(solution.folds):
            mean[row_fold == k] = rows.mean(vector)[row_fold == k]
        return solution, np.maximum(mean, 1e-12)

    def _coefficients(self, vector: Floats, blocks: Mapping[str, Floats]) -> _Terms:
        """Coefficients of pairs [C, C], the most frequent category first, and of the cosine."""
        count, at = len(self.sums.categories), len(vector) - sum(b.shape[1] for b in blocks.values())
        pairs, cosine = np.zeros((count, count)), 0.0
        for name, block in blocks.items():
            weights = vector[at : at + block.shape[1]]
            at += block.shape[1]
            if name == "same":
                pairs[np.diag_indices(count)] += weights[0]
            elif name == "pairs":
                pairs[: self.sums.paired, : self.sums.paired] += weights.reshape(self.sums.paired, -1)
            else:
                cosine = float(np.clip(weights[0], -MAX_COEFFICIENT, MAX_COEFFICIENT))
        return np.clip(pairs, -MAX_COEFFICIENT, MAX_COEFFICIENT), cosine

    def _terms(self, pairs: Floats, cosine: float) -> PageTerms:
        names = np.array(self.sums.categories, object)
        order = np.argsort(names)
        return PageTerms(
            root=self.logs.tasks[self.root],
            attention=self.curve.astype(np.float32),
            categories=tuple(names[order].tolist()),
            pairs=pairs[np.ix_(order, order)].astype(np.float32),
            cosine=cosine,
            dimension=self.sums.dimension if np.float32(cosine) else 0,
        )

    def _gate(self, new: Floats, old: Floats) -> tuple[float, float]:
        """Standard errors of the held-out likelihood: row by row, and given the events of the page."""
        count = self.logs.num_requests
        rows = self.y * np.log(new / old) - (new - old)
        total = [np.bincount(self.request, mean, count) for mean in (new, old)]
        by_page = self.y * (np.log(new / old) - np.log((total[0] / np.maximum(total[1], 1e-300))[self.request]))
        point, page = (zscore(np.bincount(self.request, gains, count), self.cluster) for gains in (rows, by_page))
        return point, page

    def _guarded(self, terms: _Terms, mean: Floats) -> tuple[Floats, float, float | None, float | None]:
        """The coefficients that may be served, standard errors of the likelihood of shuffled pages with them over
        without, and of the coefficients above 0 over without these; None: there are too few events, or none above 0.
        """
        pairs, cosine = terms
        less = _without_help(pairs, cosine)
        if shuffled_events(self.logs, self.root) < FEWEST_EVENTS:
            return *less, None, None
        helps = None
        if max(float(pairs.max(initial=0.0)), cosine) >= LEAST_EFFECT:
            helps = self._guard(terms, mean, less)
        if helps is None or helps < BACKED:
            pairs, cosine = less
        return pairs, cosine, self._guard((pairs, cosine), mean), helps

    def _guard(self, terms: _Terms, mean: Floats, over: _Terms | None = None) -> float:
        """Standard errors of the likelihood of shuffled pages with terms over none, or over others, given the pages'
        events and with similarity to the whole page beside it.
        """
        assert self.logs.exploration is not None
        chosen = (self.logs.exploration == "shuffle") & (np.bincount(self.request, self.y, len(self.fold)) > 0)
        rows = np.flatnonzero(chosen[self.request])
        page = np.unique(self.request[rows], return_inverse=True)[1]
        above, below = self._above(*terms), 0.0 if over is None else self._above(*over)[rows]
        whole = self._whole(terms[0])
        control = np.stack([like for like in whole if like[rows].any()], 1)[rows] if whole else np.zeros((len(rows), 0))
        columns = np.concatenate([self.slots[rows], control], 1)
        y, base = self.y[rows], np.log(mean[rows])
        log_p = [_page_likelihood(y, page, base + move, columns) for move in (below, above[rows])]
        return zscore(log_p[1] - log_p[0], np.unique(self.cluster[np.flatnonzero(chosen)], return_inverse=True)[1])

    def _above(self, pairs: Floats, cosine: float) -> Floats:
        """Return what the terms add to log odds, of shape [S]."""
        above, sums = np.zeros(len(self.y)), self.sums
        if sums.categories:
            rare = float(pairs[sums.paired, sums.paired]) if len(pairs) > sums.paired else 0.0
            above += sums.back(sums.pairs) @ pairs[: sums.paired, : sums.paired].reshape(-1)
            above += sums.back(np.where(sums.code >= sums.paired, rare * sums.same[0], 0.0))
        if sums.dimension:
            above += cosine * sums.back(sums.cosine[0])
        return above

    def _whole(self, pairs: Floats) -> list[Floats]:
        """Columns [S] of similarity to the whole page."""
        sums, whole = self.sums, []
        if sums.categories:
            whole += [sums.back(sums.same[1]), sums.back(self._whole_pairs(pairs[: sums.paired, : sums.paired]))]
        if sums.dimension:
            whole.append(sums.back(sums.cosine[1]))
        return whole

    def _whole_pairs(self, pairs: Floats) -> Floats:
        """Return Σ [S], by page and slot, of the pair coefficients with the other items of the page."""
        sums, count = self.sums, self.sums.paired
        one = (sums.code[:, None] == np.arange(count)).astype(np.float64)
        total = np.stack([np.bincount(sums.request, column, sums.count) for column in one.T], 1)[sums.request] - one
        own = np.flatnonzero((sums.code >= 0) & (sums.code < count))
        result = np.zeros(len(one))
        result[own] = (total[own] * pairs[:, sums.code[own]].T).sum(1)
        return np.asarray(result * sums.weight.mean())


def _without_help(pairs: Floats, cosine: float) -> _Terms:
    """Coefficients with 0 in the place of those above it."""
    return np.minimum(pairs, 0.0), min(cosine, 0.0)


def _page_likelihood(y: Floats, page: Ints, base: Floats, columns: Floats) -> Floats:
    """Return log likelihood of events y given their number on the page, with free coefficients of columns, [pages]."""
    events, free = np.bincount(page, y), np.zeros(columns.shape[1])

    def shares() -> Floats:
        mean = np.exp(base + columns @ free)
        return np.asarray(mean / np.bincount(page, mean)[page])

    for _ in range(_GUARD_STEPS):
        share = shares()
        mean = np.stack([np.bincount(page, share * column) for column in columns.T], 1)
        apart = columns - mean[page]
        expected = events[page] * share
        information = (apart * expected[:, None]).T @ apart + np.eye(len(free))
        free = free + np.linalg.solve(information, apart.T @ (y - expected) - free)
    return np.asarray(np.bincount(page, y * np.log(shares())))
