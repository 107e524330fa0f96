"""Each op on a device: inputs, our call, what a torch user would write, and the least that it must move.

    python -m bench.gpu.device_ops --device cuda      one small shape of each op, compared with the C++ core

That command is what compute-sanitizer watches. With ``--device cpu`` and TRITON_INTERPRET=1 kernels are interpreted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

import pygrade
from devtools.tolerances import assert_close, same_bits
from pygrade.ops.dispatch import use_backend

Shape = dict[str, int]
Inputs = dict[str, Any]
SMALL = {"B": 3, "N": 70, "T": 6, "G": 5, "k": 9, "C": 2}


@dataclass(frozen=True)
class DeviceOp:
    """One op. ``exact`` results have the bits of the C++ core, others its values within the tolerances."""

    name: str
    letters: str  # of the shape that it depends on
    ours: Callable[[Inputs], Any]
    eager: Callable[[Inputs], Any]
    elements: Callable[[Shape], int]  # float32 read or written at least
    exact: bool
    backward: bool = False  # `ours` and `eager` take gradients of the concentration, so graphs need a warm-up


def inputs(shape: Shape, device: str, seed: int = 0) -> Inputs:
    """Random inputs of every op, in the ranges that rankers see."""
    g = torch.Generator(device).manual_seed(seed)
    b, n, t, samples, k, c = (shape[letter] for letter in ("B", "N", "T", "G", "k", "C"))

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, device=device)

    concentration = 0.05 + 3.0 * rand(b, t)
    logs = torch.log_softmax(4.0 * rand(b, samples, t), -1)
    return {
        "concentration": concentration,
        "reference": concentration * 1.2,
        "scores": rand(b, n, t),
        "weights": logs[:, 0].exp().contiguous(),
        "group_weights": logs.exp().contiguous(),
        "log_weights": logs,
        "old_log_prob": rand(b, samples),
        "advantages": rand(b, samples) - 0.5,
        "rewards": rand(b, samples, c),
        "gains": rand(b, n, c),
        "list_scores": rand(b, min(n, 32)) if n else rand(b, 0),
        "list_gains": rand(b, min(n, 32)) if n else rand(b, 0),
        "discount": 1.0 / torch.log2(torch.arange(k, device=device) + 2.0),
        "bounds": torch.stack([torch.full((t,), 0.02, device=device), torch.full((t,), 0.6, device=device)]),
        "k": k,
        "samples": samples,
        "seed": seed,
    }


def _grpo(i: Inputs) -> tuple[Tensor, Tensor]:
    alpha = i["concentration"].detach().requires_grad_()
    found = pygrade.grpo_loss(alpha, i["log_weights"], i["old_log_prob"], i["advantages"], i["reference"])
    return found.loss.detach(), torch.autograd.grad(found.loss.sum(), alpha)[0]


def _grpo_eager(i: Inputs) -> tuple[Tensor, Tensor]:
    alpha = i["concentration"].detach().requires_grad_()
    policy = Dirichlet(alpha[:, None], validate_args=False)
    ratio = (policy.log_prob(i["log_weights"].exp()) - i["old_log_prob"]).clamp(-10.0, 10.0).exp()
    a = i["advantages"]
    objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean(-1)
    kl = kl_divergence(Dirichlet(alpha, validate_args=False), Dirichlet(i["reference"], validate_args=False))
    loss = 0.01 * kl - objective
    return loss.detach(), torch.autograd.grad(loss.sum(), alpha)[0]


def _lambda(i: Inputs) -> tuple[Tensor, Tensor]:
    scores = i["list_scores"].detach().requires_grad_()
    loss = pygrade.lambda_loss(scores, i["list_gains"], None, i["discount"])
    return loss.detach(), torch.autograd.grad(loss.sum(), scores)[0]


def _lambda_eager(i: Inputs) -> tuple[Tensor, Tensor]:
    """The pairwise logistic loss with weights |Δgain · Δdiscount| at the current ranks."""
    scores = i["list_scores"].detach().requires_grad_()
    gains, discount = i["list_gains"], i["discount"]
    ranks = scores.detach().argsort(-1, descending=True).argsort(-1)
    padded = torch.cat([discount, discount.new_zeros(scores.shape[1])])
    worth = padded[ranks]
    weight = ((gains[:, :, None] - gains[:, None]) * (worth[:, :, None] - worth[:, None])).abs()
    pairs = weight * (gains[:, :, None] > gains[:, None])
    loss = (pairs * torch.nn.functional.softplus(scores[:, None] - scores[:, :, None])).sum((1, 2))
    return loss.detach(), torch.autograd.grad(loss.sum(), scores)[0]


def _zlog_eager(i: Inputs) -> Tensor:
    x = torch.log(i["scores"] + 1e-7)
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True, unbiased=False) + 1e-3)


def _gain_eager(i: Inputs, weights: Tensor | None = None) -> Tensor:
    fused = torch.bmm(i["group_weights"] if weights is None else weights, i["scores"].mT)
    best = fused.topk(min(i["k"], fused.shape[-1]), -1).indices
    rows = torch.arange(len(best), device=best.device)[:, None, None]
    return (i["gains"][rows, best] * i["discount"][: best.shape[-1], None]).sum(2)


def _rollout(i: Inputs) -> Any:
    lists = (i["gains"], i["k"], i["discount"], i["samples"], i["seed"])
    return tuple(pygrade.rollout(i["concentration"], i["scores"], *lists, weight_bounds=i["bounds"]))


def _rollout_eager(i: Inputs) -> Any:
    policy = Dirichlet(i["concentration"], validate_args=False)
    weights = policy.sample((i["samples"],)).transpose(0, 1).contiguous()
    log_prob = policy.log_prob(weights.transpose(0, 1)).T
    low, high = i["bounds"]
    penalty = -((low - weights).clamp_min(0.0) + (weights - high).clamp_min(0.0)).sum(-1)
    return weights, weights.log(), log_prob, torch.cat([_gain_eager(i, weights), penalty[..., None]], -1)


def _sample_eager(i: Inputs) -> Any:
    policy = Dirichlet(i["concentration"], validate_args=False)
    weights = policy.sample((i["samples"],))
    return weights, weights.log(), policy.log_prob(weights)


def _advantage_eager(i: Inputs) -> Tensor:
    total = i["rewards"].sum(-1)
    centered = total - total.mean(1, keepdim=True)
    return (centered / centered.square().mean().sqrt().clamp_min(1e-12)).clamp(-5.0, 5.0)


OPS = (
    DeviceOp("dirichlet_sample", "BGT",
        lambda i: tuple(pygrade.dirichlet_sample(i["concentration"], i["samples"], i["seed"]))[:2],
        _sample_eager, lambda s: s["B"] * (s["T"] + 2 * s["G"] * s["T"] + s["G"]), True),
    DeviceOp("dirichlet_log_prob", "BGT",
        lambda i: pygrade.dirichlet_log_prob(i["concentration"], i["log_weights"]),
        lambda i: Dirichlet(i["concentration"][:, None], validate_args=False).log_prob(i["log_weights"].exp()),
        lambda s: s["B"] * (s["T"] + s["G"] * s["T"] + s["G"]), False),
    DeviceOp("dirichlet_entropy", "BT", lambda i: pygrade.dirichlet_entropy(i["concentration"]),
        lambda i: Dirichlet(i["concentration"], validate_args=False).entropy(), lambda s: s["B"] * (2 * s["T"] + 1),
        False),
    DeviceOp("dirichlet_kl", "BT", lambda i: pygrade.dirichlet_kl(i["concentration"], i["reference"]),
        lambda i: kl_divergence(Dirichlet(i["concentration"], validate_args=False),
                                Dirichlet(i["reference"], validate_args=False)),
        lambda s: s["B"] * (4 * s["T"] + 1), False),
    DeviceOp("transform_scores zlog", "BNT", lambda i: pygrade.transform_scores(i["scores"], "zlog"), _zlog_eager,
        lambda s: 2 * s["B"] * s["N"] * s["T"], True),
    DeviceOp("fuse_scores", "BNT", lambda i: pygrade.fuse_scores(i["scores"], i["weights"]),
        lambda i: torch.bmm(i["scores"], i["weights"][..., None])[..., 0],
        lambda s: s["B"] * (s["N"] * s["T"] + s["T"] + s["N"]), True),
    DeviceOp("fuse_scores group", "BNTG", lambda i: pygrade.fuse_scores(i["scores"], i["group_weights"]),
        lambda i: torch.bmm(i["group_weights"], i["scores"].mT),
        lambda s: s["B"] * (s["N"] * s["T"] + s["G"] * s["T"] + s["G"] * s["N"]), True),
    DeviceOp("fuse_topk", "BNTk", lambda i: tuple(pygrade.fuse_topk(i["scores"], i["weights"], i["k"])),
        lambda i: torch.bmm(i["scores"], i["weights"][..., None])[..., 0].topk(min(i["k"], i["scores"].shape[1])),
        lambda s: s["B"] * (s["N"] * s["T"] + s["T"] + 2 * s["k"]), True),
    DeviceOp("topk_gain", "BNTGkC",
        lambda i: pygrade.topk_gain(i["scores"], i["group_weights"], i["gains"], i["k"], i["discount"]), _gain_eager,
        lambda s: s["B"] * (s["N"] * (s["T"] + s["C"]) + s["G"] * (s["T"] + s["C"])), True),
    DeviceOp("group_advantage", "BGC", lambda i: pygrade.group_advantage(i["rewards"]), _advantage_eager,
        lambda s: s["B"] * s["G"] * (s["C"] + 1), False),
    DeviceOp("grpo_loss", "BGT", _grpo, _grpo_eager,
        lambda s: s["B"] * (3 * s["T"] + s["G"] * s["T"] + 2 * s["G"] + 5), False, backward=True),
    DeviceOp("lambda_loss", "BN", _lambda, _lambda_eager, lambda s: s["B"] * (3 * min(s["N"], 32) + 1), False,
        backward=True),
    DeviceOp("rollout", "BNTGkC", _rollout, _rollout_eager,
        lambda s: s["B"] * (s["N"] * (s["T"] + s["C"]) + s["T"] + s["G"] * (2 * s["T"] + s["C"] + 2)), True),
)  # fmt: skip


def tensors(result: Any) -> tuple[Tensor, ...]:
    """The result as a tuple of tensors."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def to(given: Inputs, device: str) -> Inputs:
    """The inputs on another device."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in given.items()}


def on_device(op: DeviceOp, given: Inputs) -> tuple[Tensor, ...]:
    """Our result from the Triton kernels, wherever the inputs lie."""
    with use_backend("triton"):
        return tensors(op.ours(given))


def exact_parts(op: DeviceOp, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What of a result is bound to the bits: of a rollout weights, log-weights and gains."""
    if not op.exact:
        return ()
    if op.name == "rollout":  # its log-probabilities and the format penalty, the last reward, have tolerances
        return parts[0], parts[1], parts[3][..., :-1].contiguous()
    return tuple(parts)


def verify(op: DeviceOp, given: Inputs, bits: bool = True) -> int:
    """Compare our result on the device with the C++ core's; the number of values, or AssertionError.

    Without ``bits`` tolerances alone count: Triton 3.6's interpreter rounds a fused multiply-add twice.
    """
    found = [part.cpu() for part in on_device(op, given)]
    with use_backend("cpu"):
        expected = tensors(op.ours(to(given, "cpu")))
    for place, (mine, theirs) in enumerate(zip(exact_parts(op, found), exact_parts(op, expected), strict=True)):
        assert not bits or same_bits(mine, theirs), f"{op.name}: exact result {place} has not the bits of the C++ core"
    for mine, theirs in zip(found, expected, strict=True):
        if mine.is_floating_point():
            assert_close(mine, theirs.double())
    return sum(part.numel() for part in found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.device_ops", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with TRITON_INTERPRET=1")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    options = parser.parse_args()
    for op in OPS:
        if options.only in op.name:
            print(f"{op.name}: {verify(op, inputs(SMALL, options.device))} values agree with the C++ core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
