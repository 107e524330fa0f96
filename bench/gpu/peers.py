"""Calls of other libraries on a GPU. Those that are not installed are skipped, with the name of their package."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cpu.harness import optional

Run = Callable[[], Any]


class Peer(NamedTuple):
    """A call of a library beside an op, made of the module and the inputs of `device_ops.inputs`."""

    op: str
    name: str
    module: str
    package: str  # for pip
    same: bool  # it computes what the op does; False: the nearest that the library has, of the same sizes
    make: Callable[[Any, dict[str, Any]], Run]


def _topk(flashinfer: Any, i: dict[str, Any]) -> Run:
    scores, weights, k = i["scores"].float(), i["weights"][..., None], min(i["k"], i["scores"].shape[1])
    return lambda: flashinfer.top_k(torch.bmm(scores, weights)[..., 0], k, sorted=True)


def _sampling(sampling: Any, i: dict[str, Any]) -> Run:
    """A token among T instead of T weights."""
    return partial(sampling.sampling_from_probs, i["group_weights"].flatten(0, 1))


def _grpo(liger: Any, i: dict[str, Any]) -> Run:
    """A sequence of one token among T for each sample, and its gradient; its last logits are of no token."""
    logits = i["log_weights"].flatten(0, 1)[:, None].repeat(1, 2, 1).requires_grad_()
    old = i["old_log_prob"].flatten()[:, None]
    tokens, settings = torch.zeros_like(old, dtype=torch.long), {"temperature": 1.0, "beta": 0.01, "inplace": False}

    def run() -> tuple[Tensor, Tensor]:
        loss = liger.triton_grpo_loss(logits, old, old, tokens, i["advantages"].flatten(), **settings)[0]
        return loss, torch.autograd.grad(loss.sum(), logits)[0]

    return run


PEERS = (
    Peer("fuse_topk", "FlashInfer top_k", "flashinfer", "flashinfer-python", True, _topk),
    Peer("dirichlet_sample", "FlashInfer sampling", "flashinfer.sampling", "flashinfer-python", False, _sampling),
    Peer("grpo_loss", "Liger GRPO", "liger_kernel.transformers.grpo_loss", "liger-kernel", False, _grpo),
)


def libraries(op: str, given: dict[str, Any], skipped: dict[str, str]) -> dict[str, Callable[[], Run]]:
    """By name what makes a peer of an op; those that are not installed are noted in ``skipped``."""
    peers = {peer: optional(peer.module) for peer in PEERS if peer.op == op}
    skipped |= {peer.name: f"not installed: pip install {peer.package}" for peer in peers if peers[peer] is None}
    return {peer.name: partial(peer.make, module, given) for peer, module in peers.items() if module is not None}
