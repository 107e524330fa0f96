"""The corner cases that the goldens hold. Inputs come from correctly rounded operations, the same on every machine."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = tuple[str, str, dict[str, Any]]  # name, op, arguments

OFFSETS = [0, 3, 3, 23, 24, 64]  # with an empty request


def random(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scores(batch: int, candidates: int, tasks: int, kind: str = "plain", seed: int = 0) -> Tensor:
    """Task predictions with the trouble that ``kind`` names."""
    values = random(batch, candidates, tasks, seed=seed)
    if kind == "ties":
        values = (values * 3.0).round() / 2.0
    elif kind == "equal":
        values = torch.full_like(values, 0.5)
    elif kind == "rising":
        values = values.sort(1).values
    elif kind == "special":
        for start, value in ((0, torch.nan), (1, torch.inf), (2, -torch.inf), (3, -0.0), (4, 1e-42), (5, 3e38)):
            values[:, start::9, 0] = value
    return values


def weights(*shape: int, seed: int = 1) -> Tensor:
    """Weight vectors, not normalized."""
    return random(*shape, seed=seed) + 0.25


def dirichlet() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(3)
    exponents = torch.randint(-13, 18, (8, 6), generator=generator)
    spread = torch.ldexp(1.0 + torch.rand(8, 6, generator=generator), exponents)
    spread[0], spread[1], spread[2] = 1e-30, 1e6, 1.0
    spread[3] = torch.tensor([1e-30, 1e6, 1.0, 0.5, 1e-4, 30.0])
    for name, alpha, count, seed, offset in (
        ("spread", spread, 9, 7, 0),
        ("one-task", torch.tensor([[0.3], [1e-30], [1e6]]), 5, -1, 0),
        ("two-tasks", torch.tensor([[1e-30, 1e-30], [1e6, 1e-30], [1.0, 1.0]]), 33, (1 << 63) - 1, 5),
        ("wide", 0.05 + 3.0 * random(2, 64, seed=4), 3, 1 << 40, (1 << 32) - 1),
        ("seventeen", 0.05 + 3.0 * random(2, 17, seed=5), 20, 0, (1 << 62) + 3),
        ("eight", 0.05 + 3.0 * random(6, 8, seed=6), 32, 11, 0),
    ):
        yield name, "dirichlet_sample", dict(concentration=alpha, num_samples=count, seed=seed, offset=offset)


def fusion() -> Iterator[Case]:
    offsets = torch.tensor(OFFSETS)
    for transform in ("identity", "log", "zscore", "zlog", "log1p"):
        plain = scores(2, 37, 5) * (torch.rand(37, 1, generator=torch.Generator().manual_seed(9)) > 0.1)
        yield f"transform-{transform}", "transform_scores", dict(scores=plain, transform=transform)
        jagged = dict(scores=plain.flatten(0, 1)[:64], transform=transform, offsets=offsets)
        yield f"transform-{transform}-jagged", "transform_scores", jagged
        for dtype in (torch.float16, torch.bfloat16):
            half = dict(scores=plain.to(dtype), transform=transform)
            yield f"transform-{transform}-{str(dtype)[6:]}", "transform_scores", half
    for tasks in (1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 33, 64):
        given = dict(scores=scores(1, 21, tasks, seed=tasks), weights=weights(1, 2, tasks))
        yield f"fuse-T{tasks}", "fuse_scores", given
    for kind in ("ties", "special"):
        yield f"fuse-{kind}", "fuse_scores", dict(scores=scores(2, 40, 6, kind), weights=weights(2, 6))
    given = dict(scores=scores(1, 64, 3)[0], weights=weights(5, 2, 3), offsets=offsets)
    yield "fuse-jagged", "fuse_scores", given
    for dtype in (torch.float16, torch.bfloat16):
        half = dict(scores=scores(2, 37, 6, "special").to(dtype), weights=weights(2, 2, 6))
        yield f"fuse-{str(dtype)[6:]}", "fuse_scores", half
    for name, size, kind, k in (
        ("empty", (2, 0, 3), "plain", 4),
        ("one", (2, 1, 4), "plain", 2),
        ("short", (2, 7, 1), "plain", 9),
        ("exact", (1, 64, 8), "plain", 64),
        ("power", (2, 100, 6), "plain", 32),
        ("odd", (2, 70, 8), "plain", 10),
        ("ties", (2, 300, 4), "ties", 50),
        ("equal", (1, 90, 5), "equal", 20),
        ("rising", (1, 1100, 4), "rising", 12),
        ("special", (2, 150, 4), "special", 150),
        ("wide", (1, 45, 33), "plain", 20),
        ("long", (1, 1500, 3), "ties", 200),
        ("parts", (1, 1700, 2), "ties", 200),
    ):
        given = dict(scores=scores(*size, kind), weights=weights(size[0], 2, size[2]), k=k)
        yield f"topk-{name}", "fuse_topk", given
    mask = random(2, 150, seed=5) < 0.4
    mask[1] = False
    masked = dict(scores=scores(2, 150, 6, "ties"), weights=weights(2, 6), k=20, transform="zlog", mask=mask)
    yield "topk-masked-zlog", "fuse_topk", masked
    jagged = dict(scores=scores(1, 64, 3)[0], weights=weights(5, 2, 3), k=6, offsets=offsets)
    yield "topk-jagged", "fuse_topk", jagged
    parts = dict(scores=scores(1, 3300, 1, "special")[0], weights=weights(2, 1), k=20)
    parts |= {"mask": random(3300, seed=6) < 0.01, "offsets": torch.tensor([0, 3200, 3300])}
    yield "topk-parts-jagged", "fuse_topk", parts
    half = dict(scores=scores(1, 200, 8, "special").bfloat16(), weights=weights(1, 8), k=30)
    yield "topk-bfloat16", "fuse_topk", half


def gains(batch: int, candidates: int, k: int) -> dict[str, Any]:
    """What `topk_gain` and `rollout` expected of the items: three components, two lists and all candidates."""
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(batch, 2, candidates, generator=generator) < 0.4
    masks[0, 0] = False
    return {
        "gains": 2.0 * torch.rand(batch, candidates, 3, generator=generator) - 1.0,
        "k": k,
        "discount": 1.0 / (torch.arange(k) + 1.0),
        "masks": masks,
        "component_list": torch.tensor([0, -1, 1], dtype=torch.int32),
    }


def gain() -> Iterator[Case]:
    for name, size, kind, k in (
        ("empty", (2, 0, 3), "plain", 4),
        ("one", (2, 1, 4), "plain", 2),
        ("plain", (2, 90, 6), "plain", 10),
        ("all", (1, 70, 9), "plain", 70),
        ("ties", (2, 120, 4), "ties", 33),
        ("special", (2, 100, 4), "special", 20),
        ("rising", (1, 700, 3), "rising", 9),
    ):
        batch, candidates, tasks = size
        lists = gains(batch, candidates, k)
        given = {"scores": scores(*size, kind), "weights": weights(batch, 24, tasks), **lists}
        yield name, "topk_gain", given
    plain = {name: v for name, v in gains(2, 60, 8).items() if name not in ("masks", "component_list")}
    yield (
        "one-list-zlog",
        "topk_gain",
        {"scores": scores(2, 60, 5), "weights": weights(2, 4, 5), **plain, "transform": "zlog"},
    )
    jagged = gains(1, 64, 5)
    jagged |= {"gains": jagged["gains"][0], "masks": jagged["masks"][0].contiguous()}
    given = {"scores": scores(1, 64, 3)[0], "weights": weights(5, 2, 3), **jagged}
    yield "jagged", "topk_gain", given | {"offsets": torch.tensor(OFFSETS)}


def rollout() -> Iterator[Case]:
    for name, (batch, candidates, tasks, samples), k, floor, seed in (
        ("eight-tasks", (3, 80, 8, 8), 10, 1e-5, 5),
        ("three-tasks", (2, 33, 3, 5), 33, 0.0, -9),
        ("one-candidate", (2, 1, 2, 4), 3, 0.0, 1),
        ("odd", (1, 300, 6, 17), 20, 1e-3, 1 << 50),
    ):
        given: dict[str, Any] = {
            "concentration": 0.05 + 3.0 * random(batch, tasks, seed=8),
            "scores": scores(batch, candidates, tasks, seed=seed % 97),
            "num_samples": samples,
            "seed": seed,
            "offset": 3,
            "weight_floor": floor,
            **gains(batch, candidates, k),
        }
        yield name, "rollout", given  # without weight bounds: the format penalty has a tolerance


def page(
    batch: int, candidates: int, width: int, k: int, seed: int, rules: bool, limits: bool = False
) -> dict[str, Any]:
    """A call of search_page. Embeddings have exact lengths: a few components of equal size, or none."""
    generator = torch.Generator().manual_seed(seed)
    rows = (batch, candidates)
    given: dict[str, Any] = {
        "value": random(*rows, seed=seed),
        "root": random(*rows, seed=seed + 1),
        "k": k,
        "attention": 1.0 / (torch.arange(k) + 1.0),
        "examination": 2.0 / (torch.arange(k) + 2.0),
        "categories": torch.randint(-1, 4, rows, generator=generator, dtype=torch.int32),
        "pairs": 2.0 * random(4, 4, seed=seed + 2) - 1.0,
    }
    if width:
        signs = torch.randint(-1, 2, (*rows, width), generator=generator).float()
        # numpy rounds square roots the same on every processor, torch does not
        length = torch.from_numpy(np.sqrt(signs.square().sum(-1, keepdim=True).clamp_min(1.0).numpy()))
        given |= {"embeddings": signs / length, "cosine": -0.7}
    if rules:
        given |= {
            "mask": random(*rows, seed=seed + 3) < 0.8,
            "boost_mul": random(*rows, seed=seed + 4) + 0.5,
            "boost_add": random(*rows, seed=seed + 5) - 0.9,
            "groups": torch.randint(-1, 5, (*rows, 2), generator=generator, dtype=torch.int32),
            "caps": [2, -1],
            **({"cap_slots": [3, -1], "decay": [0.7, 0.9]} if limits else {}),
            "pins": torch.randint(-candidates, candidates, (batch, k), generator=generator).clamp_min(-1).int(),
        }
    return given


def page_search() -> Iterator[Case]:
    for name, (batch, candidates, width, k), beam, rules in (
        ("empty", (2, 0, 3, 3), 1, False),
        ("one", (2, 1, 1, 3), 8, False),
        ("greedy", (2, 60, 17, 9), 1, False),
        ("greedy-rules", (2, 50, 64, 8), 1, True),
        ("categories", (2, 70, 0, 10), 1, False),
        ("beam", (1, 30, 16, 6), 8, False),
        ("beam-rules", (2, 20, 5, 5), 3, True),
        ("beam-short", (1, 4, 8, 6), 8, True),
    ):
        given = page(batch, candidates, width, k, 11, rules) | {"beam": beam}
        yield name, "search_page", given
    for beam in (1, 4):
        yield f"limits-{beam}", "search_page", page(2, 40, 9, 8, 15, True, limits=True) | {"beam": beam}
    special = page(1, 40, 4, 9, 12, False)
    special |= {"value": scores(1, 40, 1, "special")[..., 0], "root": scores(1, 40, 1, "ties")[..., 0]}
    yield "special", "search_page", special
    for objective in ("mmr", "log_det"):
        given = page(2, 40, 24, 7, 13, True) | {"objective": objective, "trade_off": 0.3, "root": None}
        given |= {"attention": None, "examination": None, "pairs": torch.eye(4), "cosine": 1.0}
        yield objective, "search_page", given
    jagged = {
        n: v[0] if torch.is_tensor(v) and v.shape[:1] == (1,) else v for n, v in page(1, 64, 9, 4, 14, False).items()
    }
    yield "jagged", "search_page", jagged | {"offsets": torch.tensor(OFFSETS), "beam": 2}


CASES = {"dirichlet": dirichlet, "fusion": fusion, "gain": gain, "page_search": page_search, "rollout": rollout}
