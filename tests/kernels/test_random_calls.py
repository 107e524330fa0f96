"""Random small calls of every op as emulated PTX (``--emulate ARCH``) against the C++ core.

A call is made from its number alone. Sizes lie around those of a warp, a block and a buffer; scores have ties, NaN,
infinities, -0 and denormals; requests are jagged or empty, some masks admit nothing, some lists do not exist.
"""

import random
from collections.abc import Callable
from dataclasses import astuple, dataclass, is_dataclass

import pytest
import torch
from torch import Tensor

from devtools.tolerances import assert_close, same_bits
from pygrade import ops
from pygrade.ops.dispatch import use_backend

COUNT = 115  # of a fixed list
SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 3e38])


@dataclass(frozen=True)
class RandomCall:
    """A call, and how many of its first results have the bits of the core; the others are close to them."""

    name: str
    call: Callable[[], object]
    exact: int = 0

    def results(self, backend: str) -> list[Tensor]:
        with use_backend(backend):
            result = self.call()
        parts = result if isinstance(result, tuple) else astuple(result) if is_dataclass(result) else (result,)
        return [part.detach().clone() for part in parts if isinstance(part, Tensor)]


class Maker:
    """Makes the call of a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.choose = random.Random(number)
        self.generator = torch.Generator().manual_seed(number)
        pick = self.choose.choice
        self.batch, self.tasks, self.samples = pick((1, 2, 3)), pick((1, 2, 3, 5, 8, 16, 17)), pick((1, 2, 4, 5, 9, 33))
        self.candidates = pick((1, 2, 5, 31, 32, 33, 63, 64, 65, 97, 129, 200))
        self.k = pick((1, 2, 7, 31, 32, 33, 64, 65, 130))
        self.components, self.lists = pick((1, 2, 3)), pick((0, 1, 2))
        self.transform = pick(("identity", "log", "zscore", "zlog", "log1p"))
        self.offsets = None

    def make(self) -> RandomCall:
        name = OPS[self.number % len(OPS)]
        return getattr(self, name)()

    # ---- inputs
    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def concentration(self) -> Tensor:
        return torch.exp2(20 * self.uniform(self.batch, self.tasks) - 12)

    def log_weights(self) -> Tensor:
        return torch.log_softmax(6 * self.uniform(self.batch, self.samples, self.tasks), -1)

    def scores(self, *shape: int) -> Tensor:
        x = self.uniform(*shape)
        kind = self.choose.choice(("plain", "ties", "equal", "negative", "huge", "special"))
        if kind == "special":
            places = self.uniform(*shape) < 0.2
            x[places] = SPECIAL[torch.randint(len(SPECIAL), (int(places.sum()),), generator=self.generator)]
        huge = 1e17 if self.transform == "zscore" else 1e38  # kernels sum squares in float32, see `_moments_kernel`
        changed = {"ties": (3 * x).round() / 2, "equal": x * 0 + 0.5, "negative": x - 0.5, "huge": (x - 0.5) * huge}
        x = changed.get(kind, x)
        if self.transform in ("log", "zlog", "log1p"):
            x = torch.where(x < 0, -x, x)  # which keeps -0
        return x.to(self.choose.choice((torch.float32,) * 3 + (torch.float16, torch.bfloat16)))

    def items(self, jagged: bool) -> tuple[int, ...]:
        """The shape of the candidates; if they are jagged, requests end at random places."""
        if not jagged or self.choose.random() < 0.5:
            return self.batch, self.candidates
        rows = self.batch * self.candidates
        ends = sorted(self.choose.randint(0, rows) for _ in range(self.batch - 1))
        self.offsets = torch.tensor([0, *ends, rows])
        return (rows,)

    def weights(self) -> Tensor:
        return self.uniform(self.batch, self.samples, self.tasks) - 0.2

    def gains(self, items: tuple[int, ...]) -> tuple[object, ...]:
        """Gains, k, discount, masks and lists of the components."""
        gains = self.uniform(*items, self.components) - 0.3
        shape = (self.lists, *items) if len(items) == 1 else (items[0], self.lists, items[1])
        lists = torch.randint(-1, max(1, self.lists), (self.components,), generator=self.generator).int()
        masks = (self.uniform(*shape) < 0.4, lists) if self.lists else (None, None)
        return gains, self.k, 1 / (1.0 + torch.arange(self.k)), *masks

    # ---- ops
    def transform_scores(self) -> RandomCall:
        scores, by = self.scores(*self.items(True), self.tasks), self.transform
        return RandomCall(f"transform {by}", lambda: ops.transform_scores(scores, by, offsets=self.offsets), 1)

    def fuse_scores(self) -> RandomCall:
        scores, weights, by = self.scores(*self.items(True), self.tasks), self.weights(), self.transform
        return RandomCall(f"fuse {by}", lambda: ops.fuse_scores(scores, weights, by, offsets=self.offsets), 1)

    def fuse_topk(self) -> RandomCall:
        items = self.items(True)
        scores, weights, by, k = self.scores(*items, self.tasks), self.weights(), self.transform, self.k
        mask = self.uniform(*items) < self.choose.choice((0, 0.1, 0.5, 1)) if self.choose.random() < 0.5 else None
        return RandomCall(
            f"topk {by}", lambda: ops.fuse_topk(scores, weights, k, by, mask=mask, offsets=self.offsets), 2
        )

    def topk_gain(self) -> RandomCall:
        items = self.items(True)
        scores, weights, by = self.scores(*items, self.tasks), self.weights(), self.transform
        gains = self.gains(items)
        return RandomCall(f"gain {by}", lambda: ops.topk_gain(scores, weights, *gains, by, offsets=self.offsets), 1)

    def rollout(self) -> RandomCall:
        items = self.items(False)
        concentration, scores = 0.05 + 3 * self.uniform(self.batch, self.tasks), self.scores(*items, self.tasks).float()
        item_gains, k, discount, *lists = self.gains(items)
        bounds = torch.stack([self.uniform(self.tasks) / 4, 0.5 + self.uniform(self.tasks) / 2])
        limits = bounds if self.choose.random() < 0.5 else None
        seed, floor = self.choose.getrandbits(60), self.choose.choice((0.0, 1e-5))
        rest = (k, discount, self.samples, seed, 5, *lists, limits, floor)

        def call() -> tuple[Tensor, ...]:
            found = ops.rollout(concentration, scores, item_gains, *rest)
            gains, penalty = found.rewards[..., : self.components], found.rewards[..., self.components :]
            return found.weights, found.log_weights, gains, penalty, found.log_prob

        return RandomCall("rollout", call, 3)

    def dirichlet_sample(self) -> RandomCall:
        concentration, samples, seed = self.concentration(), self.samples, self.choose.getrandbits(63)
        return RandomCall("sample", lambda: ops.dirichlet_sample(concentration, samples, seed, 3)[:2], 2)

    def dirichlet_log_prob(self) -> RandomCall:
        concentration, logs, floor = self.concentration(), self.log_weights(), self.choose.choice((0.0, 1e-5))
        return RandomCall("log_prob", lambda: ops.dirichlet_log_prob(concentration, logs, floor))

    def dirichlet_entropy(self) -> RandomCall:
        concentration = self.concentration()
        return RandomCall("entropy", lambda: ops.dirichlet_entropy(concentration))

    def dirichlet_kl(self) -> RandomCall:
        one, other = self.concentration(), self.concentration()
        return RandomCall("kl", lambda: ops.dirichlet_kl(one, other))

    def grpo_loss(self) -> RandomCall:
        rows, reference = (0.05 + 3 * self.uniform(self.batch, self.tasks) for _ in range(2))
        logs, advantages = self.log_weights(), self.uniform(self.batch, self.samples) - 0.5
        old = ops.dirichlet_log_prob(rows, logs, 1e-5) + 0.1 * self.uniform(self.batch, self.samples)
        return RandomCall("grpo", lambda: ops.grpo_loss(rows, logs, old, advantages, reference))

    def group_advantage(self) -> RandomCall:
        rewards = self.uniform(self.batch, self.samples, self.components)
        importance = self.uniform(self.components) + 0.1
        by, leave_one_out = self.choose.choice(("none", "group", "batch", "component")), self.choose.random() < 0.5
        return RandomCall(f"advantage {by}", lambda: ops.group_advantage(rewards, importance, by, leave_one_out))

    def lambda_loss(self) -> RandomCall:
        scores, gains = self.uniform(self.batch, self.candidates), self.uniform(self.batch, self.candidates)
        mask = self.uniform(self.batch, self.candidates) < 0.7 if self.choose.random() < 0.5 else None
        discount = 1 / (1.0 + torch.arange(self.candidates))
        return RandomCall("lambda", lambda: ops.lambda_loss(scores, gains, mask, discount))

    def search_page(self) -> RandomCall:
        items, k, width = self.items(True), min(self.k, 33), self.choose.choice((0, 1, 5, 32, 33))
        by = self.choose.choice(("page_value", "page_value", "mmr", "log_det"))
        given = {"objective": by, "offsets": self.offsets, "beam": self.choose.choice((1, 1, 3, 8))}
        given |= {"categories": torch.randint(-1, 4, items, generator=self.generator).int()}
        given |= {"pairs": 2 * self.uniform(4, 4) - 1} if by == "page_value" else {"pairs": torch.eye(4), "beam": 1}
        if width:  # a few components of equal size, or none: exactly of length 1
            signs = torch.randint(-1, 2, (*items, width), generator=self.generator).float()
            lengths = signs.square().sum(-1, keepdim=True).clamp_min(1).sqrt()
            given |= {"embeddings": signs / lengths, "cosine": 0.7 if by == "page_value" else 1.0}
        if self.choose.random() < 0.5:
            given |= {"mask": self.uniform(*items) < 0.6, "boost_mul": self.uniform(*items) + 0.5}
            groups = torch.randint(-1, 5, (*items, 2), generator=self.generator).int()
            given |= {"groups": groups, "caps": [2, -1]}
        value, root = self.uniform(*items), self.uniform(*items) if by == "page_value" else None
        value = (3 * value).round() / 2 if self.choose.random() < 0.3 else value
        attention = self.uniform(k) if by == "page_value" else None
        return RandomCall(f"search {by}", lambda: ops.search_page(value, root, k, attention, attention, **given), 2)


OPS = (
    "fuse_topk", "topk_gain", "rollout", "fuse_scores", "transform_scores", "dirichlet_sample", "dirichlet_log_prob",
    "grpo_loss", "group_advantage", "lambda_loss", "fuse_topk", "topk_gain", "rollout", "dirichlet_entropy",
    "dirichlet_kl", "search_page",
)  # fmt: skip


def test_a_call_is_that_of_its_number():
    """Numbers alone make calls, and every op is among them."""
    names = [Maker(number).make().name for number in range(COUNT)]
    assert names == [Maker(number).make().name for number in range(COUNT)] and len(
        {n.split()[0] for n in names}
    ) == len(set(OPS))
    one, again = (Maker(4).make().results("cpu") for _ in range(2))
    assert all(map(same_bits, one, again))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_call_has_the_results_of_the_core(number, pytestconfig, record_property):
    if not pytestconfig.getoption("--emulate"):
        pytest.skip("needs --emulate sm_90, and minutes to compile")
    made = Maker(number).make()
    compiled, expected = made.results("triton"), made.results("cpu")
    for place, (actual, wanted) in enumerate(zip(compiled, expected, strict=True)):
        if place < made.exact:
            assert same_bits(actual, wanted), made.name
        else:
            assert_close(actual, wanted)
    exact = sum(part.numel() for part in compiled[: made.exact])
    record_property("bit-equal PTX of random calls, C++", exact)
