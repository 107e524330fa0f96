"""Random small calls of the ops with golden bits, as emulated PTX (``--emulate ARCH``) against the C++ core.

A call is made from its number alone. Sizes lie around those of a warp, a block and a buffer; scores have ties, NaN,
infinities, -0 and denormals; requests are jagged or empty, some masks admit nothing, some lists do not exist.
"""

import random

import pytest
import torch

from pygrade.ops.dispatch import use_backend
from pygrade.reference.tolerances import same_bits
from tests.goldens import OUTPUTS, Golden, cases

COUNT = 84  # of a fixed list


def call(number: int) -> Golden:
    """The call of a number."""
    choose = random.Random(number)
    pick = choose.choice
    op = tuple(OUTPUTS)[number % len(OUTPUTS)]
    batch, tasks, samples = pick((1, 2, 3)), pick((1, 2, 3, 5, 8, 16, 17)), pick((1, 2, 4, 5, 9, 33))
    count, k = pick((1, 2, 5, 31, 32, 33, 63, 64, 65, 97, 129, 200)), pick((1, 2, 7, 31, 32, 33, 64, 65, 130))
    concentration = torch.exp2(20 * cases.random(batch, tasks, seed=number) - 12)
    if op == "dirichlet_sample":
        given = dict(concentration=concentration, num_samples=samples, seed=choose.getrandbits(63), offset=3)
        return Golden(str(number), op, given, {})
    if op == "search_page":
        given = cases.page(
            batch, count, pick((0, 1, 5, 32, 33)), min(k, 33), number, pick((False, True)), pick((False, True))
        )
        if pick((False, True)):
            return Golden(str(number), op, given | {"beam": pick((1, 3, 8))}, {})
        by_hand = {"objective": pick(("mmr", "log_det")), "trade_off": 0.3, "pairs": torch.eye(4)}
        absent = dict.fromkeys(("root", "attention", "examination"))
        return Golden(str(number), op, given | by_hand | absent | ({"cosine": 1.0} if "cosine" in given else {}), {})
    transform = pick(("identity", "log", "zscore", "zlog", "log1p"))
    scores = cases.scores(batch, count, tasks, pick(("plain", "ties", "equal", "rising", "special")), number)
    if "log" in transform:
        scores = torch.where(scores < 0, -scores, scores)  # which keeps -0
    given = {"scores": scores.to(pick((torch.float32, torch.float32, torch.float16, torch.bfloat16)))}
    given |= {"transform": transform} if op != "rollout" else {"scores": scores}
    if op in ("fuse_scores", "fuse_topk", "topk_gain"):
        given["weights"] = cases.random(batch, samples, tasks, seed=number + 1) - 0.2
    if op == "fuse_topk":
        admitted = cases.random(batch, count, seed=number + 2) < pick((0, 0.1, 0.5, 1))
        given |= {"k": k} | ({"mask": admitted} if pick((False, True)) else {})
    if op in ("topk_gain", "rollout"):
        lists = cases.gains(batch, count, k)
        given |= lists if pick((False, True)) else {name: lists[name] for name in ("gains", "k", "discount")}
    if op == "rollout":
        given |= dict(concentration=concentration, num_samples=samples, seed=choose.getrandbits(60), offset=5)
        given["weight_floor"] = pick((0.0, 1e-5))
    elif pick((False, True)):  # jagged; requests end at random places
        ends = sorted(choose.randint(0, batch * count) for _ in range(batch - 1))
        for name in {"scores", "gains", "mask"} & set(given):
            given[name] = given[name].flatten(0, 1)
        if "masks" in given:
            given["masks"] = given["masks"].transpose(0, 1).flatten(1)
        given["offsets"] = torch.tensor([0, *ends, batch * count])
    return Golden(str(number), op, given, {})


def test_a_call_is_that_of_its_number():
    for number in range(COUNT):
        one, again = call(number).run(), call(number).run()
        assert all(same_bits(one[name], again[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_call_has_the_bits_of_the_core(number, pytestconfig, record_property):
    if not pytestconfig.getoption("--emulate"):
        pytest.skip("needs --emulate sm_90, and minutes to compile")
    made = call(number)
    with use_backend("triton"):
        compiled = made.run()
    with use_backend("cpu"):
        expected = made.run()
    assert all(same_bits(compiled[name], expected[name]) for name in expected), made.op
    record_property("bit-equal PTX of random calls, C++", sum(part.numel() for part in compiled.values()))
