"""RESULTS.md and its pictures, from the study's record alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade.metrics.intervals import Interval
from pygrade.reports.training import write_text
from pygrade.study.findings import CONSTRAINED, Target, collapses, findings, percent, targets
from pygrade.study.plots import dots, front, hacking, lines
from pygrade.study.settings import MAIN, STABILITY, Settings
from pygrade.study.stats import Results, over_worlds

METRICS = (("value", "value"), ("ctr", "CTR"), ("cvr", "CVR"), ("opm", "OPM"), ("orders", "orders"))
_ABLATIONS = ("no-prior", "no-posterior", "no-format", "no-kl", "no-stage1", "group-std", "component-std",
              "leave-one-out", "gaussian", "clipped", "ppo")  # fmt: skip
_SLICES = ("rarest tenth of users", "other users", "scenario feed", "scenario category", "scenario search")
Row = Sequence[str]


def write_results(record: Mapping[str, Any], settings: Settings, target: Path, pictures: Path) -> Path:
    """Write ``target`` (Markdown) and PNG files into ``pictures``; links are relative. Returns ``target``."""
    results = Results(record["units"])
    drawn = _pictures(results, settings)
    for name, content in drawn.items():
        with atomic_file(pictures / f"{name}.png") as partial:
            partial.write_bytes(content)
    folder = pictures.relative_to(target.parent).as_posix()
    parts = [
        _head(record, results),
        _targets(targets(results)),
        _findings(results, folder, drawn),
        _main(results, settings, folder, drawn),
        _regimes(results, settings, folder, drawn),
        _constraints(results, settings, folder, drawn),
        _estimates(results),
        _stability(results, settings, folder, drawn),
        _tuning(results, settings),
        _foot(record, settings),
    ]
    write_text(target, "\n\n".join(part for part in parts if part) + "\n")
    return target


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; columns of numbers stand right, words left.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    | :-- | --: |
    | x | 1 |
    """
    columns = [[row[i] for row in rows] for i in range(len(head))]
    sides = ["--:" if any(column) and all(map(_is_number, column)) else ":--" for column in columns]
    lines = [head, sides, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("+-≥≤ ")[:1].isdigit()


def _head(record: Mapping[str, Any], results: Results) -> str:
    worlds = {unit["world"] for unit in results.units if unit["regime"] != "estimates"}
    further = {unit["world"] for unit in results.units} - worlds
    text = [
        "# What the learning achieves",
        "Written by `pygrade reproduce`; do not edit. [PROTOCOL.md](PROTOCOL.md) says what was run and how it is "
        "judged, and was written before the runs.",
    ]
    if record["quick"]:
        text.append("**A quick run: tiny logs, few steps, development worlds. It shows that the study runs; "
                    "its numbers judge nothing.**")  # fmt: skip
    elif not record["judging"]:
        text.append("**Worlds or constants of your own: these numbers are not the protocol's.**")
    also = f"; the off-policy estimates also {min(further)} to {max(further)}" if worlds and further else ""
    text.append(
        f"Worlds {', '.join(map(str, sorted(worlds or further)))}{also}. Numbers are closed-form expectations on "
        "requests of users that are not in the log; lifts are paired on each world, training seeds are averaged within "
        "a world, and ± is half of the 95 % t-interval over the worlds."
        if results.units
        else "Nothing but the tuning ran."
    )
    return "\n\n".join(text)


def _targets(found: Sequence[Target]) -> str:
    words = {True: "met", False: "**missed**", None: "not run"}
    return "## Targets\n\n" + table(
        ["target", "wanted", "measured", ""], [[t.name, t.wanted, t.measured, words[t.met]] for t in found]
    )


def _findings(results: Results, folder: str, drawn: Mapping[str, bytes]) -> str:
    rows = []
    for found in findings(results):
        figure = f"[{found.picture}]({folder}/{found.picture}.png)" if found.picture in drawn else ""
        rows.append([found.claim, found.source, "; ".join(found.measured), found.verdict, figure])
    return (
        "## Findings\n\nClaims of the paper (GRADE, arXiv 2510.07919) and ours. A difference counts where its whole "
        "interval lies on one side of 0: *reproduced* (or *confirmed*) where all of a claim's differences lie on its "
        "side, *not* where none does, else *depends*.\n\n"
        + table(["claim", "whose", "measured", "verdict", "figure"], rows)
    )


def _main(results: Results, settings: Settings, folder: str, drawn: Mapping[str, bytes]) -> str:
    arms = results.arms(MAIN)
    if not arms or "production" not in arms:
        return ""
    rows = []
    for arm in arms:
        sampled = results.lift(MAIN, arm, "production", kind="sampled")
        cells = [percent(results.lift(MAIN, arm, "production", metric)) for metric, _ in METRICS]
        static = percent(results.lift(MAIN, arm, "static")) if "static" in arms else ""
        seconds = results.mean(MAIN, arm, lambda record: record["cpu_seconds"]).value
        rows.append([_title(settings, arm), static, *cells, percent(sampled), f"{seconds:.1f}"])
    head = ["arm", "value over best static", *(f"{label} over production" for _, label in METRICS),
            "sampled A/B: value over production", "CPU s"]  # fmt: skip
    text = "## Every arm, at 20,000 logged requests\n\n" + table(head, rows)
    text += (
        "\n\nThe sampled A/B test draws simulated users once, with common random numbers; it is what an online test "
        "would show. CPU seconds: what the arm itself took to learn; stage 1 and the static search are shared and "
        "count for the first arm that needs them."
    )
    return text + _images(folder, drawn, ("main", "ablations", "users", "hacking"))


def _regimes(results: Results, settings: Settings, folder: str, drawn: Mapping[str, bytes]) -> str:
    parts = []
    for name, regime in settings.regimes.items():
        if name in (MAIN, "constraint") or not results.has(name, "static", "grade"):
            continue
        other = f", judged by {regime.judge}" if regime.judge != "value" else ""
        rows = [
            [_title(settings, arm), percent(results.lift(name, arm, "static", regime.judge)),
             percent(results.lift(name, arm, "production", regime.judge)),
             percent(results.lift(name, "grade", arm, regime.judge)) if arm != "grade" else ""]
            for arm in results.arms(name)
        ]  # fmt: skip
        parts.append(f"### {regime.title}{other}\n\n"
                     + table(["arm", "over best static", "over production", "GRADE over it"], rows))  # fmt: skip
    if not parts:
        return ""
    return "## Other regimes" + _images(folder, drawn, ("regimes", "drift")) + "\n\n" + "\n\n".join(parts)


def _constraints(results: Results, settings: Settings, folder: str, drawn: Mapping[str, bytes]) -> str:
    """The front of value against a constrained task."""
    arms = [arm for arm in ("stage1", "grade", *CONSTRAINED) if results.has("constraint", arm, "production")]
    if not arms:
        return ""
    rows = [
        [_title(settings, arm), percent(results.lift("constraint", arm, "production", "cart", "events")),
         percent(results.lift("constraint", arm, "production")),
         percent(results.lift("constraint", arm, "production", "dwell", "events"))]
        for arm in arms
    ]  # fmt: skip
    head = ["arm", "carts over production", "value over production", "dwell over production"]
    return "## Constraints\n\n" + table(head, rows) + _images(folder, drawn, ("constraint",))


def _estimates(results: Results) -> str:
    """How often each off-policy interval covers the truth."""
    records = results.records("estimates", "estimates")
    if not records:
        return ""
    names = [name.removeprefix("covered ") for name in records[0]["figures"] if name.startswith("covered ")]
    rows, count = [], len(records)
    for name in names:
        covered, error, half, size, warned = (
            sum(record["figures"][f"{figure} {name}"] for record in records)
            for figure in ("covered", "error", "half", "ess", "warned")
        )
        rows.append([name, f"{covered:.0f} of {count}", f"{error / count:+.1f} %", f"{half / count:.1f} %",
                     f"{size / count:,.0f}", f"{warned:.0f}"])  # fmt: skip
    head = ["method", "worlds covered", "mean error", "mean half width", "effective sample", "with a warning"]
    return "## Off-policy estimates of stage 1\n\n" + table(head, rows)


def _stability(results: Results, settings: Settings, folder: str, drawn: Mapping[str, bytes]) -> str:
    arms = results.arms(STABILITY)
    if not arms:
        return ""
    rows = []
    for arm in arms:
        lost, count = collapses(results, arm)
        lifts = [100 * record["lifts"]["expected"]["value"][0] for record in results.records(STABILITY, arm)]
        rows.append([_title(settings, arm), str(count), f"{results.spread(STABILITY, arm):.3f}", f"{min(lifts):+.2f} %",
                     f"{max(lifts):+.2f} %", str(lost)])  # fmt: skip
    head = ["arm", "trainings", "sd over seeds, points", "worst over production", "best", "collapses"]
    return "## Stability without stage 1\n\n" + table(head, rows) + _images(folder, drawn, ("stability",))


def _tuning(results: Results, settings: Settings) -> str:
    """Mean lift over production of each option tried, on development worlds."""
    found: dict[tuple[str, str], list[float]] = {}
    for unit in results.variants:
        name = ", ".join(f"{key} = {value:g}" for key, value in unit["variant"].items())
        found.setdefault((unit["arm"], name), []).append(100 * unit["lifts"]["expected"]["value"][0])
    if not found:
        return ""
    rows = [[_title(settings, arm), name, percent(over_worlds(lifts))] for (arm, name), lifts in found.items()]
    return (
        "## Tuning, on development worlds\n\nThe same number of tries for each way to explore and for the critic. "
        "Rivals run with their best; GRADE keeps the default that it ships with.\n\n"
        + table(["arm", "option", "value over production"], rows)
    )


def _foot(record: Mapping[str, Any], settings: Settings) -> str:
    machine = record["machine"]
    text = (
        f"## Made by\n\npygrade {machine['pygrade']}, torch {machine['torch']}, Python {machine['python']} on "
        f"{machine['cpu']} ({machine['cores']} cores, {machine['instruction_set']}); {len(record['units'])} units, "
        f"{record['unit_seconds'] / 60:.0f} minutes of work in all, one thread each."
    )
    if record["missing"]:
        names = ", ".join(f"{entry['regime']}: {entry['arm']}" for entry in record["missing"])
        text += f"\n\nNot run: {names}."
    return text


def _images(folder: str, drawn: Mapping[str, bytes], names: Sequence[str]) -> str:
    return "".join(f"\n\n![{name}]({folder}/{name}.png)" for name in names if name in drawn)


def _title(settings: Settings, arm: str) -> str:
    return settings.arms[arm].title


def _pictures(results: Results, settings: Settings) -> dict[str, bytes]:
    grade = settings.arms["grade"].title
    drawn = {}

    def row(regime: str, arm: str, base: str, metric: str = "value", slice: str | None = None) -> Any:
        single = [
            100 * (results.number(regime, arm, world, read(metric, slice))
                   / results.number(regime, base, world, read(metric, slice)) - 1)
            for world in results.worlds(regime, arm, base)
        ]  # fmt: skip
        return results.lift(regime, arm, base, metric, slice=slice), single

    arms = results.arms(MAIN)
    if results.has(MAIN, "grade", "production", "static"):
        drawn["main"] = dots(
            "Lift of each arm; faint: single worlds", "%",
            {
                "Value over best static": {_title(settings, a): row(MAIN, a, "static") for a in arms},
                "Value over production": {_title(settings, a): row(MAIN, a, "production") for a in arms},
                "Orders over production": {_title(settings, a): row(MAIN, a, "production", "orders") for a in arms},
            },
            [grade],
        )  # fmt: skip
        drawn["users"] = dots(
            "Where GRADE gains", "value, % over best static",
            {"GRADE": {name: row(MAIN, "grade", "static", slice=name) for name in _SLICES}},
        )  # fmt: skip
    changed = [arm for arm in _ABLATIONS if results.has(MAIN, arm, "grade")]
    if changed:
        drawn["ablations"] = dots(
            "What each change of GRADE does", "value, % over GRADE",
            {"20,000 logged requests": {_title(settings, arm): row(MAIN, arm, "grade") for arm in changed}},
        )  # fmt: skip
    panels = {
        f"{regime.title} ({regime.judge})" if regime.judge != "value" else regime.title: {
            _title(settings, arm): row(name, arm, "static", regime.judge)
            for arm in regime.arms
            if results.has(name, arm, "static") and arm != "static"
        }
        for name, regime in settings.regimes.items()
        if results.has(name, "grade", "static") and name not in ("constraint", "drift")
    }
    if len(panels) > 1:
        runs = Counter(name for rows in panels.values() for name in rows)  # what ran once has nothing to compare
        shared = {title: {n: row for n, row in rows.items() if runs[n] > 1} for title, rows in panels.items()}
        drawn["regimes"] = dots("Lift over best static in each regime", "%", shared, [grade])
    base = settings.arms["stage1"].title
    traps: dict[str, dict[str, tuple[Interval, Interval]]] = {
        settings.regimes[name].title: {
            _title(settings, arm): (results.lift(name, arm, "stage1", "predicted"), results.lift(name, arm, "stage1"))
            for arm in ("no-posterior", "grade", "no-prior", "static", "oracle")
            if results.has(name, arm, "stage1")
        }
        for name in (MAIN, "hype")
        if results.has(name, "grade", "stage1")
    }
    if traps:
        drawn["hacking"] = hacking(traps, base)
    if results.has("drift", "online", "stage1"):
        drawn["drift"] = _drift(results)
    constrained = [arm for arm in ("stage1", "grade", *CONSTRAINED) if results.has("constraint", arm, "production")]
    if set(constrained) & set(CONSTRAINED):
        drawn["constraint"] = front(
            "What a constraint on carts gives and costs",
            "carts, % over production (dashed: what its constraint wants)", "value, % over production",
            {_title(settings, arm): (results.lift("constraint", arm, "production", "cart", "events"),
                                     results.lift("constraint", arm, "production")) for arm in constrained},
            {_title(settings, arm): CONSTRAINED[arm] for arm in constrained if arm in CONSTRAINED},
        )  # fmt: skip
    stable = results.arms(STABILITY)
    if stable:
        drawn["stability"] = dots(
            "Trainings without stage 1; faint: each training", "value, % over production",
            {"20,000 logged requests": {_title(settings, arm): _each(results, arm) for arm in stable}},
        )  # fmt: skip
    return drawn


def _drift(results: Results) -> bytes:
    """What the online policy earns over stage 1 after each interval; a faint line is a world and seed."""
    records = results.records("drift", "online")
    names = sorted(name for name in records[0]["figures"] if name.startswith("lift_"))
    single = [[record["figures"][name] for name in names] for record in records]
    return lines("Learning online in a drifting world; it drifts in the first half", "interval of 1,000 requests",
                 "value, % over stage 1", single)  # fmt: skip


def read(metric: str, slice: str | None = None) -> Any:
    """Reads a closed-form metric, or the value on a slice of the requests, from a record."""
    if slice is not None:
        return lambda record: record["slices"].get(slice)
    return lambda record: record["expected"][metric]


def _each(results: Results, arm: str) -> tuple[Interval, list[float]]:
    records = results.records(STABILITY, arm)
    lifts = [100 * record["lifts"]["expected"]["value"][0] for record in records]
    return results.mean(STABILITY, arm, lambda record: 100 * record["lifts"]["expected"]["value"][0]), lifts
