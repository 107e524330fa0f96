"""`pygrade rank --run RUN --user USER`: a page of a pipeline, and where its time goes."""

import contextlib
from typing import Any

import numpy as np

from pygrade.cli import terminal
from pygrade.config.ignored import refuse
from pygrade.config.logs import RankOptions
from pygrade.logs import write_logs
from pygrade.serving import pipeline as serve
from pygrade.serving.names import Names
from pygrade.serving.run_copy import check_proven, local_run, policy_of


def rank_user(options: RankOptions) -> dict[str, Any]:
    """Prints the page of a user, and where the time goes."""
    if options.run is None or options.user is None:
        alone = "run" if options.user is None else "user"
        raise ValueError(f"{alone} is given alone; expected --run and --user, a pipeline and for whom it ranks")
    refuse(options, ("policy", "requests", "values", "value_tasks"), "no --run")
    folder = local_run(options.run)
    check_proven(policy_of(folder), options.allow_unproven)
    with contextlib.closing(serve.Pipeline.load(folder, options.store, options.seed)) as system:
        names = Names.of(folder)
        user = names.user_id(options.user)
        kinds, scenarios = system.models.schema.context, system.models.policy.scenarios
        if scenarios and options.scenario not in (None, *scenarios):
            raise ValueError(f"scenario is {options.scenario!r}; expected one of {', '.join(scenarios)}")
        context = {name: _context(name, value, kinds.get(name)) for name, value in options.context.items()}
        request: dict[str, Any] = {
            "k": options.k,
            "candidates": options.candidates,
            "context": context,
            "scenario": options.scenario,
            "timestamp": options.timestamp,
            "explore": options.explore,
        }
        made = [system.rank(user, **request) for _ in range(options.repeat)]
        served, counters = made[-1], system.counters
    unknown = [name for name in kinds if name not in context]
    steps = [*serve.STEPS, "in all"]
    seconds = np.array([[*page.seconds.values(), sum(page.seconds.values())] for page in made])
    times = {
        name: {"p50_ms": 1e3 * float(np.median(column)), "max_ms": 1e3 * float(column.max())}
        for name, column in zip(steps, seconds.T, strict=True)
    }
    title = f"user {options.user}, {len(served.predictions)} candidates"
    page = served.page.describe(0, title, system.models.policy.static_weights.numpy())
    for item, name in zip(page["items"], names.items(served.items), strict=True):
        if name is not None:
            item["name"] = name
    if served.degraded:
        page["why"] = f"degraded ({served.degraded}): default features, static weights"
    elif served.history == 0:
        page["why"] = f"no event of this user is known: default features; {page['why']}"
    if unknown:
        page["why"] += f"; unknown, as --context does not give them: {', '.join(unknown)}"
    if options.log is not None:
        write_logs(served.page.log_rows(), options.log)
    if not options.json:
        terminal.page(page)
        rows = [[name, f"{stage['p50_ms']:.2f}", f"{stage['max_ms']:.2f}"] for name, stage in times.items()]
        terminal.table(f"Where the time goes, of {len(made)} times", ["milliseconds", "p50", "max"], rows, "in all")
    return {
        "version": system.version,
        "pages": [page],
        "times": times,
        "history": served.history,
        "unknown_context": unknown,
        "degraded": served.degraded or None,
        "counters": counters,
    }


def _context(name: str, value: str, kind: str | None) -> float | str:
    try:
        return float(value) if kind == "float" else value
    except ValueError as error:
        raise ValueError(f"context gives {name} as {value!r}; expected a number") from error
