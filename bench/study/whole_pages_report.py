"""The report on page terms in fresh worlds: what ran (`bench.study.whole_pages`), and what had to be reached."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bench.study.findings import percent
from bench.study.stats import Record, over_worlds
from bench.study.tables import Section, shown, table
from bench.study.whole_pages import PARTS
from pygrade.metrics.intervals import Interval

FIRST = "Whole pages, the first run"
GRPO = "Whole pages: GRPO beside greedy"
IN_GUIDE = "<!-- earned:begin, written by python -m bench.study.further -->\n", "<!-- earned:end -->\n"
_NULL = "nothing there"
_CONFOUNDED = "confounded, nothing there"
_LARGE = 20_000  # requests
_MET = {True: "met", False: "**missed**"}


def whole_pages(found: Sequence[Record]) -> list[Section]:
    """What ran, and what had to be reached; none if nothing ran."""
    if not found:
        return []
    rows = [_row(part.name, part.requests, of_part(found, part.name)) for part in PARTS if of_part(found, part.name)]
    worlds = sorted({entry["world"] for entry in found})
    text = (
        f"Worlds {worlds[0]} to {worlds[-1]}, which chose nothing. Lifts over corrected expected value, sorted, of "
        "value in closed form; ± over worlds. *Lost*: what effects between items take of the value of that page. "
        "*Served*: behind gate and guard, 0 where they refuse. Maximal marginal relevance has the best θ by true "
        "value; with *true effects* the search knows the world's own."
    )
    short = [part.name for part in PARTS if len(of_part(found, part.name)) < len(part.worlds)]
    if short:
        text += f" Not run, or on fewer worlds than planned, as time was up: {'; '.join(short)}."
    head = ["world", "logged requests", "worlds", "lost", "served in", "served", "worst world", "greedy, learned"]
    head += ["beam 8, learned", "maximal marginal relevance", "greedy, true effects", "beam 8, true effects"]
    goals = [[name, wanted, measured, _MET[met]] for name, wanted, measured, met in targets(found)]
    return [
        Section("Whole pages", text, (), head, rows),
        Section("Targets of whole pages", "", (), ["target", "wanted", "measured", ""], goals),
    ]


def first_run(found: Sequence[Record]) -> list[Section]:
    """What ran of the protocol before what helps needed shuffled pages that show it."""
    return [
        section._replace(
            title=FIRST,
            text="The run that the protocol tells of, on other worlds, stopped before its end: coefficients above 0 "
            "were served wherever shuffled pages did not contradict the terms. Columns as above.",
        )
        for section in whole_pages(found)[:1]
    ]


def grpo(found: Sequence[Record]) -> list[Section]:
    """`bench.study.whole_pages_grpo`: GRPO over multipliers and diversity, and whether it earned its place."""
    trained = [entry for entry in found if entry["served"]]
    if not trained:
        return []
    rows, more = [], {}
    for key in dict.fromkeys((entry["part"], entry["steps"], entry["start"]) for entry in trained):
        entries = [entry for entry in trained if (entry["part"], entry["steps"], entry["start"]) == key]
        more[key] = over_worlds([entry["grpo"] - entry["greedy"] for entry in entries])
        values = [mean(entries, "greedy"), mean(entries, "grpo"), more[key], mean(entries, "claim")]
        diversity = f"{np.mean([entry['diversity'] for entry in entries]):.2f}"
        rows.append([key[0], f"{key[1]:,}", f"{key[2]:g}", str(len(entries)), *map(shown, values), diversity])
    worlds = sorted({entry["world"] for entry in trained})
    text = (
        f"Logs of {_LARGE:,} requests of worlds {worlds[0]} to {worlds[-1]}, which chose nothing; lifts as above. GRPO "
        "learns value multipliers and a diversity per request, rewarded by the page terms. *Over greedy*: of the same "
        "world; *claimed*: by the terms. *Diversity*: the median, relative to the learned terms. By the "
        f"rule of the protocol it is {'' if _earns_its_place(more) else 'not '}served.{_longer(trained)}"
    )
    head = [
        "world",
        "steps",
        "starts at",
        "worlds",
        "greedy",
        "GRPO",
        "over greedy",
        "claimed over greedy",
        "diversity",
    ]
    return [Section(GRPO, text, (), head, rows)]


def _earns_its_place(more: Mapping[tuple[str, int, float], Interval]) -> bool:
    """Above greedy by the whole interval at one strength from each start, and nowhere below; at the planned steps."""
    steps = min(key[1] for key in more)
    judged = {key: apart for key, apart in more.items() if key[1] == steps}
    parts = {key[0] for key in judged}
    above = any(all(apart.low > 0 for key, apart in judged.items() if key[0] == part) for part in parts)
    return above and not any(apart.high < 0 for apart in judged.values())


def _longer(trained: Sequence[Record]) -> str:
    """What more steps earn on the same worlds."""
    own = {(entry["part"], entry["world"], entry["start"], entry["steps"]): entry["grpo"] for entry in trained}
    short = min(steps for *_, steps in own)
    texts = [
        f"{value - own[*key, short]:+.2f} % ({key[0]}, world {key[1]}, start {key[2]:g})"
        for (*key, steps), value in own.items()
        if steps > short
    ]
    return f" Trained longer, against {short:,} steps on the same world: {', '.join(texts)}." if texts else ""


def earned(found: Sequence[Record]) -> str:
    """The table of the guide: parts with page effects that ran on all their worlds."""
    rows = []
    for part in PARTS:
        entries = of_part(found, part.name)
        if len(entries) < len(part.worlds) or not all("mmr" in entry for entry in entries):
            continue
        true = [entry[f"{entry['method']}, true"] for entry in entries]
        values = [mean(entries, "lost"), mean(entries, "mmr"), over_worlds(lifts(entries)), over_worlds(true)]
        rows.append([part.name.removesuffix(f", {part.requests:,}"), f"{part.requests:,}", *map(shown, values)])
    head = ["effects", "logged requests", "lost", "maximal marginal relevance, best θ", "served", "with true effects"]
    return table(head, rows) + "\n"


def of_part(found: Sequence[Record], name: str) -> list[Record]:
    return [entry for entry in found if entry["part"] == name]


def mean(entries: Sequence[Record], name: str) -> Interval:
    """Over the worlds that have a figure."""
    return over_worlds([entry[name] for entry in entries if entry.get(name) is not None])


def lifts(entries: Sequence[Record]) -> list[float]:
    """Of what is served, in per cent."""
    return [entry["lift"] if entry["served"] else 0.0 for entry in entries]


def _row(name: str, requests: int, entries: Sequence[Record]) -> list[str]:
    own = lifts(entries)
    columns = ("greedy", "beam", "mmr", "greedy, true", "beam, true")
    searched = any("mmr" in entry for entry in entries)
    return [
        name.removesuffix(f", {requests:,}"),
        f"{requests:,}",
        str(len(entries)),
        shown(mean(entries, "lost")),
        f"{sum(entry['served'] for entry in entries)} of {len(entries)}",
        percent(over_worlds(own)),
        f"{min(own):+.2f} %",
        *(shown(mean(entries, column)) if searched else "" for column in columns),
    ]


_Target = tuple[str, str, str, bool]


def targets(found: Sequence[Record]) -> Iterator[_Target]:
    """Those of the protocol whose logs ran."""
    null = [entry for entry in found if entry["part"].startswith(_NULL)]
    if null:
        served, worst = sum(entry["served"] for entry in null), min(lifts(null))
        text = f"{served} of {len(null)}, worst {worst:+.2f} %"
        yield "nothing there", "served in ≤ 5 %, none below -.1 %", text, served <= 0.05 * len(null) and worst >= -0.1
    for name, least in (("moderate", 0.5), ("moderate, 5,000", 0.3), ("strong", 3.2), ("strong, 5,000", 2.8)):
        yield from _least(found, name, least)
    for name in ("strong", "strong, 5,000"):
        yield from _over(found, name, "mmr", 0.3, "maximal marginal relevance with the best θ")
    for name in ("moderate", "strong", "strong, complements", "moderate, complements"):
        yield from _over(found, name, "greedy, true", -0.2, "greedy with true effects", "greedy")
    for name, least in (("strong, complements", 8.5), ("moderate, complements", 1.0)):
        yield from _least(found, name, least)
        if entries := of_part(found, name):
            share = float(np.mean(lifts(entries))) / mean(entries, "beam, true").value
            yield f"{name}: share of beam 8 with true effects", "≥ 85 %", f"{100 * share:.0f} %", share >= 0.85
    for name, least in (("moderate, 5,000", 0.9), ("moderate, 2,000", 0.6), ("confounded, moderate", 1.0)):
        yield from _share(found, name, f"served in ≥ {100 * least:.0f} %", (least, 1.0))
    yield from _share(found, _CONFOUNDED, "refused in ≥ 9 of 10", (0.0, 0.1))
    large = {part.name for part in PARTS if part.requests == _LARGE}
    seconds = [entry["seconds"]["pages"] for entry in found if entry["part"] in large]
    if seconds:
        median = float(np.median(seconds))
        yield "fit of page terms, 20,000 requests", "≤ 3 s of CPU", f"{median:.1f} s", median <= 3.0


def _least(found: Sequence[Record], name: str, least: float) -> Iterator[_Target]:
    if entries := of_part(found, name):
        value = over_worlds(lifts(entries))
        yield f"served, {name}", f"≥ {least:+.1f} %", percent(value), value.value >= least


def _over(found: Sequence[Record], name: str, other: str, least: float, title: str, own: str = "") -> Iterator[_Target]:
    if entries := of_part(found, name):
        values = [entry[own] for entry in entries] if own else lifts(entries)
        apart = over_worlds([value - entry[other] for value, entry in zip(values, entries, strict=True)])
        if math.isfinite(apart.value):
            yield f"{own or 'served'} over {title}, {name}", f"≥ {least:+.1f}", percent(apart), apart.value >= least


def _share(found: Sequence[Record], name: str, wanted: str, within: tuple[float, float]) -> Iterator[_Target]:
    if entries := of_part(found, name):
        served = sum(entry["served"] for entry in entries)
        met = within[0] <= served / len(entries) <= within[1]
        yield name, wanted, f"served in {served} of {len(entries)}", met
