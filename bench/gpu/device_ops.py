"""Each op on a device: inputs, our call, the same in plain torch, and the nearest of other libraries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

import pygrade
from pygrade.ops.dispatch import use_backend
from pygrade.reference.tolerances import assert_close, same_bits
from ..cpu import gain, training

Shape = dict[str, int]
Inputs = dict[str, Any]
Run = Callable[[], Any]
SMALL = {"B": 3, "N": 70, "T": 6, "G": 5, "k": 9, "C": 2}
LIST = 32  # candidates of a list of lambda_loss


@dataclass(frozen=True)
class DeviceOp:
    """One op. ``exact`` results equal the C++ core's bit for bit, others within the tolerances."""

    name: str
    letters: str  # the sizes in its shape
    ours: Callable[[Inputs], Any]
    eager: Callable[[Inputs], Any]
    exact: bool = False
    backward: bool = False  # `ours` and `eager` take gradients, so graphs need a warm-up

    def sizes(self, shape: Shape) -> Shape:
        """The sizes of its arguments."""
        own = {letter: shape[letter] for letter in self.letters}
        return own | {name: size(shape) for name, size in FURTHER.get(self.name, {}).items()}


def inputs(shape: Shape, device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Random inputs of every op, in realistic ranges; ``dtype``: of the scores."""
    g = torch.Generator(device).manual_seed(seed)
    b, n, t, samples, k, c = (shape[letter] for letter in ("B", "N", "T", "G", "k", "C"))

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, device=device)

    concentration = 0.05 + 3.0 * rand(b, t)
    logs = torch.log_softmax(4.0 * rand(b, samples, t), -1)
    return {
        "concentration": concentration,
        "reference": concentration * 1.2,
        "scores": rand(b, n, t).to(dtype),
        "weights": logs[:, 0].exp().contiguous(),
        "group_weights": logs.exp().contiguous(),
        "log_weights": logs,
        "old_log_prob": rand(b, samples),
        "advantages": rand(b, samples) - 0.5,
        "rewards": rand(b, samples, c),
        "gains": rand(b, n, c),
        "list_scores": rand(b, min(n, LIST)),
        "list_gains": rand(b, min(n, LIST)),
        "discount": 1.0 / torch.log2(torch.arange(k, device=device) + 2.0),
        "bounds": torch.stack([torch.full((t,), 0.02, device=device), torch.full((t,), 0.6, device=device)]),
        "roots": rand(b, n),
        "categories": (8 * rand(b, n)).int(),
        "pairs": -rand(8, 8),
        "vectors": torch.nn.functional.normalize(rand(b, n, 8 * t) - 0.5, dim=-1),
        "transform": "zlog",
        "k": k,
        "samples": samples,
        "seed": seed,
    }


def _with_gradient(loss: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    leaf = given.detach().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def _draws(i: Inputs) -> tuple[Tensor, ...]:
    return i["log_weights"], i["old_log_prob"], i["advantages"], i["reference"]


def _grpo(i: Inputs) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda alpha: pygrade.grpo_loss(alpha, *_draws(i)).loss, i["concentration"])


def _grpo_eager(i: Inputs) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda alpha: training.plain_grpo_loss(alpha, *_draws(i)), i["concentration"])


def _lambda(i: Inputs) -> tuple[Tensor, Tensor]:
    return _with_gradient(lambda s: pygrade.lambda_loss(s, i["list_gains"], None, i["discount"]), i["list_scores"])


def _lambda_eager(i: Inputs) -> tuple[Tensor, Tensor]:
    discount = torch.cat([i["discount"], i["discount"].new_zeros(i["list_scores"].shape[1])])
    return _with_gradient(lambda s: training.plain_lambda_loss(s, i["list_gains"], discount), i["list_scores"])


def _zlog_eager(i: Inputs) -> Tensor:
    x = torch.log(i["scores"].float() + 1e-7)
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True, unbiased=False) + 1e-3)


def _gain_eager(i: Inputs, weights: Tensor | None = None) -> Tensor:
    weights, discount = i["group_weights"] if weights is None else weights, i["discount"][: i["scores"].shape[1]]
    return gain.torch_gain(i["scores"].float(), weights, i["gains"], discount)


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


def _sample(i: Inputs) -> Any:
    return tuple(pygrade.dirichlet_sample(i["concentration"], i["samples"], i["seed"]))[:2]


def _log_prob_eager(i: Inputs) -> Tensor:
    return Dirichlet(i["concentration"][:, None], validate_args=False).log_prob(i["log_weights"].exp())


def _entropy_eager(i: Inputs) -> Tensor:
    return Dirichlet(i["concentration"], validate_args=False).entropy()


def _kl_eager(i: Inputs) -> Tensor:
    policy, reference = (Dirichlet(i[name], validate_args=False) for name in ("concentration", "reference"))
    return kl_divergence(policy, reference)


def _fuse_eager(i: Inputs) -> Tensor:
    return torch.bmm(i["scores"].float(), i["weights"][..., None])[..., 0]


def _fuse_group_eager(i: Inputs) -> Tensor:
    return torch.bmm(i["group_weights"], i["scores"].float().mT)


def _topk_eager(i: Inputs) -> Any:
    return _fuse_eager(i).topk(min(i["k"], i["scores"].shape[1]))


def _op(name: str, *arguments: str) -> Callable[[Inputs], Any]:
    """A call of pygrade's op on the inputs of these names."""
    return lambda i: getattr(pygrade, name)(*(i[argument] for argument in arguments))


def _search(i: Inputs) -> Any:
    terms = {"categories": i["categories"], "pairs": i["pairs"], "embeddings": i["vectors"], "cosine": -0.5}
    return pygrade.search_page(i["gains"][..., 0], i["roots"], i["k"], i["discount"], **terms)


def _search_eager(i: Inputs) -> Any:
    """Greedy, slot by slot."""
    value, effect = i["gains"][..., 0], torch.zeros_like(i["roots"])
    taken = torch.zeros_like(effect, dtype=torch.bool)
    scores, items = [], []
    for slot in range(min(i["k"], value.shape[1])):
        score = (value + i["roots"] * effect.exp()).masked_fill(taken, -torch.inf)
        best, item = score.max(1, keepdim=True)
        taken.scatter_(1, item, True)
        cosine = (i["vectors"] @ i["vectors"].gather(1, item[..., None].expand(-1, -1, i["vectors"].shape[2])).mT)[
            ..., 0
        ]
        pair = i["pairs"][i["categories"].gather(1, item).long(), i["categories"].long()]
        effect = effect + i["discount"][slot] * (pair - 0.5 * cosine.clamp_min(0.0))
        scores.append(best)
        items.append(item)
    return torch.cat(scores, 1), torch.cat(items, 1).int()


_GAIN = ("scores", "group_weights", "gains", "k", "discount")
OPS = (
    DeviceOp("dirichlet_sample", "BGT", _sample, _sample_eager, exact=True),
    DeviceOp("dirichlet_log_prob", "BGT", _op("dirichlet_log_prob", "concentration", "log_weights"), _log_prob_eager),
    DeviceOp("dirichlet_entropy", "BT", _op("dirichlet_entropy", "concentration"), _entropy_eager),
    DeviceOp("dirichlet_kl", "BT", _op("dirichlet_kl", "concentration", "reference"), _kl_eager),
    DeviceOp("transform_scores zlog", "BNT", _op("transform_scores", "scores", "transform"), _zlog_eager, exact=True),
    DeviceOp("fuse_scores", "BNT", _op("fuse_scores", "scores", "weights"), _fuse_eager, exact=True),
    DeviceOp("fuse_scores group", "BNTG", _op("fuse_scores", "scores", "group_weights"), _fuse_group_eager, exact=True),
    DeviceOp("fuse_topk", "BNTk", _op("fuse_topk", "scores", "weights", "k"), _topk_eager, exact=True),
    DeviceOp("topk_gain", "BNTGkC", _op("topk_gain", *_GAIN), _gain_eager, exact=True),
    DeviceOp("group_advantage", "BGC", _op("group_advantage", "rewards"), _advantage_eager),
    DeviceOp("grpo_loss", "BGT", _grpo, _grpo_eager, backward=True),
    DeviceOp("lambda_loss", "BNk", _lambda, _lambda_eager, backward=True),
    DeviceOp("rollout", "BNTGkC", _rollout, _rollout_eager, exact=True),
    DeviceOp("search_page", "BNk", _search, _search_eager, exact=True),
)
FURTHER: dict[str, dict[str, Callable[[Shape], int]]] = {
    "lambda_loss": {"N": lambda shape: min(shape["N"], LIST)},
    "rollout": {"bounds": lambda shape: 2},
    "search_page": {"d": lambda shape: 8 * shape["T"], "categories": lambda shape: 8, "curves": lambda shape: 1},
}


def _flashinfer_topk(flashinfer: Any, i: Inputs) -> Run:
    scores, weights, k = i["scores"].float(), i["weights"][..., None], min(i["k"], i["scores"].shape[1])
    return lambda: flashinfer.top_k(torch.bmm(scores, weights)[..., 0], k, sorted=True)


def _flashinfer_sampling(sampling: Any, i: Inputs) -> Run:
    """A token among T instead of T weights."""
    return partial(sampling.sampling_from_probs, i["group_weights"].flatten(0, 1))


def _liger_grpo(liger: Any, i: Inputs) -> Run:
    """A sequence of one token among T for each sample, and its gradient; its last logits are of no token."""
    logits = i["log_weights"].flatten(0, 1)[:, None].repeat(1, 2, 1).requires_grad_()
    old = i["old_log_prob"].flatten()[:, None]
    tokens, settings = torch.zeros_like(old, dtype=torch.long), {"temperature": 1.0, "beta": 0.01, "inplace": False}

    def run() -> tuple[Tensor, Tensor]:
        loss = liger.triton_grpo_loss(logits, old, old, tokens, i["advantages"].flatten(), **settings)[0]
        return loss, torch.autograd.grad(loss.sum(), logits)[0]

    return run


# The peer of an op: name, module, package for pip, and the call, made of the module and the inputs of `inputs`.
PEERS = {
    "fuse_topk": ("FlashInfer top_k", "flashinfer", "flashinfer-python", _flashinfer_topk),
    "dirichlet_sample": ("FlashInfer sampling", "flashinfer.sampling", "flashinfer-python", _flashinfer_sampling),
    "grpo_loss": ("Liger GRPO", "liger_kernel.transformers.grpo_loss", "liger-kernel", _liger_grpo),
}
EQUAL = ("FlashInfer top_k",)  # as the op; the others are the nearest that their library has, of the same sizes


def tensors(result: Any) -> tuple[Tensor, ...]:
    """The result as a tuple of tensors."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def to(given: Inputs, device: str) -> Inputs:
    """The inputs on another device."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in given.items()}


def on_device(op: DeviceOp, given: Inputs) -> tuple[Tensor, ...]:
    """Our result from the Triton kernels, on any device."""
    with use_backend("triton"):
        return tensors(op.ours(given))


def exact_parts(op: DeviceOp, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parts of a result that are equal bit for bit: weights, log-weights and gains of a rollout."""
    if not op.exact:
        return ()
    if op.name == "rollout":  # log-probabilities and the penalty, its last reward, have tolerances
        return parts[0], parts[1], parts[3][..., :-1].contiguous()
    return tuple(parts)


def verify(op: DeviceOp, given: Inputs, bits: bool = True) -> int:
    """Compare our result on the device with the C++ core's. Returns the number of values.

    Without ``bits`` only tolerances count: Triton 3.6's interpreter rounds a fused multiply-add twice.
    """
    actual = [part.cpu() for part in on_device(op, given)]
    with use_backend("cpu"):
        expected = tensors(op.ours(to(given, "cpu")))
    for place, (mine, theirs) in enumerate(zip(exact_parts(op, actual), exact_parts(op, expected), strict=True)):
        assert not bits or same_bits(mine, theirs), f"{op.name}: exact result {place} differs from the C++ core's"
    for mine, theirs in zip(actual, expected, strict=True):
        if mine.is_floating_point():
            assert_close(mine, theirs.double())
    return sum(part.numel() for part in actual)
