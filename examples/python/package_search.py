"""package_search: two retrievers over Debian's package descriptions.

Documents are the packages that apt's lists on this machine describe and that people have tagged (debtags). BM25 reads
name and description; LSA, which stands in for an embedding model, reads section and dependencies as well. The dates are
invented. Tags and source packages no retriever sees.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from pygrade.serving.hybrid import normalize_hits

APT = Path("/var/lib/apt/lists")
DEPTH = 30  # hits of a retriever


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
            f"{file or APT} has {len(found)} tagged packages, expected 300: run apt-get update, or --corpus FILE"
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

    def similarity(self, document: int, others: np.ndarray) -> np.ndarray:
        """Tags in common, over all tags of both, each by its rarity: 0 to 1."""
        own, theirs = self.tags[document], self.tags[others]
        return (theirs * own) @ self.rarity / np.maximum(np.maximum(theirs, own) @ self.rarity, 1e-9)


def search(corpus: Packages, query: list[str]) -> dict[str, np.ndarray]:
    """Documents [N] that a retriever returned; three scores [N, 3]: lexical, vector (NaN: not in its list), fresh."""
    scores = np.full((len(corpus.names), 3), np.nan)
    scores[:, 2] = corpus.fresh
    for place, score in enumerate((corpus.lexical(query), corpus.vector(query))):
        hits = np.argpartition(-score, DEPTH)[:DEPTH]
        hits = hits[score[hits] > 0]
        scores[hits, place] = score[hits]
    item = np.flatnonzero(~np.isnan(scores[:, :2]).all(1))
    return {"item": item, "scores": scores[item], "terms": normalize_hits(scores[item], np.array([0, len(item)]))}
