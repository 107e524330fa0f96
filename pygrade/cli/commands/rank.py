"""pygrade rank"""

from dataclasses import dataclass
from typing import Any

from pygrade.cli import console
from pygrade.cli.ignored import refuse
from pygrade.cli.options import Output, Source
from pygrade.evaluation.policy_estimates import item_inputs, noted
from pygrade.logs import Logs, write_logs
from pygrade.serving.ranker import BlendedRanker
from pygrade.storage import Place

ESSENTIAL = ("policy", "data", "requests", "k", "explore", "seed", "impute", "log")  # of --help


@dataclass(frozen=True, kw_only=True)
class Options(Output, Source):
    """Rank logged requests with a saved policy, and print each page with its weights and the contributions per task.

    For a page from a whole pipeline see rank-user.

    Example: pygrade rank --policy runs/demo/policy --data logs:runs/demo/logs --requests 0 7
    """

    policy: Place  # directory of a saved policy
    requests: tuple[str, ...] = ()  # request ids; none: the first request of the data
    k: int = 10  # items a page
    explore: bool = False  # serve weights drawn from the policy's Dirichlet instead of its mean
    seed: int | None = None  # of the draws; none: from the operating system
    impute: bool = False  # of a policy that 0.2 or before saved: requests that miss some features go through it, too
    log: Place | None = None  # also write the pages as log rows (weights, concentration, trust, policy version)


def run(options: Options) -> dict[str, Any]:
    if not options.explore:
        refuse(options, ("seed",), "--explore")
    ranker = BlendedRanker.load(options.policy, options.seed, options.impute)
    chosen = noted(ranker.policy, _chosen(options.load(), options.requests))
    page = ranker.rank(
        chosen.context,
        chosen.predictions,
        options.k,
        offsets=chosen.offsets,
        explore=options.explore,
        scenario=None if chosen.scenario is None else [str(name) for name in chosen.scenario],
        request_id=chosen.request_id,
        user_id=chosen.user_id,
        item_id=chosen.item_id,
        item_values=chosen.value,
        items=item_inputs(ranker.policy, chosen),
    )
    titles = [f"request {r}, user {u}" for r, u in zip(chosen.request_id, chosen.user_id, strict=True)]
    static = ranker.policy.static_weights.numpy()
    pages = [page.describe(request, title, static) for request, title in enumerate(titles)]
    if options.log is not None:
        write_logs(page.log_rows(task_values=chosen.task_values), options.log)
    if not options.json:
        for record in pages:
            console.page(record)
    return {"policy_version": ranker.version, "pages": pages, "counters": ranker.counters}


def _chosen(logs: Logs, requests: tuple[str, ...]) -> Logs:
    places = {str(request): row for row, request in enumerate(logs.request_id.tolist())}
    for request in requests:
        if request not in places:
            raise ValueError(f"requests names {request!r}, which the data lacks; its first is {next(iter(places))!r}")
    return logs.select([places[request] for request in dict.fromkeys(requests)] or [0])
