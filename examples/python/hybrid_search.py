"""python hybrid_search.py [--requests N] [--world intents|same|random] [--corpus FILE] [--out DIR] [--result FILE]

Which weight should BM25, a vector and freshness get in *this* query? Clicks of invented searchers, package_searchers.py
→ a verdict, weights for each query → a test by item weights → files for search engines → latency of /v1/weights.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from package_search import Packages, read_documents
from package_searchers import RETRIEVERS, WORLDS, earned, lift, rows, searches
from weights_latency import latency

import pygrade
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CorrectionConfig, CrossFitConfig, RewardConfig, TrainConfig
from pygrade.evaluation.decision import decide
from pygrade.evaluation.plan_readings import items_compete
from pygrade.evaluation.readings import VALUE, read_pages
from pygrade.serving.hybrid import HybridWeights, hybrid_weights, normalize_hits, write_hybrid

PRODUCTION = (0.5, 0.5, 0.0)  # weights, as many engines' tutorials have them
FORM = dict(
    transform="identity", context_only=True, lower=0.0, upper=1.0
)  # Σ weight · term, weights of the query alone
CONFIG = TrainConfig(
    policy=PolicyConfig(**FORM),
    reward=RewardConfig(prior_weight=0.0),  # terms are no probabilities
    correction=CorrectionConfig(enabled=False),
    cross_fit=CrossFitConfig(mixture_weights=(1.0,)),  # the policy or a simple ranking: engines mix no two
)


def read_test(queries: list[dict], static: np.ndarray, learned: np.ndarray) -> dict:
    """Both weights tested on users, read by item weights."""
    table = rows(queries, static, 2, learned)
    logs = pygrade.Logs(
        tasks=("click",),
        task_values=(1.0,),
        features=(),
        context=np.empty((len(queries), 0), np.float32),
        request_id=np.arange(len(queries)),
        user_id=np.arange(len(queries)),
        offsets=np.searchsorted(table["request"], np.arange(len(queries) + 1)),
        item_id=table["item"],
        position=np.nan_to_num(table["slot"], nan=-1).astype(np.int32),
        predictions=table["p_lexical"][:, None].astype(np.float32),
        feedback=np.nan_to_num(table["clicked"])[:, None].astype(np.float32),
        arm=table["arm"][np.unique(table["request"], return_index=True)[1]],
        arms=("static", "learned"),
        slots=np.stack([table["slot_static"], table["slot_learned"]], 1).astype(np.int32),
    )
    test = read_pages(logs, planned_requests=len(queries))
    found = test.arms["learned"].readings["item weights"][VALUE].fixed
    bounds = [round(100 * x, 1) for x in (found.value, found.low, found.high)]
    return {
        "requests": len(queries),
        "item_weights": bounds,
        "decision": str(decide(test, items_compete(logs).compete)),
    }


def main(options: argparse.Namespace) -> dict:
    corpus = Packages(read_documents(options.corpus, options.documents))
    logged, later = (
        searches(corpus, n, seed, options.world) for seed, n in ((1, options.requests), (2, options.requests // 2))
    )
    print(
        f"{len(corpus.names):,} packages, {len(logged):,} logged queries of invented searchers, world {options.world}"
    )
    columns = {**dict.fromkeys(RETRIEVERS, "clicked"), "exploration": "page", "skip": "arm"}
    worth, production = dict.fromkeys(RETRIEVERS, 1 / 3), dict(zip(RETRIEVERS, PRODUCTION, strict=True))
    table = rows(logged, np.tile(PRODUCTION, (len(logged), 1)), 1)
    out = Path(options.out or tempfile.mkdtemp())
    trained = pygrade.train(table, CONFIG, out / "run", map=columns, values=worth, production=production, verbose=False)
    print(trained.verdict)
    policy = trained.policy
    static = next(b.weights for b in policy.mixture.baselines if b.name == "best static")
    try:
        fixed = hybrid_weights(policy, "vespa:min_max")
    except ValueError as reason:
        print(f"  no engine adds that up ({reason}); the files have the best static weights")
        fixed = HybridWeights("vespa", "min_max", RETRIEVERS, static, 0, False)
    alone = pygrade.FusionPolicy.load(out / "run/stage2")  # weights for each query, whether proven or not
    context = np.array([[q["context"][name.removeprefix("x_")] for name in policy.features] for q in later], np.float32)
    weights = alone.serve(torch.from_numpy(context)).detach().numpy()
    rrf = [normalize_hits(q["scores"], np.array([0, len(q["item"])]), "rrf")[:, :2].sum(1) for q in later]
    truth = {"per query": earned(later, [q["terms"] @ w for q, w in zip(later, weights, strict=True)])}
    for name, own in (("best static weights", static), ("min-max .5/.5", PRODUCTION)):
        truth[name] = earned(later, [q["terms"] @ np.array(own) for q in later])
    truth["RRF"] = earned(later, rrf)
    lifts = {name: lift(truth["per query"], clicks) for name, clicks in truth.items() if name != "per query"}
    for name, (value, low, high) in lifts.items():
        print(f"  weights per query, in truth, over {name:20} {value:+.1f} % ({low:.1f} to {high:.1f})")
    kinds = {
        name: [round(float(w), 2) for w in weights[[q["kind"] == i for q in later]].mean(0)]
        for i, name in enumerate(("name", "topic", "new"))
    }
    print("  mean weights", kinds)
    result = {"world": options.world, "packages": len(corpus.names), "requests": len(logged), "later": len(later)}
    result |= {"verdict": str(trained.verdict), "per_query": fixed.per_query, "weights": kinds, "lifts": lifts}
    result["static"] = [round(w, 3) for w in static]
    result["clicks_per_page"] = {name: round(float(clicks.mean()), 4) for name, clicks in truth.items()}
    result["test"] = read_test(later, np.tile(static, (len(later), 1)), weights)
    print("  test of both by item weights:", result["test"]["item_weights"], result["test"]["decision"])
    for engine, ending in (("opensearch", "json"), ("elasticsearch", "json"), ("vespa", "profile")):
        (out / f"{engine}.{ending}").write_text(write_hybrid(replace(fixed, engine=engine)))
    if not options.no_server:
        alone.save(out / "per-query/policy")
        result["weights_latency"] = latency(out / "per-query", [query["context"] for query in later[:100]])
        print("  /v1/weights:", {name: result["weights_latency"][name] for name in ("p50_us", "p99_us")})
    if options.result:
        Path(options.result).write_text(json.dumps(result) + "\n")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--world", choices=WORLDS, default="intents")
    parser.add_argument("--corpus", help="packages in the format of apt's lists, with tags; default: apt's own")
    parser.add_argument("--out", help="directory to write the run and the engines' files to")
    parser.add_argument("--result", help="JSON file to write the figures to")
    parser.add_argument("--no-server", action="store_true")
    main(parser.parse_args())
