"""Calls of other libraries on a GPU. Those that are not installed are skipped, with the name of their package."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..cpu.harness import optional

Run = Callable[[], Any]


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


# Of an op: name, module, package for pip, and the call, made of the module and the inputs of `device_ops.inputs`.
PEERS = {
    "fuse_topk": ("FlashInfer top_k", "flashinfer", "flashinfer-python", _topk),
    "dirichlet_sample": ("FlashInfer sampling", "flashinfer.sampling", "flashinfer-python", _sampling),
    "grpo_loss": ("Liger GRPO", "liger_kernel.transformers.grpo_loss", "liger-kernel", _grpo),
}
SAME = ("FlashInfer top_k",)  # as the op; the others are the nearest that their library has, of the same sizes


def library(op: str, given: dict[str, Any], skipped: dict[str, str]) -> dict[str, Callable[[], Run]]:
    """By name what makes the peer of an op; one that is not installed is noted in ``skipped``."""
    if op not in PEERS:
        return {}
    name, path, package, make = PEERS[op]
    if (module := optional(path)) is None:
        skipped[name] = f"not installed: pip install {package}"
        return {}
    return {name: partial(make, module, given)}
