"""python -m bench.study.comparison PART --seeds A:B: pygrade beside its peers, for docs/comparison.md.

Parts: `rankers` (LightGBM, XGBoost, Vowpal Wabbit), `estimates` (Open Bandit Pipeline), `tests` (GrowthBook); `report
--lines FILE …` writes the result file, and from it the tables of the page.

Worlds are those of `bench.study.foreign` and `bench.study.page_tests`, which share no code with pygrade's simulator and
whose truth is exact. All read the same log. Seeds 0 to 19 chose each peer's configuration; 700 and above judge.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pygrade import BlendedRanker
from pygrade._typing import Array, Floats
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.evaluation.decision import decide_log
from pygrade.evaluation.logged_rewards import LoggedRewards
from pygrade.logs import Logs
from pygrade.metrics.intervals import Interval
from pygrade.policy.spec import fusion_formula
from pygrade.runs.fit import fit
from pygrade.training.propensity import slot_propensity
from ..report.results import write_json
from . import page_tests
from .foreign.evaluate import FAMILIES, configured, lift_of, read
from .foreign.pages import Requests
from .learners import table
from .report import markdown
from .stats import over_worlds

SLOTS, LATER = 8, 2_000  # slots of the worlds of rankers and estimates; later requests that judge rankings
GRADES = 20
_TREES = {
    "learning_rate": 0.05,
    "min_data_in_leaf": 200,
    "lambda_l2": 10.0,
    "num_threads": 1,
    "verbosity": -1,
    "seed": 0,
}
ENDS = ("value", "low", "high")
PEER_TEST = "GrowthBook, t-test"
_ROOT = Path(__file__).parents[2]
RESULT = _ROOT / "bench/results/comparison.json"
PAGE = _ROOT / "docs/comparison.md"


def features(logs: Logs) -> Floats:
    """Return log predictions, in the list and beside its mean, context, item columns, log expected value, [M, F]."""
    return np.column_stack([table(logs), np.log(np.maximum(logs.value_of(logs.predictions), 1e-6))])


class Log:
    """The shown rows of a log, page by page from the top, as a learner of rankings wants them."""

    def __init__(self, logs: Logs, debias: bool = True) -> None:
        rows = np.flatnonzero(logs.shown)
        rows = rows[np.lexsort((logs.position[rows], logs.row_request[rows]))]
        self.slot, self.query, self.item_id = logs.position[rows], logs.row_request[rows], logs.item_id[rows]
        self.features, self.labels, self.predictions = features(logs)[rows], logs.feedback[rows], logs.predictions[rows]
        divisors = slot_propensity(logs, RewardConfig(page_size=SLOTS)).divisors(logs, RewardConfig().propensity_floor)
        self.value = logs.value_of(logs.feedback)[rows]  # label1, label2, … in one number
        if debias:
            self.value = self.value / divisors[rows]
        self.start, tasks = self.features[:, -1], len(logs.tasks)
        self.of_request = slice(2 * tasks, 3 * tasks + len(logs.features))  # columns: mean predictions, context
        steps = np.unique(np.quantile(self.value[self.value > 0], np.linspace(0, 1, GRADES)))
        self.grade = np.where(self.value > 0, np.searchsorted(steps, self.value, side="right"), 0)
        self.gains = np.bincount(self.grade, self.value) / np.maximum(np.bincount(self.grade), 1)
        self.late = self.query >= 0.8 * logs.num_requests  # stops the trees

    def leveled(self, unit: float = 1.0) -> tuple[Floats, Floats]:
        """The value in units, none below 0, and the log of the expected value at its level."""
        label = np.maximum(self.value, 0) / unit
        return label, self.start + np.log(label.sum() / np.exp(self.start).sum())

    def sizes(self, rows: Array) -> Array:
        return np.unique(self.query[rows], return_counts=True)[1]


def lightgbm(log: Log, new: Logs) -> Floats:
    """LambdaMART on the value's grade, from the expected value; the last fifth of the log stops it."""
    gbm = import_module("lightgbm")

    def data(rows: Array, **more: Any) -> Any:
        return gbm.Dataset(
            log.features[rows], log.grade[rows], group=log.sizes(rows), init_score=log.start[rows], **more
        )

    options = {"objective": "lambdarank", "label_gain": np.maximum(log.gains, 0).tolist(), "eval_at": [SLOTS]}
    options |= _TREES | {"num_leaves": 7, "lambdarank_norm": False, "lambdarank_truncation_level": SLOTS}
    early = data(~log.late)
    late, stop = data(log.late, reference=early), gbm.early_stopping(40, verbose=False)
    model = gbm.train(options, early, 400, valid_sets=[late], callbacks=[stop])
    return _above(log, new, model, num_iteration=model.best_iteration)


def lightgbm_value(log: Log, new: Logs) -> Floats:
    """Tweedie regression of the value, which learns a factor of the expected value."""
    gbm = import_module("lightgbm")
    label, begin = log.leveled()
    data = gbm.Dataset(log.features, label, init_score=begin)
    return _above(log, new, gbm.train(_TREES | {"objective": "tweedie", "num_leaves": 4}, data, 30))


def lightgbm_labels(log: Log, new: Logs, ids: bool = False) -> Floats:
    """A model of each label from the log odds of its prediction, with the slot as a column; Σ value · probability at
    the first slot. ids: with the items' ids as a category.
    """
    gbm = import_module("lightgbm")
    inputs, top = np.column_stack([log.features, log.slot]), np.column_stack([features(new), 0 * new.position])
    known_ids, codes = np.unique(log.item_id, return_inverse=True)
    if ids:
        found_at = np.minimum(np.searchsorted(known_ids, new.item_id), len(known_ids) - 1)
        later = np.where(known_ids[found_at] == new.item_id, found_at, np.nan)
        inputs, top = np.column_stack([inputs, codes]), np.column_stack([top, later])
    categories = [inputs.shape[1] - 1] if ids else []
    found = []
    for label, known, given in zip(log.labels.T, log.predictions.T, new.predictions.T, strict=True):
        label = np.ascontiguousarray(label)
        data = gbm.Dataset(inputs, label, init_score=_log_odds(known), categorical_feature=categories)
        model = gbm.train(_TREES | {"objective": "binary", "num_leaves": 4}, data, 30)
        found.append(1 / (1 + np.exp(-_log_odds(given) - model.predict(top, raw_score=True, num_threads=1))))
    return np.asarray(new.value_of(np.stack(found, 1).astype(np.float32)))


def _above(log: Log, new: Logs, model: Any, **more: Any) -> Floats:
    x = features(new)
    return np.asarray(x[:, -1] + model.predict(x, raw_score=True, num_threads=1, **more))


def _log_odds(p: Array) -> Floats:
    p = np.clip(p.astype(float), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


def xgboost(log: Log, new: Logs) -> Floats:
    """rank:ndcg on the value's grade, from the expected value; the last fifth of the log stops it."""
    xgb = import_module("xgboost")

    def data(rows: Array) -> Any:
        return xgb.DMatrix(log.features[rows], log.grade[rows], qid=log.query[rows], base_margin=log.start[rows])

    options = {"objective": "rank:ndcg", "max_depth": 3, "eta": 0.05, "lambda": 10.0, "min_child_weight": 1.0}
    options |= {"lambdarank_pair_method": "topk", "lambdarank_num_pair_per_sample": SLOTS, "nthread": 1, "seed": 0}
    options |= {"ndcg_exp_gain": False, "lambdarank_unbiased": False, "eval_metric": f"ndcg@{SLOTS}"}
    late = [(data(log.late), "late")]
    model = xgb.train(options, data(~log.late), 400, late, early_stopping_rounds=40, verbose_eval=False)
    return _margin(new, model, (0, model.best_iteration + 1))


def xgboost_value(log: Log, new: Logs) -> Floats:
    """Tweedie regression of the value, as LightGBM's."""
    xgb = import_module("xgboost")
    label, begin = log.leveled(max(log.value.mean(), 1e-9))
    options = {"objective": "reg:tweedie", "max_depth": 2, "eta": 0.05, "lambda": 10.0, "nthread": 1, "seed": 0}
    options |= {"min_child_weight": 20.0}
    return _margin(new, xgb.train(options, xgb.DMatrix(log.features, label, base_margin=begin), 30))


def _margin(new: Logs, model: Any, rounds: tuple[int, int] = (0, 0)) -> Floats:
    xgb = import_module("xgboost")
    x = features(new)
    matrix = xgb.DMatrix(x, base_margin=x[:, -1])
    return np.asarray(model.predict(matrix, output_margin=True, iteration_range=rounds))


def vowpal(log: Log, new: Logs) -> Floats:
    """Poisson regression of the value from the log of the expected value, one pass in the log's order, of standardized
    columns, those of candidates times those of the request, and the slot.
    """
    vw = import_module("vowpalwabbit")
    mean, spread = log.features.mean(0), log.features.std(0) + 1e-6
    model = vw.Workspace("--quiet --loss_function poisson --link poisson -l 0.02 --power_t 0.25 -b 18 -q ic")
    places = np.arange(len(mean))
    parts = {"i": np.delete(places, log.of_request), "c": places[log.of_request]}

    def columns(row: Array, slot: int) -> str:
        of = (f"|{name} " + " ".join(f"{i}:{row[i]:.4g}" for i in part) for name, part in parts.items())
        return " ".join([*of, f"|s s{slot}"])

    level = np.log(max(log.value.sum(), 1e-9) / np.exp(log.start).sum())
    for row, slot, value, begin in zip((log.features - mean) / spread, log.slot, log.value, log.start, strict=True):
        model.learn(f"{max(value, 0.0):.5g} 1 {begin + level:.5g} {columns(row, slot)}")
    x = features(new)
    found = [np.log(max(model.predict(columns(row, 0)), 1e-12)) for row in (x - mean) / spread]
    return np.asarray(found + x[:, -1])


RANKERS: dict[str, tuple[bool, Callable[[Log, Logs], Floats]]] = {  # name → whether its labels are over propensities
    "LightGBM, LambdaMART": (False, lightgbm),
    "LightGBM, regression of value": (True, lightgbm_value),
    "LightGBM, a model per label": (False, lightgbm_labels),
    "LightGBM, the same with item ids": (False, partial(lightgbm_labels, ids=True)),
    "XGBoost, rank:ndcg": (False, xgboost),
    "XGBoost, regression of value": (True, xgboost_value),
    "Vowpal Wabbit, regression of value": (True, vowpal),
}


def served(log: Requests, new: Requests) -> Array:
    """Pages by what `train` leaves with all its options at their defaults."""
    with TemporaryDirectory() as directory:
        fit(log.logs, configured(False), Path(directory))
        ranker = BlendedRanker.load(Path(directory) / "policy")
        return np.asarray(ranker.rank_log(new.logs, SLOTS).indices, np.int64)


def rankers(family: str, seed: int, requests: int) -> dict[str, Any]:
    """True lifts over expected value, in per cent, and the seconds that learning and ranking took on the processor."""
    log, new = FAMILIES[family](seed).draw(requests, LATER)
    base, known = new.earned(new.predicted()), {debias: Log(log.logs, debias) for debias in (False, True)}
    lifts = {"oracle": lift_of(new.earned(new.oracle()), base)[0]}
    lifts["logged order"] = lift_of(new.earned(new.ranking(new.production)), base)[0]
    seconds = {}
    for name, (debias, rank) in RANKERS.items():
        begun = time.process_time()
        lifts[name] = lift_of(new.earned(new.ranking(rank(known[debias], new.logs))), base)[0]
        seconds[name] = round(time.process_time() - begun, 1)
    begun = time.process_time()
    lifts["pygrade train"] = lift_of(new.earned(served(log, new)), base)[0]
    seconds["pygrade train"] = round(time.process_time() - begun, 1)
    return {"lifts": lifts, "seconds": seconds}


def estimates(family: str, seed: int, requests: int) -> dict[str, Any]:
    """Estimates of what two other orders of the logged pages earn, with 95 % intervals, relative to the truth."""
    obp = import_module("obp.ope")
    log = FAMILIES[family](seed).requests(requests, 0)
    logs, among = log.logs, log.grid(log.logs.shown)
    share = float(np.mean(np.asarray(logs.exploration) == "shuffle"))
    served = np.full((requests, SLOTS), -1)
    rows, places = np.nonzero(among)
    served[rows, log.grid(logs.position)[rows, places]] = places
    produced = log.ranking(log.production)
    propensity = slot_propensity(logs, RewardConfig(page_size=SLOTS))
    formula = fusion_formula(TrainConfig().policy)
    curve = propensity.known(SLOTS)
    assert curve is not None
    rewards = LoggedRewards.of(logs, curve, formula, propensity.standard_error)
    value = np.take_along_axis(log.grid(logs.value_of(logs.feedback)), served, 1)
    orders: dict[str, Array] = {"expected value": logs.value_of(logs.predictions), "clicks": logs.predictions[:, 0]}
    found: dict[str, Any] = {}
    for name, scores in orders.items():
        page = log.ranking(scores, logs.shown)
        truth = float(log.earned(page).mean())
        same, usual = page == served, produced == served
        prefix = np.cumprod(1 / np.arange(SLOTS, 0, -1.0))
        kept, first = np.cumprod(same, 1), np.cumprod(usual, 1)
        slate = {"slate_id": np.repeat(np.arange(requests), SLOTS), "reward": value.ravel()}
        slate["position"] = np.tile(np.arange(SLOTS), requests)
        slate["pscore_item_position"] = ((1 - share) * usual + share / SLOTS).ravel()
        slate["evaluation_policy_pscore_item_position"] = same.astype(float).ravel()
        slate["pscore_cascade"] = ((1 - share) * first + share * prefix).ravel()
        slate["evaluation_policy_pscore_cascade"] = kept.astype(float).ravel()
        for kind in ("SlateIndependentIPS", "SelfNormalizedSlateIndependentIPS", "SlateRewardInteractionIPS"):
            estimator = getattr(obp, kind)(len_list=SLOTS)
            ends = estimator.estimate_interval(**slate, n_bootstrap_samples=1000, random_state=0)
            ends = [float(ends[key]) for key in ("mean", "95.0% CI (lower)", "95.0% CI (upper)")]
            ends[0] = float(estimator.estimate_policy_value(**slate))
            found.setdefault(f"obp, {estimator.estimator_name}", {})[name] = [round(end / truth - 1, 5) for end in ends]
        rank = np.full(log.production.shape, -1)
        np.put_along_axis(rank, page, np.broadcast_to(np.arange(SLOTS), page.shape), 1)
        mine = rewards.estimate(rank.ravel())
        ends = [round(end / truth - 1, 5) for end in (mine.value, mine.low, mine.high)]
        found.setdefault("pygrade evaluate", {})[name] = ends
    return {"errors": found}


def tests(world: str, seed: int, requests: int) -> dict[str, Any]:
    """Readings of a simulated A/B test of a re-ranking, with its true lift, by GrowthBook's t-test of value per request
    and by the estimator that pygrade decides by: [lift, low, high], with and without a lift.
    """
    gbstats, peer_tests = import_module("gbstats.models.statistics"), import_module("gbstats.frequentist.tests")
    found: dict[str, Any] = {}
    for lift in (0.0, 0.025):
        logs, pool, pages = page_tests.replay(world, lift, seed, requests)
        value = np.bincount(logs.row_request, logs.value_of(logs.feedback), requests)
        statistics = []
        for arm in logs.arms:
            rows = logs.arm == arm
            counts = np.bincount(pool.user[rows])
            users = counts > 0
            sums, counts = np.bincount(pool.user[rows], value[rows])[users], counts[users]
            parts = [
                gbstats.SampleMeanStatistic(n=len(x), sum=x.sum(), sum_squares=(x**2).sum()) for x in (sums, counts)
            ]
            product = float((sums * counts).sum())
            statistics.append(
                gbstats.RatioStatistic(
                    n=len(sums), m_statistic=parts[0], d_statistic=parts[1], m_d_sum_of_products=product
                )
            )
        peer = peer_tests.TwoSidedTTest(*statistics).compute_result()
        decided = decide_log(logs)
        mine = decided.test.arms["b"].readings[decided.deciding["b"]]["value"].fixed
        found[f"{lift:g}"] = {
            "true": round(page_tests.lift_of(pool, *pages), 5),
            PEER_TEST: [round(float(x), 5) for x in (peer.expected, *peer.ci)],
            "pygrade test read": [round(x, 5) for x in (mine.value, mine.low, mine.high)],
            "rung": decided.deciding["b"],
        }
    return {"readings": found}


PARTS: dict[str, tuple[Callable[[str, int, int], dict[str, Any]], tuple[str, ...], int]] = {
    "rankers": (rankers, ("roots-segment", "roots-price", "factors", "network", "null-accurate"), 5_000),
    "estimates": (estimates, ("null-accurate", "null-accurate-cascade"), 5_000),
    "tests": (tests, ("prices", "effects", "buy23"), 20_000),
}


def run(part: str, seeds: range, out: Path, only: Sequence[str] | None = None) -> None:
    """Adds a JSON line a log to `out`, which keeps what it has."""
    measure, worlds, requests = PARTS[part]
    done = {(r["part"], r["world"], r["seed"]) for r in read(out)} if out.exists() else set()
    for seed in seeds:
        for world in only or worlds:
            if (part, world, seed) not in done:
                line = {"part": part, "world": world, "seed": seed, "requests": requests}
                line |= measure(world, seed, requests)
                with out.open("a", encoding="utf-8") as file:
                    print(json.dumps(line), file=file)
                print(json.dumps(line), flush=True)


def summed(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The lines by part and world: seeds, and each figure as a list over them."""
    found: dict[str, Any] = {}
    for line in sorted(
        lines, key=lambda line: (line["part"], PARTS[line["part"]][1].index(line["world"]), line["seed"])
    ):
        world = found.setdefault(line["part"], {}).setdefault(line["world"], {"requests": line["requests"]})
        _append(world, {key: value for key, value in line.items() if key not in ("part", "world", "requests")})
    return found


def _append(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, list):
            value = dict(zip(ENDS, value, strict=True))
        if isinstance(value, Mapping):
            _append(into.setdefault(key, {}), value)
        else:
            into.setdefault(key, []).append(value)


def rankers_table(worlds: Mapping[str, Any]) -> str:
    """Lifts over expected value, 95 % t-intervals over logs."""
    names = ["oracle", "logged order", *RANKERS, "pygrade train"]
    rows = [
        [name, *(_reach(over_worlds(w["lifts"][name])) for w in worlds.values()), _seconds(worlds, name)]
        for name in names
    ]
    return markdown(["ranking", *worlds, "processor seconds"], rows)


def _reach(interval: Interval) -> str:
    return f"{interval.value:+.2f} ± {interval.high - interval.value:.2f}"


def _seconds(worlds: Mapping[str, Any], name: str) -> str:
    found = [second for w in worlds.values() for second in w["seconds"].get(name, [])]
    return f"{np.mean(found):.1f}" if found else ""


def estimates_table(worlds: Mapping[str, Any]) -> str:
    """Root mean square error and half width in per cent of the truth, and how many intervals hold it."""
    orders = [(world, order) for world, w in worlds.items() for order in next(iter(w["errors"].values()))]
    rows = []
    for name in next(iter(worlds.values()))["errors"]:
        cells = []
        for world, order in orders:
            value, low, high = (np.array(worlds[world]["errors"][name][order][end]) for end in ENDS)
            held, error, half = ((low <= 0) & (high >= 0)).sum(), np.sqrt((value**2).mean()), (high - low).mean() / 2
            cells.append(f"{100 * error:.1f}, ± {100 * half:.1f}, {held} of {len(value)}")
        rows.append([name, *cells])
    return markdown(["estimate", *(f"{world.removeprefix('null-')}: by {order}" for world, order in orders)], rows)


def tests_table(worlds: Mapping[str, Any]) -> str:
    """Half widths of the intervals, how many hold the truth, and how many tests of a true lift are found."""
    rows = []
    for name in (PEER_TEST, "pygrade test read"):
        cells = []
        for world in worlds.values():
            readings = world["readings"]
            low, high = (np.concatenate([reading[name][end] for reading in readings.values()]) for end in ENDS[1:])
            true = np.concatenate([reading["true"] for reading in readings.values()])
            held, found = ((low <= true) & (true <= high)).sum(), np.array(readings["0.025"][name]["low"]) > 0
            half = 100 * (high - low).mean() / 2
            cells.append(f"± {half:.1f}, {held} of {len(true)}, {found.sum()} of {len(found)}")
        rows.append([name, *cells])
    return markdown(["estimator", *worlds], rows)


TABLES = {"rankers": rankers_table, "estimates": estimates_table, "tests": tests_table}


def with_tables(page: str, record: Mapping[str, Any]) -> str:
    """The page with every table written anew; they stand between comments with their names."""
    for part, table_of in TABLES.items():
        begin, end = (
            f"<!-- {part}:begin, written by python -m bench.study.comparison report -->\n",
            f"<!-- {part}:end -->",
        )
        before, rest = page.split(begin)
        page = f"{before}{begin}{table_of(record[part])}\n{end}{rest.split(end)[1]}"
    return page


def report(lines: Sequence[Path]) -> None:
    """Writes the result file, if there are lines, and the page's tables."""
    if lines:
        record = summed([line for path in lines for line in read(path)])
        packages = {"lightgbm", "xgboost", "vowpalwabbit", "obp", "gbstats"}
        record["versions"] = {name: metadata.version(name) for name in sorted(packages)}
        write_json(RESULT, record)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.comparison", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "report"])
    parser.add_argument("--seeds", default="700:704", help="A:B, without B")
    parser.add_argument("--worlds", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=Path("comparison.jsonl"), help="of the lines")
    parser.add_argument("--lines", type=Path, nargs="*", default=(), help="files of lines, for a new result file")
    options = parser.parse_args()
    if options.part == "report":
        report(options.lines)
        return
    run(options.part, range(*map(int, options.seeds.split(":"))), options.out, options.worlds)


if __name__ == "__main__":
    main()
