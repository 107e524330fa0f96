import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import fuse_topk, search_page
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits

FORMS = {
    "greedy": {},
    "beam": {"beam": 5},
    "mmr": {"objective": "mmr", "trade_off": 0.3},
    "log_det": {"objective": "log_det", "trade_off": 0.4},
}


def case_of(batch: int, candidates: int, width: int, k: int, form: str, seed: int = 0, rules: bool = True):
    """A call with everything that it may have; log_det gets similarity that is positive semidefinite."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, max(high, low + 1), shape, generator=generator, dtype=torch.int32)

    page_value = "objective" not in FORMS[form]
    call = {
        "value": rand(batch, candidates),
        "root": rand(batch, candidates) if page_value else None,
        "k": k,
        "categories": integers(-1, 3, batch, candidates),
        "pairs": 2.0 * rand(3, 3) - 1.0 if form != "log_det" else torch.eye(3),
        **FORMS[form],
    }
    if page_value:
        call |= {"attention": rand(k), "examination": rand(k)}
    if width:
        vectors = torch.randn(batch, candidates, width, generator=generator)
        call |= {"embeddings": torch.nn.functional.normalize(vectors, dim=-1), "cosine": 1.0}
        call["cosine"] = -0.6 if page_value else 1.0
        call["embeddings"][:, ::7] = 0.0  # no embedding
    if rules:
        pins = integers(-3 * k, candidates, batch, k).clamp_min(-1)
        call |= {"mask": rand(batch, candidates) < (0.8 if seed % 2 else 0.3), "pins": pins}
        call |= {"boost_mul": rand(batch, candidates) + 0.5, "boost_add": rand(batch, candidates) - 0.8}
        call |= {"groups": integers(-1, 4, batch, candidates, 3), "caps": [2, -1, 3] if seed % 3 else [1, 3, 0]}
        call |= {"cap_slots": [-1, 2, 3], "decay": [0.5, 1.0, 0.9]} if seed % 2 == 0 else {}
    return call


def on(backend: str, **call):
    with dispatch.use_backend(backend):
        return search_page(**call)


def page_values(call: dict, pages: torch.Tensor) -> torch.Tensor:
    """The values of pages[P, K] of the first request by their definition, in float64."""
    given = {name: v.double() if isinstance(v, torch.Tensor) else v for name, v in call.items()}
    value, root, vectors = given["value"][0], given["root"][0], given["embeddings"][0]
    own = call["categories"][0].long()
    known = (own[:, None] >= 0) & (own >= 0)
    similarity = torch.where(known, given["pairs"][own][:, own], 0.0)  # [above, below]
    similarity = similarity + given["cosine"] * (vectors @ vectors.T).clamp_min(0.0)
    total = torch.zeros(len(pages), dtype=torch.float64)
    for slot in range(pages.shape[1]):
        effect = torch.zeros(len(pages), dtype=torch.float64)
        for above in range(slot):
            effect += given["attention"][above] * similarity[pages[:, above], pages[:, slot]]
        item = pages[:, slot]
        total += given["examination"][slot] * (value[item] + root[item] * effect.exp())
    return total


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rules", [False, True], ids=["plain", "rules"])
@pytest.mark.parametrize(
    "shape", [(2, 0, 3, 2), (2, 1, 1, 2), (1, 3, 5, 7), (2, 20, 16, 5), (1, 70, 33, 6), (1, 41, 0, 9)]
)
def test_matches_the_reference(shape, rules, form):
    for seed in range(4):
        call = case_of(*shape, form, seed, rules)
        page, wanted = search_page(**call), on("reference", **call)
        assert torch.equal(page.indices, wanted.indices), seed
        assert_close(page.values, wanted.values.double())


def test_a_kernel_leaves_bad_offsets_and_categories_alone():
    call = case_of(1, 9, 3, 2, "greedy", 1, rules=False)
    call |= {n: v[0] for n, v in call.items() if isinstance(v, torch.Tensor) and v.shape[:2] == (1, 9)}
    wanted = search_page(**call | {"offsets": torch.tensor([0, 3, 5, 5, 9])})
    call["categories"][:3] += 3 * (call["categories"][:3] < 0)
    page = on("triton", **call | {"offsets": torch.tensor([0, 3, 5, 4, 4]), "validate": False})
    assert_equal([part[1] for part in page], [part[1] for part in wanted])
    assert page.indices[2].tolist() == [-1, -1] and page.values[2].tolist() == [-math.inf] * 2
    out_of_range = torch.where(call["categories"] == 2, 7, call["categories"])
    unknown = torch.where(call["categories"] == 2, -1, call["categories"])
    found = on("triton", **call | {"categories": out_of_range, "validate": False})
    assert_equal(found, search_page(**call | {"categories": unknown}))


SMALL = [("greedy", (2, 9, 5, 4)), ("beam", (1, 6, 3, 3)), ("mmr", (1, 9, 17, 4)), ("log_det", (1, 7, 5, 4))]
LARGE = [(form, shape) for form in FORMS for shape in ((2, 0, 3, 2), (1, 1, 1, 2), (2, 20, 16, 5), (3, 150, 20, 6))]


@pytest.mark.parametrize(("form", "shape"), [*SMALL, *(pytest.param(*x, marks=pytest.mark.slow) for x in LARGE)])
def test_triton_gives_the_bits_of_the_core(shape, form):
    for seed in range(2):
        call = case_of(*shape, form, seed, rules=seed == 0)
        page = search_page(**call)
        assert_equal(on("triton", **call), page)


@pytest.mark.parametrize("complements", [False, True])
def test_greedy_and_beam_against_every_page(complements):
    """All 2,520 pages of 5 of 7 items. Without complements the beam finds the best; with them greedy falls behind."""
    pages = torch.tensor(list(itertools.permutations(range(7), 5)))
    sums = dict.fromkeys(("best", "greedy", "beam"), 0.0)
    for seed in range(8):
        call = case_of(1, 7, 8, 5, "greedy", seed, rules=False)
        call["attention"] = 1.0 / torch.arange(1.0, 6.0) ** 0.7
        call["examination"] = call["attention"] * 0.9 ** torch.arange(5)
        chain = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
        call["pairs"] = -torch.eye(3) + chain * complements
        values = page_values(call, pages)
        sums["best"] += float(values.max())
        for name, beam in (("greedy", 1), ("beam", 8)):
            result = search_page(**call | {"beam": beam})
            (found,) = page_values(call, result.indices.long())
            assert float(found) == pytest.approx(
                float(result.values[0].double() @ call["examination"].double()), rel=1e-5
            )
            assert float(found) in values
            sums[name] += float(found)
    assert sums["greedy"] < sums["beam"] <= sums["best"]
    assert sums["beam"] >= (0.975 if complements else 0.9999) * sums["best"]
    assert sums["greedy"] >= (0.85 if complements else 0.995) * sums["best"]


def test_a_beam_that_keeps_every_prefix_finds_the_best_page():
    call = case_of(1, 8, 8, 3, "beam", 2, rules=False)
    pages = torch.tensor(list(itertools.permutations(range(8), 3)))
    best = pages[page_values(call, pages).argmax()]
    assert search_page(**call | {"beam": 64}).indices[0].tolist() == best.tolist()


def test_without_similarity_it_is_the_top_k():
    call = case_of(3, 90, 0, 12, "greedy", 8, rules=False) | {"categories": None, "pairs": None}
    value, root = call["value"], call["root"]
    value[:, ::9], root[:, 5::9] = 0.25, 0.5
    value[:, 3] = math.nan
    best = fuse_topk(torch.stack([value, root], -1), torch.ones(3, 2), 12)
    page = search_page(**call)
    assert torch.equal(page.indices, best.indices)
    assert same_bits(page.values, best.values)
    beam = search_page(**call | {"beam": 3, "examination": None})  # equal sums of float32 may be none
    assert_close(beam.values, best.values.double())


def test_log_det_is_the_greedy_determinant():
    """Each item maximizes the determinant of what is above and itself."""
    call = case_of(1, 12, 6, 5, "log_det", 3, rules=False)
    vectors = call["embeddings"][0].double()
    same = call["categories"][0][:, None] == call["categories"][0]
    matrix = vectors @ vectors.T + (same & (call["categories"][0] >= 0)).double()
    above: list[int] = []
    for item in search_page(**call).indices[0].tolist():

        def gain(i: int, above: list[int] = above) -> float:
            both = [*above, i]
            ratio = float(torch.linalg.det(matrix[both][:, both])) / float(torch.linalg.det(matrix[above][:, above]))
            return 0.4 * float(call["value"][0, i]) + 0.6 * math.log(max(ratio, 1e-6))

        assert item == max((i for i in range(12) if i not in above), key=gain)
        above.append(item)


@pytest.mark.parametrize("form", FORMS)
def test_jagged_equals_dense_request_by_request(form):
    call = case_of(3, 24, 10, 6, form, 5)
    rows = {n: v for n, v in call.items() if isinstance(v, torch.Tensor) and v.shape[:2] == (3, 24)}
    flat = {n: v.flatten(0, 1) for n, v in rows.items()}
    assert_equal(search_page(**call | flat | {"offsets": torch.arange(4) * 24}), search_page(**call))
    part = {n: v[2] for n, v in rows.items()} | {"pins": call["pins"][2]}
    assert_equal(search_page(**call | part), [x[2] for x in search_page(**call)])


def assert_equal(page, other) -> None:
    assert torch.equal(page[1], other[1])
    assert same_bits(page[0], other[0])


@pytest.mark.parametrize("beam", [1, 8])
def test_a_mask_that_leaves_few_changes_nothing_else(beam):
    """With few eligible candidates they are gathered first."""
    call = case_of(1, 60, 24, 8, "greedy", 2) | {"beam": beam}
    kept = call["mask"][0].nonzero()[:, 0]
    assert 2 * len(kept) < 60
    part = {n: v[:, kept] for n, v in call.items() if isinstance(v, torch.Tensor) and v.shape[:2] == (1, 60)}
    place = {int(i): n for n, i in enumerate(kept)}
    part["pins"] = torch.tensor([[place.get(int(pin), -1) for pin in call["pins"][0]]], dtype=torch.int32)
    values, indices = search_page(**call | part)
    assert_equal(search_page(**call), (values, torch.where(indices < 0, -1, kept[indices.long()].int())))


@given(st.integers(0, 10_000), st.sampled_from(sorted(FORMS)), st.integers(1, 30))
def test_a_page_obeys_its_rules(seed, form, candidates):
    call = case_of(1, candidates, 4, 7, form, seed)
    values, indices = (part[0] for part in search_page(**call))
    page = [int(i) for i in indices if i >= 0]
    assert len(set(page)) == len(page)
    assert all(bool(call["mask"][0, i]) for i in page)
    length = [n if n >= 0 else 7 for n in call.get("cap_slots", [-1] * 3)]
    for column, cap in enumerate(call["caps"]):
        members = [int(call["groups"][0, i, column]) for i in indices[: length[column]] if i >= 0]
        assert cap < 0 or all(members.count(group) <= cap for group in members if group >= 0)
    assert torch.equal(indices < 0, values == -math.inf)
    taken = set(page)
    for slot in (indices < 0).nonzero()[:, 0].tolist():  # an empty slot: nothing was left for it
        above = int((indices[:slot] >= 0).sum())
        for i in set(range(candidates)) - taken:
            groups = call["groups"][0]
            full = [
                cap >= 0 and above < length[a] and g >= 0 and sum(int(groups[j, a]) == g for j in taken) >= cap
                for a, (g, cap) in enumerate(zip(groups[i].tolist(), call["caps"], strict=True))
            ]
            assert any(full) or not call["mask"][0, i], slot
    count = {pin: call["pins"][0].tolist().count(pin) for pin in call["pins"][0].tolist()}
    for slot, pin in enumerate(call["pins"][0].tolist()):
        if pin in taken and count[pin] == 1 and call["mask"][0, pin]:
            assert int(indices[slot]) == pin or pin not in taken


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_are_no_numbers_rank_last(form):
    call = case_of(1, 6, 0, 6, form, 1, rules=False)
    call["value"] = torch.tensor([[math.nan, -math.inf, 1.0, math.inf, 1.0, 2.0]])
    call["categories"] = torch.full((1, 6), -1, dtype=torch.int32)
    if form in ("greedy", "beam"):
        call["root"] = torch.zeros(1, 6)
    page = search_page(**call)
    if form == "beam":  # sums with infinities are equal, or no numbers
        assert int(page.indices[0, 0]) == 3
    elif form != "log_det":
        assert page.indices[0].tolist() == [3, 5, 2, 4, 1, 0]


BY_HAND = dict.fromkeys(("root", "attention", "examination"))
REFUSED = [
    (BY_HAND | {"objective": "mmr", "beam": 2}, "beam is 2; expected 1 for mmr"),
    (BY_HAND | {"objective": "log_det", "trade_off": 1.5}, r"trade_off is 1\.5; expected 0 to 1"),
    ({"k": 0}, "k is 0; expected at least 1"),
    ({"beam": 65}, "beam is 65; expected at most 64"),
    ({"root": None}, "root is NoneType; expected a torch tensor or a numpy array"),
    ({"objective": "mrr"}, "objective is 'mrr'; expected one of page_value, mmr, log_det"),
    ({"objective": "mmr"}, "root is given; expected it for page_value alone"),
    ({"objective": "mmr", "root": None}, "attention is given; expected it for page_value alone"),
    ({"trade_off": 0.5}, "trade_off is 0.5; expected it for mmr and log_det alone"),
    ({"categories": None}, "categories and pairs go together; got pairs alone"),
    ({"embeddings": None}, "embeddings and cosine go together; got cosine alone"),
    ({"cosine": math.inf}, "cosine is inf; expected a finite number"),
    ({"groups": None}, "caps and decay go with groups"),
    ({"caps": None}, "groups is given alone"),
    ({"caps": [1]}, r"caps is of shape \[1\]; expected \[A\] = \[3\]"),
    ({"cap_slots": [0, 1, 1]}, r"cap_slots\[0\] is 0"),
    ({"decay": [0.5, 0.0, 1.0]}, r"decay\[1\] is 0"),
    ({"pairs": torch.zeros(2, 3)}, r"pairs is of shape \[2, 3\]; expected \[C, C\]"),
    ({"pairs": torch.full((3, 3), math.nan)}, "pairs is nan at 0; expected a finite number"),
    (
        {"categories": torch.full((1, 9), 3, dtype=torch.int32)},
        "categories is 3 at 0; expected -1 or more, and below 3",
    ),
    ({"attention": torch.ones(3)}, r"attention is of shape \[3\]; expected \[k\] = \[4\]"),
    ({"examination": -torch.ones(4)}, "examination is -1(.0*)? at 0; expected a finite number >= 0"),
    ({"embeddings": torch.ones(1, 9, 2)}, "embeddings is not of length 1 at candidate 0; expected unit vectors"),
    ({"embeddings": torch.ones(1, 9, 257)}, "embeddings has 257 components; expected 1 to 256"),
    ({"boost_mul": -torch.ones(1, 9)}, "boost_mul is -1(.0*)? at (candidate )?0; expected a finite factor >= 0"),
    ({"pins": torch.full((1, 4), 9, dtype=torch.int32)}, "pins is 9 at 0; expected -1 or more"),
    ({"pins": torch.zeros(1, 3, dtype=torch.int32)}, r"pins is of shape \[1, 3\]; expected \[B, k\] = \[1, 4\]"),
    ({"value": torch.zeros(1, 9, 1)}, r"value is of shape \[1, 9, 1\]; expected \[B, N\]"),
    ({"num_threads": 0}, "num_threads is 0; expected at least 1"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_a_bad_argument_is_named(changed, message):
    call = case_of(1, 9, 3, 4, "greedy", 1) | changed
    for backend in ("auto", "reference"):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            on(backend, **call)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_an_op_of_torch(form):
    call = case_of(2, 12, 4, 3, form, 1)
    names = ("value", "root", "k", "attention", "examination", "categories", "pairs", "embeddings")
    caps = torch.tensor(call["caps"], dtype=torch.int32)
    objective = ("page_value", "mmr", "log_det").index(call.get("objective", "page_value"))
    similarity = (call["cosine"], objective, call.get("beam", 1), call.get("trade_off", 0.5))
    limits = torch.tensor([2, -1, 1], dtype=torch.int32), torch.tensor([0.5, 1.0, 0.9])
    call |= dict(zip(("cap_slots", "decay"), limits, strict=True))
    rules = (call["mask"], call["boost_mul"], call["boost_add"], call["groups"], caps, *limits, call["pins"])
    arguments = (*(call.get(name) for name in names), *similarity, *rules)
    torch.library.opcheck(torch.ops.pygrade.search_page.default, arguments)
    assert_equal(torch.ops.pygrade.search_page(*arguments), search_page(**call))
