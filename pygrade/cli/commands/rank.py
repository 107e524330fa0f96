"""pygrade rank"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import load_log
from pygrade.cli.rank_user import rank_user
from pygrade.config.ignored import refuse
from pygrade.config.logs import RankOptions
from pygrade.logs import Logs, write_logs
from pygrade.serving.ranker import BlendedRanker
from pygrade.serving.run_copy import check_proven

OF_A_USER = ("store", "candidates", "scenario", "context", "timestamp", "repeat")


def run(options: RankOptions) -> dict[str, Any]:
    if not options.explore:
        refuse(options, ("seed",), "--explore")
    if options.run is not None or options.user is not None:
        return rank_user(options)
    refuse(options, OF_A_USER, "--run and --user")
    check_proven(options.policy, options.allow_unproven)
    ranker = BlendedRanker.load(options.policy, options.seed)
    chosen = _chosen(load_log(options), options.requests)
    page = ranker.rank_log(chosen, options.k, explore=options.explore)
    titles = [f"request {r}, user {u}" for r, u in zip(chosen.request_id, chosen.user_id, strict=True)]
    static = ranker.policy.static_weights.numpy()
    pages = [page.describe(request, title, static) for request, title in enumerate(titles)]
    if options.log is not None:
        write_logs(page.log_rows(task_values=chosen.task_values), options.log)
    if not options.json:
        for record in pages:
            terminal.page(record)
    return {"policy_version": ranker.version, "pages": pages, "counters": ranker.counters}


def _chosen(logs: Logs, requests: tuple[str, ...]) -> Logs:
    places = {str(request): row for row, request in enumerate(logs.request_id.tolist())}
    for request in requests:
        if request not in places:
            raise ValueError(f"requests names {request!r}, which the data lacks; its first is {next(iter(places))!r}")
    return logs.select([places[request] for request in dict.fromkeys(requests)] or [0])
