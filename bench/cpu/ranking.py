"""Blended ranking: a page with mask, boosts and caps, a whole request from features to page, and trees on top of a
correction."""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pygrade
from pygrade import reference
from pygrade.config.policy import PolicyConfig
from pygrade.policy import Baseline, Correction, FusionPolicy, Mixture, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.trees import packed
from . import core, onnx_peers, verify
from .harness import OURS, ROTATIONS, SECONDS, Contender, Row, measure, optional
from .peers import Floats, random_scores

CAP, SELLERS = 3, 50
NAIVE = ("alone", "mixed", "corrected")  # forms that naive_rank.cpp has, in its order


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


def naive(quick: bool, count: int, tasks: int, k: int, form: str) -> Row:
    """The request of a policy alone, mixed with a baseline, or of corrected predictions; the bound is the same
    arithmetic in plain loops (naive_rank.cpp)."""
    features, seconds = 16, SECONDS[quick]
    names, inputs = tuple(f"t{i}" for i in range(tasks)), tuple(f"x{i}" for i in range(features))
    network = FusionPolicy(
        PolicySpec(names, inputs, PolicyConfig(hidden=(64, 64), corrected=form == "corrected"))
    ).eval()
    if form == "mixed":
        network.mixture = Mixture(0.6, Baseline("static", "identity", tuple(1.0 + i for i in range(tasks))))
    if form == "corrected":
        network.correction = _correction(names, inputs, ())
    predictions = random_scores(ROTATIONS, (count, tasks))
    contexts = [2.0 * x - 1.0 for x in random_scores(ROTATIONS, (1, features), seed=1)]
    ranker = BlendedRanker(network, seed=0)
    contenders: dict[str, Contender] = {
        OURS: lambda i: ranker.rank(contexts[i % ROTATIONS], predictions[i % ROTATIONS][None], k)
    }
    with tempfile.TemporaryDirectory() as directory:
        network.save(directory)
        sizes = (count, tasks, features, k, NAIVE.index(form))
        alone = core.run("naive_rank", *sizes, seconds=seconds / 4, policy=Path(directory))
    notes = "C++ is Ranker::rank; the naive loop has the same arithmetic by -O3 -ffast-math, in a clone -march=native"
    shape = {"N": count, "T": tasks, "k": k, "form": form}
    return Row("naive rank", shape, measure(contenders, seconds), (), notes=notes, **alone)


def _correction(tasks: tuple[str, ...], features: tuple[str, ...], items: tuple[str, ...]) -> Correction:
    """One without maps and trees."""
    count, context, variables = len(tasks), len(features), len(tasks) + len(items)
    shapes = {"median": context, "x_mean": context, "l_mean": variables, "map_mean": count}
    shapes |= {"map_knots": (count, 5), "map_weights": (count, 7)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {"x_std": np.ones(context), "l_std": np.full(variables, 0.5), "map_std": np.ones(count)}
    weights = 0.02 * np.random.default_rng(0).normal(size=(count, 1 + context + variables, 1 + variables))
    lists = {"parents": (-1,) * count, "amounts": (False,) * count, "indicators": (), "form": ""}
    return Correction(tasks, features, items, weights=weights, **lists, **arrays)


def trees(quick: bool, count: int, tasks: int, items: int, number: int) -> Row:
    """A correction with trees, which makes their inputs too, against LightGBM's and lleaves' sums of leaves of ready
    ones."""
    import lightgbm

    context, variables = 10, tasks + items
    plain = _correction(*(tuple(f"{n}{i}" for i in range(k)) for n, k in (("t", tasks), ("x", context), ("i", items))))
    predictions = [0.3 * p for p in random_scores(ROTATIONS, (count, tasks))]
    contexts = [2.0 * x - 1.0 for x in random_scores(ROTATIONS, (1, context), seed=1)]
    columns_of = [2.0 * x - 1.0 for x in random_scores(ROTATIONS, (count, items), seed=2)]
    offsets = np.array([0, count])
    requests = list(zip(contexts, predictions, [offsets] * ROTATIONS, columns_of, strict=True))
    inputs = [plain.tree_columns(*request) for request in requests]
    known = np.concatenate(inputs)
    label = np.sin(2 * known[:, 0]) + known[:, 3] * known[:, variables + 2] + known[:, 2 * variables + 1]
    settings = {"num_leaves": 7, "learning_rate": 0.05, "use_missing": False, "num_threads": 1, "verbosity": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(known, label=label), number)
    forest = replace(plain, **packed(model, number))
    with_trees, without, out = forest._in_core(), plain._in_core(), np.empty((count, tasks), np.float32)

    def ours(i: int) -> Any:
        with_trees.apply(*requests[i % ROTATIONS], out, 1)
        return out

    def alone(i: int) -> Any:
        without.apply(*requests[i % ROTATIONS], out, 1)
        return out

    contenders: dict[str, Contender] = {OURS: ours, "correction without trees": alone}
    contenders["LightGBM"] = lambda i: model.predict(inputs[i % ROTATIONS], raw_score=True, num_threads=1)
    if (lleaves := optional("lleaves")) is not None:
        with tempfile.TemporaryDirectory() as directory:
            model.save_model(path := f"{directory}/trees.txt")
            compiled = lleaves.Model(path)
            compiled.compile()
        contenders["lleaves"] = lambda i: compiled.predict(inputs[i % ROTATIONS], n_jobs=1)
    peers = tuple(contenders)[2:]
    for i in (0, 1):
        moved = np.log(ours(i)[:, 0].astype(np.float64))
        moved -= np.log(alone(i)[:, 0].astype(np.float64))
        for name in peers:
            verify.close(name, "moves", contenders[name](i), torch.from_numpy(moved))
    shape = {"N": count, "T": tasks, "D": known.shape[1], "trees": number}
    notes = "pygrade corrects and makes the trees' inputs too; peers have theirs ready"
    timings = measure(contenders, SECONDS[quick])
    return Row("correction with trees", shape, timings, peers, beside=("correction without trees",), notes=notes)
