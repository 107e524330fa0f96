"""Places beyond 32 bits: rows and elements far into files that are mapped and, but for a few pages, never written."""

import ast
from pathlib import Path

import pytest
import torch

import pygrade.kernels
from pygrade.kernels import fusion, gain
from pygrade.reference.tolerances import same_bits

ROWS, TASKS, COUNT, K = (1 << 31) + 64, 3, 20, 7  # elements of the last rows are beyond 2^32
OFFSETS = torch.tensor([ROWS - 70, ROWS - 50, ROWS - 50])  # one request of COUNT rows and one of none


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Makes zeros of a shape and dtype that take no room until they are written."""
    folder = tmp_path_factory.mktemp("mapped")

    def make(*shape, dtype):
        path = folder / "zeros"
        zeros = torch.from_file(str(path), shared=True, size=torch.Size(shape).numel(), dtype=dtype).view(shape)
        path.unlink()  # the mapping keeps it
        return zeros

    return make


@pytest.fixture(scope="module")
def far(mapped):
    """Scores float16 [ROWS, TASKS] whose request holds random ones, and those alone as [1, COUNT, TASKS]."""
    near = torch.rand(1, COUNT, TASKS, generator=torch.Generator().manual_seed(0)).half()
    scores = mapped(ROWS, TASKS, dtype=torch.float16)
    scores[int(OFFSETS[0]) : int(OFFSETS[1])] = near[0]
    return scores, near


pytestmark = pytest.mark.skipif("config.getoption('--device') == 'cuda'", reason="would copy 12 GB to the GPU")


def weights(batch: int) -> torch.Tensor:
    return torch.rand(1, 2, TASKS, generator=torch.Generator().manual_seed(1)).repeat(batch, 1, 1)


@pytest.mark.parametrize("parts", [1, 4])
def test_topk(far, mapped, parts, monkeypatch):
    monkeypatch.setattr(fusion, "parts_of", lambda *_: parts)
    scores, near = far
    found = torch.zeros(2, 2, K), torch.zeros(2, 2, K, dtype=torch.int32)
    expected = torch.zeros(1, 2, K), torch.zeros(1, 2, K, dtype=torch.int32)
    mask = mapped(ROWS, dtype=torch.bool)
    mask[int(OFFSETS[0]) : int(OFFSETS[1])] = torch.arange(COUNT) % 4 > 0
    admitted = (torch.arange(COUNT) % 4 > 0)[None]
    fusion.fuse_topk(scores, weights(2), K, "identity", mask, 0.0, 0.0, None, OFFSETS, *found)
    fusion.fuse_topk(near, weights(1), K, "identity", admitted, 0.0, 0.0, None, None, *expected)
    assert torch.equal(found[1][:1], expected[1]) and same_bits(found[0][:1], expected[0])
    assert (found[1][1] == -1).all()


@pytest.mark.parametrize("transform", ["identity", "zlog"])
def test_transforms_and_fused_scores(far, mapped, transform):
    scores, near = far
    values, alone = mapped(ROWS, TASKS, dtype=torch.float32), torch.zeros(1, COUNT, TASKS)
    fusion.transform_scores(scores, transform, 1e-7, 1e-3, None, OFFSETS, values)
    fusion.transform_scores(near, transform, 1e-7, 1e-3, None, None, alone)
    assert same_bits(values[int(OFFSETS[0]) : int(OFFSETS[1])].clone(), alone[0])
    fused, alone = mapped(2, ROWS, dtype=torch.float32), torch.zeros(1, 2, COUNT)
    fusion.fuse_scores(scores, weights(2), transform, 1e-7, 1e-3, None, OFFSETS, fused)
    fusion.fuse_scores(near, weights(1), transform, 1e-7, 1e-3, None, None, alone)
    assert same_bits(fused[:, int(OFFSETS[0]) : int(OFFSETS[1])].clone(), alone[0])


def test_gain(far, mapped):
    scores, near = far
    worth = torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(2))
    gains, masks = mapped(ROWS, 2, dtype=torch.float32), mapped(2, ROWS, dtype=torch.bool)
    gains[int(OFFSETS[0]) : int(OFFSETS[1])] = worth
    masks[1, int(OFFSETS[0]) : int(OFFSETS[1])] = torch.arange(COUNT) % 2 == 0
    listed = torch.tensor([1, -1], dtype=torch.int32)
    found, expected = torch.zeros(2, 2, 2), torch.zeros(1, 2, 2)
    rest = (torch.ones(K), masks, listed, "identity", 0.0, 0.0, None)
    gain.topk_gain(scores, weights(2), gains, *rest, OFFSETS, found)
    near_masks = torch.stack([torch.zeros(COUNT, dtype=torch.bool), torch.arange(COUNT) % 2 == 0])[None]
    gain.topk_gain(near, weights(1), worth[None], torch.ones(K), near_masks, *rest[2:], None, expected)
    assert same_bits(found[:1], expected) and float(expected.min()) > 0.0
    assert (found[1] == 0.0).all()


def widened_late(source: str) -> list[str]:
    """Products that become 64-bit integers after they were computed, when they may have overflowed."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(".to")
        and any(ast.unparse(argument) == "tl.int64" for argument in node.args)
        and any(isinstance(part, ast.Mult) for part in ast.walk(node))
    ]


def test_no_product_is_widened_after_it_may_have_overflowed():
    assert widened_late("place = (row * samples + g).to(tl.int64)") == ["(row * samples + g).to(tl.int64)"]
    assert widened_late("place = row.to(tl.int64) * samples") == []
    for path in Path(pygrade.kernels.__path__[0]).glob("*.py"):
        assert widened_late(path.read_text()) == [], path.name
