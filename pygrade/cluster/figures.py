"""Metrics of all replicas in one scrape: each replica tells a board its own, and any of them answers with all."""

import re
import time
from collections.abc import Iterable, Mapping

_STALE = 10.0  # seconds after which a replica that tells nothing is taken for gone
_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")

Labels = Mapping[str, str]


class Board:
    """What each replica told last, by its name. One actor of a service."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, dict[str, str], str]] = {}

    def tell(self, name: str, labels: Labels, text: str) -> None:
        """The metrics of a replica as Prometheus text."""
        self._told[name] = (time.monotonic(), dict(labels), text)

    def leave(self, name: str) -> None:
        """The replica ends."""
        self._told.pop(name, None)

    def others(self, name: str) -> list[tuple[dict[str, str], str]]:
        """Labels and metrics of all living replicas but one, in the order of their names."""
        now = time.monotonic()
        self._told = {other: told for other, told in self._told.items() if now - told[0] < _STALE}
        return [(labels, text) for other, (_, labels, text) in sorted(self._told.items()) if other != name]


def merged(told: Iterable[tuple[Labels, str]]) -> str:
    """One Prometheus text of several: each series gets the labels of its text; a family's series stand together."""
    heads: dict[str, list[str]] = {}  # family → its HELP and TYPE
    series: dict[str, list[str]] = {}
    for labels, text in told:
        own = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
                continue
            found = _SERIES.match(line)
            if found is None:
                raise ValueError(f"{line[:200]!r} is no series; want NAME{{LABELS}} VALUE")
            name, inner, value = found.groups()
            inside = f"{own},{inner}" if inner else own
            series.setdefault(family, []).append(f"{name}{{{inside}}} {value}")
    return "".join(f"{line}\n" for family in heads for line in (*heads[family], *series.get(family, ())))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
