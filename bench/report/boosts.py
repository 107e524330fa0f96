"""The picture of docs/guides/rules.md: what a factor does to scores of both signs. `python -m bench.report.boosts`"""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from bench.figures import BLUE, FAINT, ORANGE, new_figure, to_png
from pygrade import rank
from pygrade.reference.ranking import boosted

TARGET = Path(__file__).parents[2] / "docs/guides/boosts.png"
FACTOR, ITEMS = 1.2, 100


def places_gained(scores: NDArray[np.float32], by_product: bool) -> list[int]:
    """By how many places each item rises if it alone gets the factor; by_product: score · factor whatever the sign."""
    places = []
    for item in range(len(scores)):
        factor = torch.ones(len(scores))
        factor[item] = FACTOR
        if by_product:
            order = rank(torch.from_numpy(scores)[:, None] * factor[:, None], torch.ones(1), len(scores)).indices
        else:
            order = rank(torch.from_numpy(scores)[:, None], torch.ones(1), len(scores), boost_mul=factor).indices
        places.append(item - order.tolist().index(item))
    return places


def picture() -> bytes:
    """Final against fused score, and the places that each item of a request gains."""
    figure, (curves, gained) = new_figure(1, 2, (9.6, 3.6))
    x = torch.linspace(-2.5, 2.5, 101)
    curves.plot(x, x * FACTOR, color=ORANGE, label=f"plain product × {FACTOR}")
    for factor, style in ((FACTOR, "-"), (1.0, ":"), (0.6, "--")):
        curves.plot(x, boosted(x, torch.full_like(x, factor), None), style, color=BLUE, label=f"boost_mul {factor}")
    curves.axhline(0, color=FAINT, linewidth=1)
    curves.set_xlabel("score, standardized within the request")
    curves.set_ylabel("final score")
    curves.legend()
    scores = np.array([NormalDist().inv_cdf((ITEMS - i - 0.5) / ITEMS) for i in range(ITEMS)], np.float32)
    places = np.arange(1, ITEMS + 1)
    for by_product, color, label in ((True, ORANGE, "plain product"), (False, BLUE, "boost_mul")):
        gained.plot(places, places_gained(scores, by_product), "o", markersize=3.5, color=color, label=label)
    gained.axhline(0, color=FAINT, linewidth=1)
    gained.axvline(ITEMS / 2 + 0.5, color=FAINT, linewidth=1)
    gained.text(ITEMS / 2 + 2, 0.4, "scores below 0", fontsize=8.5)
    gained.set_xlabel(f"place of the one item that gets × {FACTOR}")
    gained.set_ylabel("places gained")
    gained.legend()
    return to_png(figure)


if __name__ == "__main__":
    TARGET.write_bytes(picture())
