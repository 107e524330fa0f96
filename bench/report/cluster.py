"""The sentences on runs on a cluster, from the summary `cluster.json`; `python -m bench report` writes them.

A block of a page is between <!-- NAME:begin … --> and <!-- NAME:end -->. A block whose result is not there says so.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

MISSING = "Not measured yet: `python -m bench.cluster.{}`\n"
PAGES = ("docs/guides/cluster.md",)


def with_figures(page: str, summary: Mapping[str, Any]) -> str:
    """The page with every block written anew. ValueError if a block has no end."""
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}:begin, written by python -m bench report -->", f"<!-- {name}:end -->"
        if begin not in page:
            continue
        if end not in page:
            raise ValueError(f"the page has {name}:begin and no {name}:end")
        text = write(summary[name]) if name in summary else MISSING.format(name)
        page = re.sub(rf"(?s){re.escape(begin)}\n.*?{re.escape(end)}", lambda _, t=f"{begin}\n{text}{end}": t, page)
    return page


def throughput(found: Mapping[str, Any]) -> str:
    """What a second worker brings, and what Ray costs."""
    gains = " and ".join(
        f"{speedup:.1f} × as fast as one on {rows:,} rows"
        for rows, speedup in zip(found["rows"], found["speedup"], strict=True)
    )
    costs = " and ".join(f"{100 * overhead:.0f} %" for overhead in found["overhead"])
    return (
        f"On one machine with two cores ({found['machine']['processor']}), two workers are {gains}; one worker of Ray "
        f"takes {costs} longer than one process without it; the largest process holds {found['largest_mib']} MiB.\n"
    )


def kills(found: Mapping[str, Any]) -> str:
    """How many kills, of what, and what came of it."""
    count = {name: found["killed"].get(name, 0) for name in ("worker", "node", "driver")}
    struck = ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in count.items() if number)
    what = (
        "every run ended with the same artifact" if found["all_same"] else "NOT every run ended with the same artifact"
    )
    return (
        f"Killed at random moments of {found['runs']} pipelines on {found['nodes']} nodes of one machine: {struck}. "
        f"Afterwards {what}, version `{found['expected']['version']}`, as one process makes it.\n"
    )


BLOCKS: dict[str, Callable[[Mapping[str, Any]], str]] = {"throughput": throughput, "kills": kills}
