"""python examples/make_requests.py DIR: a policy, 1,000 requests of every kind, and the pages that Python makes.

DIR/policy is a policy directory, DIR/requests.bin and DIR/pages.bin are in the format of `request_file`. Every example
ranks the same requests by the same policy, and writes the same bytes.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.request_file import Request, write_pages, write_requests
from pygrade import BlendedRanker, FusionPolicy
from pygrade.config.policy import PolicyConfig
from pygrade.logs.keys import hashes
from pygrade.policy import PolicySpec
from pygrade.policy.correction import Correction, ItemEffects
from pygrade.policy.mixture import Baseline, Mixture

TASKS, FEATURES = ("click", "cart", "order", "like"), ("hour", "intent", "age")
CATALOG = np.array([f"sku-{number:04d}" if number % 9 else f"1000{number:04d}" for number in range(1000)])


def make_policy(seed: int = 3) -> FusionPolicy:
    """One whose network reads the tasks' values, and that is mixed with a baseline of prices and item effects."""
    worth = (1.0, 2.0, 5.0, 0.5)
    config = PolicyConfig(hidden=(16, 8), scenario_exploration={"search": 0.5}, trade_offs=True, task_values=worth)
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=seed)
    policy.head.weight.data.mul_(40)  # so that requests differ
    policy.set_static_weights(torch.tensor([0.4, 0.2, 0.2, 0.2]), {"search": torch.tensor([0.1, 0.3, 0.3, 0.3])})
    effects = np.random.default_rng(seed).normal(0, 0.5, (len(CATALOG) // 2, len(TASKS))).astype(np.float32)
    levels = ItemEffects(np.sort(hashes(CATALOG[::2])), effects)  # of one item in two
    policy.correction = Correction.identity(TASKS, FEATURES).with_item_effects(levels)
    value = Baseline("corrected value", "identity", worth, True, ("order",), corrected=True)
    policy.mixture = Mixture(0.6, value)
    return policy


def make_requests(count: int, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)

    def some(share: float) -> bool:
        return bool(rng.random() < share)

    requests = []
    for number in range(count):
        n = 500 if number % 10 == 0 else int(rng.integers(0, 120))
        predictions = rng.uniform(0.001, 0.9, (n, len(TASKS))).astype(np.float32)
        if some(0.2):
            predictions = np.round(predictions, 1)  # ties
        if n and some(0.3):
            missing = (np.nan, np.inf, -np.inf)[number % 3]
            predictions[rng.integers(n, size=3), rng.integers(len(TASKS), size=3)] = missing
        context = rng.normal(size=len(FEATURES)).astype(np.float32)
        if some(0.1):
            context[rng.integers(len(FEATURES))] = np.nan
        values = rng.uniform(0.1, 3.0, len(TASKS)).astype(np.float32)
        values[rng.integers(len(TASKS))] = np.nan  # the policy's default
        capped = some(0.4)
        requests.append(
            Request(
                predictions=predictions,
                k=int(rng.integers(1, 60)),
                context=None if some(0.1) else context,
                mask=rng.random(n) < 0.8 if some(0.3) else None,
                boost_mul=rng.uniform(0.5, 2.0, n).astype(np.float32) if some(0.3) else None,
                boost_add=rng.normal(size=n).astype(np.float32) if some(0.3) else None,
                groups=rng.integers(-1, 9, (n, 2)).astype(np.int32) if capped else None,
                caps=rng.integers(-1, 4, 2).astype(np.int32) if capped else None,
                scenario=(None, "search", "feed", "")[number % 4],
                seed=int(rng.integers(1 << 31)) if some(0.4) else None,
                values=values if some(0.5) else None,
                item_values=rng.uniform(0.0, 50.0, n).astype(np.float32),
                names=rng.choice(CATALOG, n, replace=False).astype("S8") if some(0.7) else None,
            )
        )
    return requests


def make_posts(directory: Path, count: int = 200) -> None:
    """DIR/x: a policy of 26 heads and four item columns, posts, and their pages, for rust/src/bin/x_scorer.rs."""
    rng, tasks = np.random.default_rng(7), tuple(f"head_{t}" for t in range(26))
    items = ("out_of_network", "is_original", "is_video", "mutual_original")
    policy = FusionPolicy(PolicySpec(tasks, ("hour",), PolicyConfig(hidden=(4,))), seed=0)
    correction = Correction.identity(tasks, ("hour",)).with_items(items)
    coefficients = 0.1 * rng.standard_normal(correction.weights.shape)
    policy.correction = replace(correction, weights=coefficients.astype(np.float32))
    worth = tuple(np.where(rng.random(26) < 0.2, -5.0, 1.0) * 10.0 ** rng.uniform(-2, 1, 26))
    policy.mixture = Mixture(0.0, Baseline("corrected value", "identity", worth, corrected=True))
    policy.save(directory / "x/policy")
    predictions = rng.uniform(1e-4, 0.2, (count, 60, 26)).astype(np.float32)
    flags = (rng.random((count, 60, 4)) < 0.4).astype(np.float32)
    author = rng.integers(0, 20, (count, 60)).astype(np.int32)
    np.concatenate([predictions, flags, author[..., None].astype(np.float32)], 2).tofile(directory / "x/posts.bin")
    page = BlendedRanker.load(directory / "x/policy").rank(
        (np.arange(count, dtype=np.float32) % 24)[:, None],
        predictions,
        20,
        items=flags,
        boost_mul=np.where((flags[..., 0] == 1) | (flags[..., 1] == 0), 0.75, 1.0).astype(np.float32),
        groups=author[..., None],
        caps=[-1],
        decay=[0.5],
    )
    page.indices.astype("<i4").tofile(directory / "x/pages.bin")


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    policy, requests = make_policy(), make_requests(1000)
    policy.save(directory / "policy")
    ranker = BlendedRanker.load(directory / "policy")
    pages = []
    for r in requests:
        context = None if r.context is None else r.context[None]
        rules = {name: getattr(r, name) for name in ("mask", "boost_mul", "boost_add", "groups", "caps", "item_values")}
        if r.groups is not None:
            rules["groups"] = r.groups[None]
        if r.names is not None:
            rules["item_id"] = r.names.astype(str)[None]
        draw = {} if r.seed is None else {"explore": True, "seed": r.seed}
        pages.append(
            ranker.rank(context, r.predictions[None], r.k, scenario=r.scenario, values=r.values, **rules, **draw)
        )
    write_requests(directory / "requests.bin", requests, len(FEATURES))
    make_posts(directory)
    # The policy's item columns are its item effects, which the names of items find.
    missing = [len(TASKS) if r.names is None and len(r.predictions) else 0 for r in requests]
    assert ranker.counters["missing_items"] == sum(map(bool, missing)) > 0
    write_pages(directory / "pages.bin", pages, missing)
    explored, fallback = (sum(int(getattr(page, name)[0]) for page in pages) for name in ("explored", "fallback"))
    print(f"{len(pages)} pages of policy {ranker.version}: {explored} explored, {fallback} fallbacks")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
