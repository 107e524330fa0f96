"""package_search: two retrievers over Debian's package descriptions, and invented searchers who click.

Documents are the packages that apt's lists on this machine describe and that people have tagged (debtags). BM25 reads
name and description; LSA, which stands in for an embedding model, reads section and dependencies as well. The dates are
invented, and so are the searchers: what they want comes from the tags and source packages, which no retriever sees.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import torch

APT = Path("/var/lib/apt/lists")
DEPTH, SLOTS = 30, 10  # hits of a retriever, items of a page
LOOKS = (np.arange(SLOTS) + 1.0) ** -0.6  # share of the searchers who look at a slot
WORLDS = ("intents", "same", "random")


def read_documents(file: str | None, most: int, seed: int = 0) -> list[dict[str, str]]:
    """Fields of packages by name, at most so many, drawn; file: text in the format of apt's lists, None: apt's own."""
    lists = [Path(file)] if file else sorted(APT.glob("*_Packages*"))
    text = "\n\n".join(
        path.read_text()
        if path.suffix != ".lz4"
        else subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True, text=True).stdout
        for path in lists
    )
    found = {}
    for block in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.replace("\n ", " ").split("\n"))
        if fields.get("Tag") and fields.get("Description"):
            found[fields["Package"]] = fields
    if len(found) < 300:
        raise SystemExit(
            f"{file or APT} has {len(found)} tagged packages, want 300: run apt-get update, or --corpus FILE"
        )
    names = np.random.default_rng(seed).permutation(sorted(found))[:most]
    return [found[name] for name in sorted(names)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9+]{2,}", text.lower())


class Bm25:
    """The scores of all documents for the words of a query."""

    def __init__(self, texts: list[list[str]], k1: float = 1.2, b: float = 0.75) -> None:
        mean, postings = np.mean([len(text) for text in texts]), {}
        for document, text in enumerate(texts):
            for word, n in Counter(text).items():
                weight = n * (k1 + 1) / (n + k1 * (1 - b + b * len(text) / mean))
                postings.setdefault(word, []).append((document, weight))
        self.size, self.postings = len(texts), {word: np.array(entry) for word, entry in postings.items()}

    def idf(self, word: str) -> float:
        n = len(self.postings.get(word, ()))
        return float(np.log(1 + (self.size - n + 0.5) / (n + 0.5)))

    def __call__(self, query: list[str]) -> np.ndarray:
        score = np.zeros(self.size)
        for word in query:
            if word in self.postings:
                document, weight = self.postings[word].T
                score[document.astype(int)] += self.idf(word) * weight
        return score


class Lsa:
    """Cosines of all documents with the words of a query, in the space of the largest singular vectors."""

    def __init__(self, texts: list[list[str]], dimensions: int = 64) -> None:
        count = Counter(word for text in texts for word in set(text))
        self.place = {word: i for i, word in enumerate(sorted(word for word in count if count[word] >= 3))}
        self.idf = np.log(len(texts) / np.array([count[word] for word in self.place]))
        cells = [
            (d, self.place[w], n) for d, text in enumerate(texts) for w, n in Counter(text).items() if w in self.place
        ]
        row, column, n = np.array(cells).T
        value = (1 + np.log(n)) * self.idf[column]
        value /= np.sqrt(np.bincount(row, value**2, len(texts)))[row]
        shape = (len(texts), len(self.place))
        cells = torch.sparse_coo_tensor(
            np.stack([row, column]), torch.from_numpy(value).float(), shape, check_invariants=False
        )
        torch.manual_seed(0)
        left, singular, right = torch.svd_lowrank(cells, min(dimensions, *shape), niter=2)
        self.documents, self.terms = torch.nn.functional.normalize(left * singular).numpy(), right.numpy()

    def __call__(self, query: list[str]) -> np.ndarray:
        known = [self.place[word] for word in query if word in self.place]
        vector = (self.terms[known] * self.idf[known, None]).sum(0)
        return self.documents @ (vector / max(np.linalg.norm(vector), 1e-9))


class Packages:
    """The corpus: what is searched, and what the searchers know of it."""

    def __init__(self, documents: list[dict[str, str]], seed: int = 0) -> None:
        self.texts = [words(f"{fields['Package']} {fields['Description']}") for fields in documents]
        more = [
            [fields.get("Section", ""), *re.findall(r"(?:^|, )([^ ,:]+)", fields.get("Depends", ""))]
            for fields in documents
        ]
        self.names = [fields["Package"] for fields in documents]
        self.lexical, self.vector = Bm25(self.texts), Lsa([a + b for a, b in zip(self.texts, more, strict=True)])
        self.fresh = 0.5 ** np.random.default_rng(seed).exponential(2.0, len(documents))  # invented; a year halves it
        self.source = np.array([fields.get("Source", fields["Package"]).split()[0] for fields in documents])
        tags = [set(fields["Tag"].replace(",", "").split()) for fields in documents]
        place = {tag: i for i, tag in enumerate(sorted(set().union(*tags)))}
        self.tags = np.zeros((len(documents), len(place)), np.float32)
        for document, own in enumerate(tags):
            self.tags[document, [place[tag] for tag in own]] = 1
        self.rarity = np.log(len(documents) / self.tags.sum(0))

    def alike(self, document: int, others: np.ndarray) -> np.ndarray:
        """Tags in common, over all tags of both, each by its rarity: 0 to 1."""
        own, theirs = self.tags[document], self.tags[others]
        return (theirs * own) @ self.rarity / np.maximum(np.maximum(theirs, own) @ self.rarity, 1e-9)


def min_max(hits: np.ndarray, size: int, score: np.ndarray) -> np.ndarray:
    """[size]: scores of hits from 0 to 1, as engines normalize a list; 0: what the retriever did not return."""
    term, own = np.zeros(size), score[hits]
    term[hits] = (own - own.min()) / (own.max() - own.min()) if np.ptp(own) > 0 else 1.0
    return term


def search(corpus: Packages, query: list[str]) -> dict[str, np.ndarray]:
    """Documents [N] that one of the retrievers returned: three terms of each score, and the RRF of two lists."""
    size, lists, terms = len(corpus.names), [], []
    for score in (corpus.lexical(query), corpus.vector(query)):
        hits = np.argsort(-score, kind="stable")[:DEPTH]
        lists.append(hits[score[hits] > 0])
        terms.append(min_max(lists[-1], size, score) if len(lists[-1]) else np.zeros(size))
    found = np.union1d(*lists)
    rrf = np.zeros(size)
    for hits in lists:
        rrf[hits] += 1 / (60 + 1 + np.arange(len(hits)))
    return {"item": found, "terms": np.stack([*terms, corpus.fresh], 1)[found], "rrf": rrf[found]}


def searches(corpus: Packages, requests: int, seed: int, world: str = "intents") -> list[dict]:
    """Queries with their hits and the true probability of a click on each, if it is looked at.

    Three kinds of searchers, whom no engine can tell but by their words: one types the name of a package, one describes
    what it is for, by its own words or another's, one wants something new of that kind. Nulls: "same", in which all
    want the same mixture of the three terms, and "random", in which they click at random.
    """
    rng, result = np.random.default_rng([seed, 11]), []
    while len(result) < requests:
        wanted, kind = int(rng.integers(len(corpus.names))), int(rng.choice(3, p=(0.35, 0.35, 0.3)))
        if kind == 0:
            query = words(corpus.names[wanted])[:3]
        else:
            drawn = rng.integers(len(corpus.names), size=200)
            other = int(drawn[np.argmax(corpus.alike(wanted, drawn))])
            query = [str(rng.choice(corpus.texts[rng.choice([wanted, other])])) for _ in range(rng.integers(2, 5))]
        hits = search(corpus, query)
        item, fresh = hits["item"], corpus.fresh[hits["item"]]
        if len(item) < SLOTS:
            continue
        alike = corpus.alike(wanted, item)
        if kind == 0:
            use = np.where(item == wanted, 1.0, np.where(corpus.source[item] == corpus.source[wanted], 0.4, 0.05))
        else:
            use = alike * (1.0 if kind == 1 else 2 * fresh**2)
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
