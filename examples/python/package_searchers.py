"""package_searchers: invented searchers over package_search, their clicks, and what pages earn in truth.

What they want comes from people's tags and from source packages, which no retriever sees.
"""

import numpy as np
from package_search import Packages, search, words

RETRIEVERS, SLOTS = ("lexical", "vector", "fresh"), 10
LOOKS = (np.arange(SLOTS) + 1.0) ** -0.6  # share of the searchers who look at a slot
WORLDS = ("intents", "same", "random")


def searches(corpus: Packages, requests: int, seed: int, world: str = "intents") -> list[dict]:
    """Queries with their hits and the true probability of a click on each, if it is looked at.

    Three kinds of searchers, whom no engine can tell but by their words: one types the name of a package, one describes
    what it is for, by its own words or another's, one needs something new of that kind. Nulls: "same", in which all
    want the same mixture of the three terms, and "random", in which they click at random.
    """
    rng, result = np.random.default_rng([seed, 11]), []
    while len(result) < requests:
        wanted, kind = int(rng.integers(len(corpus.names))), int(rng.choice(3, p=(0.35, 0.35, 0.3)))
        if kind == 0:
            query = words(corpus.names[wanted])[:3]
        else:
            drawn = rng.integers(len(corpus.names), size=200)
            other = int(drawn[np.argmax(corpus.similarity(wanted, drawn))])
            query = [str(rng.choice(corpus.texts[rng.choice([wanted, other])])) for _ in range(rng.integers(2, 5))]
        hits = search(corpus, query)
        item, fresh = hits["item"], corpus.fresh[hits["item"]]
        if len(item) < SLOTS:
            continue
        similarity = corpus.similarity(wanted, item)
        if kind == 0:
            use = np.where(item == wanted, 1.0, np.where(corpus.source[item] == corpus.source[wanted], 0.4, 0.05))
        else:
            use = similarity * (1.0 if kind == 1 else 2 * fresh**2)
        if world == "same":
            use = (hits["terms"] @ (0.5, 0.3, 0.2)) ** 2
        chance = 0.02 + 0.6 * np.minimum(use, 1) if world != "random" else np.full(len(item), 0.2)
        idf = [corpus.lexical.idf(word) for word in query]
        context = {
            "words": len(query),
            "rarest": max(idf),
            "commonest": min(idf),
            "digits": float(any(c.isdigit() for c in "".join(query))),
            "recent": float(kind == 2 and rng.random() < 0.9),  # of 10 who want something new, 9 say so
        }
        result.append(hits | {"query": query, "chance": chance, "context": context, "kind": kind})
    return result


def page(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score, kind="stable")[:SLOTS]


def rows(queries: list[dict], weights: np.ndarray, seed: int, other: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A log, a row per hit, of pages by weights [R, 3], one in twenty shuffled. With other weights a test: half of the
    users see theirs, none is shuffled, and the slots of both arms are logged."""
    rng, columns = np.random.default_rng([seed, 3]), {}
    for r, query in enumerate(queries):
        count, pages = (
            len(query["item"]),
            [page(query["terms"] @ own[r]) for own in (weights, other) if own is not None],
        )
        arm = rng.integers(2) if other is not None else 0
        shuffled = other is None and rng.random() < 0.05
        shown = rng.permutation(pages[arm]) if shuffled else pages[arm]
        slot, look, slots = np.full(count, np.nan), np.zeros(count), {}
        slot[shown], look[shown] = np.arange(SLOTS), LOOKS
        for name, own in zip(("static", "learned"), pages if other is not None else (), strict=False):
            slots[f"slot_{name}"] = np.full(count, -1)
            slots[f"slot_{name}"][own] = np.arange(SLOTS)
        row = {"request": r, "user": r, "item": query["item"], "slot": slot, "at": 1_767_225_600 + 60 * r}
        row |= {"page": "shuffle" if shuffled else "none", "arm": ("static", "learned")[arm], **slots}
        row |= {"clicked": np.where(np.isnan(slot), np.nan, rng.random(count) < look * query["chance"])}
        row |= {f"p_{name}": query["terms"][:, i] for i, name in enumerate(RETRIEVERS)}
        row |= {f"x_{name}": value for name, value in query["context"].items()}
        for name, values in row.items():
            columns.setdefault(name, []).append(np.broadcast_to(values, count))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def earned(queries: list[dict], scores: list[np.ndarray]) -> np.ndarray:
    """[R]: expected clicks of each page, in truth."""
    return np.array([LOOKS @ q["chance"][page(score)] for q, score in zip(queries, scores, strict=True)])


def lift(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Lift in percent, and its 95 % interval over queries."""
    value = ours.mean() / theirs.mean()
    reach = 1.96 * np.std(ours - value * theirs) / theirs.mean() / np.sqrt(len(ours))
    return [round(100 * (x - 1), 1) for x in (value, value - reach, value + reach)]
