"""Grids of settings from words such as ``click=-5:2:15``."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from pygrade._typing import Floats

MOST = 200  # settings of a grid


def parse_grid(words: Sequence[str], known: Sequence[str]) -> tuple[tuple[str, ...], Floats]:
    """Tasks and settings [K, D] of TASK=FROM:TO:COUNT, one or two of them; the base, 0 everywhere, is among them.

    >>> parse_grid(["click=-2:1:3"], ["click"])[1].ravel().tolist()
    [-2.0, -0.5, 0.0, 1.0]
    """
    axes = {}
    for word in words:
        task, _, span = word.partition("=")
        try:
            low, high, count = (kind(part) for kind, part in zip((float, float, int), span.split(":"), strict=True))
        except ValueError:
            raise ValueError(f"settings has {word!r}; want TASK=FROM:TO:COUNT, such as click=-5:2:15") from None
        if task not in known:
            raise ValueError(f"settings names {task!r}; want one of {', '.join(known)}")
        if task in axes or not (np.isfinite(low) and np.isfinite(high) and low < high and count >= 2):
            raise ValueError(f"settings has {word!r}; want each task once, FROM below TO and a COUNT from 2 on")
        axes[task] = np.round(np.linspace(low, high, count), 9)
    if not 1 <= len(axes) <= 2:
        raise ValueError(f"settings shifts {', '.join(axes) or 'nothing'}; want one task or two")
    points = np.array([*product(*axes.values()), (0.0,) * len(axes)])
    points = np.unique(points + 0.0, axis=0)  # no -0
    if len(points) > MOST:
        raise ValueError(f"settings are {len(points)}; want at most {MOST}")
    return tuple(axes), points
