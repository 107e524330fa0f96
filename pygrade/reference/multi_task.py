"""Reference of the multi-task model: the network, the funnel between tasks, and the calibration.

MMoE: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
PLE: Tang et al., "Progressive Layered Extraction", RecSys 2020. ESMM: Ma et al., "Entire Space Multi-Task Model", SIGIR
2018.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

Curve = tuple[Tensor, Tensor]  # logits, calibrated logits, both increasing


def multi_task(
    parameters: Mapping[str, Tensor],
    dense: Tensor,
    entries: Tensor,
    task_experts: int,
    parents: Sequence[int],
    beta: Tensor | None = None,
    curves: Sequence[Curve] = (),
) -> Tensor:
    """Probabilities [n, T] of dense[n, D] (NaN: unknown) and of entries[n, F] in the table of embeddings.

    parameters: by the names in mtl.safetensors; their dtype is that of the computation. Of a layer's experts the first
    ``task_experts`` are the first task's, and so on; the last ones are shared (0: all of them). parents[T]: the task
    that each one is conditional on, or -1. beta [T, 3] or one curve per task calibrate; without either there is none.
    """
    p = parameters
    normalized = ((dense - p["mean"]) * p["scale"]).clamp(-5.0, 5.0).nan_to_num(0.0)
    inputs = torch.cat([normalized, p["embedding.weight"][entries].flatten(1)], 1)
    tasks = len(p["base"])
    streams = [inputs] * (tasks + 1)
    level = 0
    while f"layers.{level}.output.weight" in p:
        streams = _layer(p, level, streams, tasks, task_experts)
        level += 1
    logits = []
    for t in range(tasks):
        hidden = silu(streams[t] @ p["tower_in.weight"][t] + p["tower_in.bias"][t])
        logits.append((hidden @ p["tower_out.weight"][t] + p["tower_out.bias"][t])[:, 0] + p["base"][t])
    columns = [_logit_of(t, logits, parents) for t in range(tasks)]
    if curves:
        columns = [_interpolate(logit, *curve) for logit, curve in zip(columns, curves, strict=True)]
    elif beta is not None:
        columns = [
            a * logsigmoid(x) - b * logsigmoid(-x) + c for x, (a, b, c) in zip(columns, beta.unbind(0), strict=True)
        ]
    return torch.sigmoid(torch.stack(columns, 1)).clamp_min(1e-6)


def _layer(p: Mapping[str, Tensor], level: int, streams: list[Tensor], tasks: int, task_experts: int) -> list[Tensor]:
    """Each gate mixes the experts of its task and the shared ones; the gate of stream T, if there is one, all."""
    name = f"layers.{level}."
    weight, bias = p[name + "output.weight"], p[name + "output.bias"]  # [M, H, O], [M, O]
    hidden, hidden_bias = p[name + "hidden.weight"], p[name + "hidden.bias"]
    gates, gates_bias = p[name + "gates.weight"], p[name + "gates.bias"]
    experts, width = weight.shape[:2]
    if level == 0:  # saved as one linear map of [outputs, inputs]
        hidden, hidden_bias = hidden.view(experts, width, -1).transpose(1, 2), hidden_bias.view(experts, width)
        gates, gates_bias = gates.view(-1, experts, gates.shape[1]).transpose(1, 2), gates_bias.view(-1, experts)
    owner = [min(m // task_experts, tasks) if task_experts else tasks for m in range(experts)]
    outputs = []
    for m in range(experts):
        first = silu(streams[owner[m]] @ hidden[m] + hidden_bias[m])
        outputs.append(silu(first @ weight[m] + bias[m]))
    mixes = []
    for s in range(len(gates)):
        seen = [m for m in range(experts) if s == tasks or owner[m] in (s, tasks)]
        shares = torch.softmax(streams[s] @ gates[s][:, seen] + gates_bias[s][seen], 1)
        mixes.append(sum((shares[:, [i]] * outputs[m] for i, m in enumerate(seen)), torch.zeros(())))
    return mixes


def _logit_of(task: int, logits: list[Tensor], parents: Sequence[int]) -> Tensor:
    """log p(task) = Σ log p(· | parent) from the root on; with a parent it is at most -1e-6."""
    if parents[task] < 0:
        return logits[task]
    log_p = torch.zeros_like(logits[task])
    at = task
    while at >= 0:
        log_p = log_p + logsigmoid(logits[at])
        at = parents[at]
    log_p = log_p.clamp_max(-1e-6)
    return log_p - torch.log(-torch.expm1(log_p))


def _interpolate(logit: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Straight lines between the knots, slope 1 beyond them."""
    inside = logit.clamp(x[0], x[-1])
    if len(x) == 1:
        return y[0] + (logit - inside)
    segment = ((inside[:, None] >= x).sum(1) - 1).clamp(0, len(x) - 2)
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    return y[segment] + (inside - x[segment]) * slope[segment] + (logit - inside)
