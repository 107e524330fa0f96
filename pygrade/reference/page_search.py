"""Reference of the `page_search` family: the page whose items depend on what stands above them."""

from typing import Any

import torch
from torch import Tensor

from pygrade.reference.fusion import rank_order

OBJECTIVES = ("page_value", "mmr", "log_det")
LEAST_VARIANCE = 1e-6  # of an item given the items above, under log_det

Extension = tuple[int, int]  # rank of the page, candidate; -1: none


def boosted(score: Tensor, boost_mul: Tensor | None, boost_add: Tensor | None) -> Tensor:
    """Final scores of scores s, boosts m ≥ 0 and a, of one shape: s·m + a where s ≥ 0, s/m + a where s < 0.

    It rises with s, with m and with a, so m > 1 never demotes and m < 1 never promotes, whatever the sign of s.
    Product and quotient are rounded before the sum. m = 1 leaves a score as it is; m = 0 is the limit: 0 of s ≥ 0
    (-0 too), -inf of s < 0. NaN stays NaN, infinities stay, but inf·0 is NaN, which ranks last.
    """
    if boost_mul is not None:
        score = torch.where(score < 0, score / boost_mul, score * boost_mul)
    return score if boost_add is None else score + boost_add


class _Request:
    """One request: its candidates, their similarity and the rules of its page."""

    def __init__(
        self, rows: dict[str, Tensor | None], terms: dict[str, Tensor | None], k: int, options: dict[str, Any]
    ) -> None:
        self.rows, self.terms, self.k = rows, terms, k
        self.objective, self.cosine, self.trade_off = options["objective"], options["cosine"], options["trade_off"]
        value, mask, groups = rows["value"], rows["mask"], rows["groups"]
        assert value is not None
        self.value = value
        self.eligible = torch.ones(len(value), dtype=torch.bool) if mask is None else mask
        self.groups = torch.zeros(len(value), 0) if groups is None else groups
        columns = self.groups.shape[1]
        self.caps, self.cap_slots, self.decay = (
            [rest] * columns if (found := terms[name]) is None else found.tolist()
            for name, rest in (("caps", -1), ("cap_slots", -1), ("decay", 1.0))
        )
        if self.objective == "log_det":
            self.own = value.new_tensor([float(self.similarity(i)[i]) for i in range(len(value))])
        pins, self.pins = options["pins"] or [-1] * k, [-1] * k
        for slot, pin in enumerate(pins):  # one that the mask, a cap or an earlier pin excludes leaves its slot free
            if 0 <= pin < len(value) and self.admitted([], slot)[pin]:
                self.pins[slot] = pin

    def similarity(self, above: int) -> Tensor:
        """l(above, i) = P[c_above, c_i] + κ·max(0, ⟨e_above, e_i⟩) of every candidate i; log_det does not clip."""
        result = torch.zeros_like(self.value)
        categories, pairs, embeddings = self.rows["categories"], self.terms["pairs"], self.rows["embeddings"]
        if categories is not None and pairs is not None and categories[above] >= 0:
            known = categories >= 0
            result[known] = pairs[int(categories[above])][categories[known].long()]
        if embeddings is not None:
            cosines = embeddings @ embeddings[above]
            result = result + self.cosine * (cosines if self.objective == "log_det" else cosines.clamp_min(0))
        return result

    def holds(self, column: int, above: int) -> bool:
        """Return whether the column's cap holds for an item below so many others."""
        return self.caps[column] >= 0 and (self.cap_slots[column] < 0 or above < self.cap_slots[column])

    def admitted(self, page: list[int], above: int) -> Tensor:
        """Return where [N] mask and caps admit a candidate below the page's items, of which ``above`` count."""
        result = self.eligible.clone()
        taken = [(slot, item) for slot, item in enumerate([*page, *self.pins[len(page) :]]) if item >= 0]
        result[[item for _, item in taken]] = False
        for column, cap in enumerate(self.caps):
            if self.holds(column, above):
                counted = [item for slot, item in taken if slot < len(page) or self.holds(column, slot)]
                group = self.groups[:, column]
                members = (group[:, None] == group[counted]).sum(1)
                result &= (group < 0) | (members < cap)
        return result

    def faded(self, score: Tensor, page: list[int]) -> Tensor:
        """Scores with a factor decay[a] for each item of the page that has the candidate's value of group column a."""
        factor = torch.ones_like(score)
        for item in (item for item in page if item >= 0):
            for column, decay in enumerate(self.decay):
                group = self.groups[:, column]
                factor = torch.where((group == group[item]) & (group >= 0), factor * decay, factor)
        return boosted(score, factor, None)

    def scores(self, page: list[int]) -> Tensor:
        """Final scores of every candidate below the page's items (-1: an empty slot)."""
        above = [(slot, item) for slot, item in enumerate(page) if item >= 0]
        attention, root = self.terms["attention"], self.rows["root"]
        if self.objective == "page_value" and root is None:
            score = self.value
        elif self.objective == "page_value":
            assert attention is not None and root is not None
            effect = torch.zeros_like(self.value)
            for slot, item in above:
                effect = effect + attention[slot] * self.similarity(item)
            score = self.value + root * effect.exp()
        elif self.objective == "mmr":
            closest = torch.zeros_like(self.value)
            for _, item in above:
                closest = torch.maximum(closest, self.similarity(item))
            score = self.trade_off * self.value - (1 - self.trade_off) * closest
        else:
            score = self.trade_off * self.value + (1 - self.trade_off) * self.variance([i for _, i in above]).log()
        return self.faded(boosted(score, self.rows["boost_mul"], self.rows["boost_add"]), page)

    def variance(self, above: list[int]) -> Tensor:
        """det L[above + i] / det L[above] of every candidate i, by a Cholesky decomposition that grows by one row an
        item (Chen, Zhang & Zhou, NeurIPS 2018), at least LEAST_VARIANCE; L is the similarity."""
        rest = self.own
        columns: list[Tensor] = []
        for item in above:
            column = self.similarity(item)
            for before in columns:
                column = column - before[item] * before
            columns.append(column / max(float(rest[item]), LEAST_VARIANCE) ** 0.5)
            rest = rest - columns[-1] ** 2
        return torch.where(rest > LEAST_VARIANCE, rest, LEAST_VARIANCE)

    def extensions(self, page: list[int]) -> list[int]:
        """The candidates that the page's next slot may take."""
        if (pin := self.pins[len(page)]) >= 0:
            return [pin]
        above = sum(item >= 0 for item in page)
        return self.admitted(page, above).nonzero()[:, 0].tolist()


def _search_one(request: _Request, beam: int) -> tuple[list[int], list[float]]:
    """The page's items and final scores, -1 and -inf in empty slots."""
    examination = request.terms["examination"]
    pages: list[tuple[list[int], list[float], float]] = [([], [], 0.0)]
    for slot in range(request.k):
        totals: list[float] = []
        scores: list[float] = []
        extensions: list[Extension] = []
        stuck: list[Extension] = []
        for rank, (page, _, total) in enumerate(pages):
            final = request.scores(page)
            found = request.extensions(page)
            stuck += [] if found else [(rank, -1)]
            for i in found:
                score = float(final[i])
                extensions.append((rank, i))
                scores.append(score)
                totals.append(score if beam == 1 or examination is None else total + float(examination[slot]) * score)
        order = rank_order(request.value.new_tensor(totals)).tolist()[:beam]
        longer = [
            ([*pages[rank][0], i], [*pages[rank][1], scores[place]], totals[place])
            for place in order
            for rank, i in [extensions[place]]
        ]
        for rank, _ in stuck[: beam - len(longer)]:
            page, seen, total = pages[rank]
            longer.append(([*page, -1], [*seen, -torch.inf], total))
        pages = longer
    return pages[0][0], pages[0][1]


def search_page(
    value: Tensor,
    root: Tensor | None,
    k: int,
    attention: Tensor | None = None,
    examination: Tensor | None = None,
    *,
    categories: Tensor | None = None,
    pairs: Tensor | None = None,
    embeddings: Tensor | None = None,
    cosine: float = 0.0,
    objective: str = "page_value",
    beam: int = 1,
    trade_off: float = 0.5,
    mask: Tensor | None = None,
    boost_mul: Tensor | None = None,
    boost_add: Tensor | None = None,
    groups: Tensor | None = None,
    caps: Tensor | None = None,
    cap_slots: Tensor | None = None,
    decay: Tensor | None = None,
    pins: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The page of highest value: greedy, slot by slot, or by a beam of the best prefixes.

    Similarity of an item j above to i: l(j, i) = P[c_j, c_i] + κ·max(0, ⟨e_j, e_i⟩), without the first term where a
    category is negative. Score of item i below the items above it, before the boosts of `boosted`:

    - page_value: b_i + r_i · exp(Σ_j a_slot(j) · l(j, i)) with value b, root r (None: 0), attention a;
    - mmr: λ·b_i - (1 - λ)·max(0, max_j l(j, i)), maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998);
    - log_det: λ·b_i + (1 - λ)·log det L[above + i] / det L[above], the greedy MAP page of a determinantal point process
      with L = l, its cosine not clipped (Chen, Zhang & Zhou, NeurIPS 2018); a ratio counts as at least 1e-6.

    Greedy takes the candidate of the highest score in each slot in `rank_order`: equal scores by index, NaN last. A
    beam keeps the ``beam`` prefixes of the highest Σ_k q_k·score (q: examination; equal ones by the rank of what they
    extend, then by index; NaN last), and returns the first at the end; a prefix without a candidate for its slot leaves
    it empty, and comes after those with one.

    Candidates with mask False, or with a value of a group column a that is caps[a] times on the page, are not taken.
    With cap_slots[a] = n ≥ 0 the cap holds for the page's first n items alone: for a candidate below fewer than n.
    decay[a] in (0, 1] makes s·decay[a] of a boosted score s ≥ 0 for each item above with the candidate's value of
    column a, and s/decay[a] of s < 0: a further item of a group never rises, 0, -inf and NaN stay. caps, cap_slots -1:
    none; a negative group value belongs to no group.

    pins[B, k]: the item of a slot, -1 for none. Pins count as taken from the start, for the caps of their slot too; one
    that the mask, a cap or an earlier pin excludes leaves its slot free. value, root, mask, boosts[B, N],
    categories[B, N] i32, embeddings[B, N, d], groups[B, N, A] i32, each [M, …] with offsets; pairs[C, C],
    attention[k], examination[k] (None: 1), caps, cap_slots i32, decay[A] → values[B, k], indices[B, k] int32, padded
    with -inf and -1.
    """
    rows = {
        "value": value, "root": root, "categories": categories, "embeddings": embeddings, "mask": mask,
        "boost_mul": boost_mul, "boost_add": boost_add, "groups": groups,
    }  # fmt: skip
    ones = value.new_ones(k)
    terms = {
        "pairs": pairs,
        "attention": ones if attention is None else attention,
        "examination": ones if examination is None else examination,
        "caps": caps,
        "cap_slots": cap_slots,
        "decay": decay,
    }
    batch = value.shape[0] if offsets is None else offsets.shape[0] - 1
    values = value.new_full((batch, k), -torch.inf)
    indices = value.new_full((batch, k), -1, dtype=torch.int32)
    for b in range(batch):
        place = b if offsets is None else slice(int(offsets[b]), int(offsets[b + 1]))
        own = {name: None if row is None else row[place] for name, row in rows.items()}
        options = {"objective": objective, "cosine": cosine, "trade_off": trade_off}
        options["pins"] = None if pins is None else pins[b].tolist()
        items, scores = _search_one(_Request(own, terms, k, options), beam)
        indices[b] = indices.new_tensor(items)
        values[b] = values.new_tensor(scores)
    return values, indices
