"""Blended ranking: a page with mask, boosts and caps, and a whole request from features to page."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pygrade
from bench.cpu import core, onnx_peers, verify
from bench.cpu.harness import OURS, ROTATIONS, SECONDS, Contender, Row, measure
from bench.cpu.peers import Floats, random_scores
from pygrade import reference
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving.ranker import BlendedRanker

CAP, SELLERS = 3, 50


def rules(quick: bool, count: int, tasks: int, k: int) -> Row:
    """Mask, boosts and one cap: at most 3 items of a seller on a page."""
    scores = random_scores(ROTATIONS, (count, tasks))
    weights = random_scores(1, (tasks,), seed=1)[0]
    multiply, add = (0.5 + boost for boost in random_scores(2, (count,), seed=2))
    mask = np.arange(count) % 10 != 0
    seller = (np.arange(count) % SELLERS).astype(np.int32)
    groups = seller[:, None].copy()
    caps = np.array([CAP], np.int32)
    sellers = seller.tolist()  # a list, which Python indexes faster
    page_rules: Any = {"mask": mask, "boost_mul": multiply, "boost_add": add, "groups": groups, "caps": caps}
    out = np.empty(k, np.float32), np.empty(k, np.int32)

    def ours(i: int) -> Any:
        return pygrade.rank(scores[i % ROTATIONS], weights, k, **page_rules, out=out)

    def final(i: int) -> Floats:
        result = scores[i % ROTATIONS] @ weights * multiply + add
        result[~mask] = -np.inf
        return result  # type: ignore[no-any-return]

    def loop(i: int) -> Any:
        """Walk down the sorted candidates and count, as most code does."""
        result = final(i)
        taken, seen = [], [0] * SELLERS
        for candidate in np.argsort(-result).tolist():
            owner = sellers[candidate]
            if seen[owner] < CAP:
                seen[owner] += 1
                taken.append(candidate)
                if len(taken) == k:
                    break
        return result[taken], taken

    def sorted_within(i: int) -> Any:
        """Without a loop: the place of each candidate among its seller's, by a second, stable sort."""
        result = final(i)
        order = np.argsort(-result)
        owners = seller[order]
        by_owner = np.argsort(owners, kind="stable")
        first = np.searchsorted(owners[by_owner], owners)
        place = np.empty(count, np.int64)
        place[by_owner] = np.arange(count)
        page = order[place - first < CAP][:k]
        return result[page], page

    contenders: dict[str, Contender] = {OURS: ours, "numpy loop": loop, "numpy": sorted_within}
    for number in (0, 1):
        values, indices = reference.rank(
            verify.tensor(scores[number])[None],
            verify.tensor(weights)[None],
            k,
            mask=torch.from_numpy(mask)[None],
            boost_mul=verify.tensor(multiply)[None],
            boost_add=verify.tensor(add)[None],
            groups=torch.from_numpy(groups)[None],
            caps=torch.from_numpy(caps),
        )
        for name, run in contenders.items():
            result = run(number)
            verify.close(name, "values", result[0], values[0])
            verify.close(name, "indices", result[1], indices[0])
    shape = {"N": count, "T": tasks, "k": k, "rules": "mask, boosts, cap"}
    return core.row("rank", shape, contenders, quick, ("rank", (count, tasks, k, 1)))


def policy(quick: bool, count: int, tasks: int, k: int, transform: str) -> Row:
    """Policy and ranking of one request, from features and predictions to the page."""
    features, seconds = 32, SECONDS[quick]
    config = PolicyConfig(hidden=(64, 64), transform=transform, context_only=transform != "zlog", lower=0.0, upper=1.0)
    spec = PolicySpec(tuple(f"t{i}" for i in range(tasks)), tuple(f"x{i}" for i in range(features)), config)
    network = FusionPolicy(spec).eval()
    with torch.no_grad():  # as far from equal weights as a trained policy is
        network.head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    predictions = random_scores(ROTATIONS, (count, tasks))
    contexts = [2.0 * x - 1.0 for x in random_scores(ROTATIONS, (1, features), seed=1)]
    if not config.context_only:
        batch = np.stack(predictions)
        network.fit_normalization(network.request_inputs(np.concatenate(contexts), batch))
    ranker = BlendedRanker(network, seed=0)

    def ours(i: int) -> Any:
        page = ranker.rank(contexts[i % ROTATIONS], predictions[i % ROTATIONS][None], k)
        return page.values, page.indices

    library = onnx_peers.policy(network, contexts, predictions, k)
    contenders: dict[str, Contender] = {OURS: ours} | library
    exact = copy.deepcopy(network).double()
    for number in (0, 1):
        inputs = network.request_inputs(contexts[number], predictions[number][None]).double()
        fused = verify.fused_scores(predictions[number], exact.serve(inputs)[0], transform)
        for name, run in contenders.items():
            verify.topk(name if name != OURS else "BlendedRanker", run(number), fused, k)
    with tempfile.TemporaryDirectory() as directory:
        network.save(directory)
        alone = core.run("policy_rank", count, tasks, features, k, seconds=seconds / 4, policy=Path(directory))
    shape = {"N": count, "T": tasks, "k": k, "f": transform}
    notes = f"MLP {features}-64-64; pygrade is BlendedRanker, which keeps counters and a log row; C++ is Ranker::rank"
    return Row("policy + rank", shape, measure(contenders, seconds), tuple(library), notes=notes, **alone)
