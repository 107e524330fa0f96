"""Correcting a request's predictions by its context: `python -m bench --suite correction`, not among "all".

500 candidates of 6 tasks, with 20 features and 3 indicators. The peers compute the same formula over whole arrays.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cpu import onnx_peers, verify
from bench.cpu.harness import OURS, ROTATIONS, Contender, Row, measure
from pygrade import _core, reference

PARENTS, AMOUNT = (-1, 0, 0, 1, -1, 2), 4
FEATURES, INDICATORS = 20, (1, 7, 12)
Arrays = dict[str, Any]


def correction(quick: bool) -> Iterator[Row]:
    """Without and with item columns and maps."""
    for form, items in (("", 0), ("conditional", 2)) if quick else (("", 0), ("marginal", 0), ("conditional", 2)):
        yield _row(500, items, form, 1.0 if quick else 5.0)


def _arrays(items: int, generator: np.random.Generator) -> Arrays:
    tasks = len(PARENTS)
    inputs, variables = FEATURES + len(INDICATORS), tasks + items

    def normal(*shape: int) -> Any:
        return generator.standard_normal(shape).astype(np.float32)

    return {
        "median": normal(FEATURES),
        "x_mean": normal(inputs),
        "x_std": np.exp(0.3 * normal(inputs)),
        "l_mean": normal(variables) - 2,
        "l_std": np.exp(0.3 * normal(variables)),
        "weights": 0.05 * normal(tasks, 1 + inputs + variables, 1 + variables),
        "map_mean": normal(tasks) - 2,
        "map_std": np.exp(0.3 * normal(tasks)),
        "map_knots": np.sort(normal(tasks, 5), 1),
        "map_weights": 0.2 * normal(tasks, 7),
    }


def plain(library: Any, arrays: Arrays, form: str, x: Any, p: Any, items: Any) -> Any:
    """`reference.correct` over all candidates and tasks at once, by numpy or torch."""
    parents = [t if s < 0 else s for t, s in enumerate(PARENTS)]
    child, amount, generations = arrays["child"], arrays["amount"], arrays["generations"]

    def log_odds(values: Any) -> Any:
        cut = library.clip(values, 1e-6, 1 - 1e-6)
        return library.where(amount, library.log(library.clip(values, 1e-6, None)), library.log(cut / (1 - cut)))

    def shares(values: Any, above: Any) -> Any:
        share = library.clip(values / above, 1e-4, 0.95)
        return library.log(share / (1 - share))

    def sigmoid(values: Any) -> Any:
        return 1 / (1 + library.exp(-values))

    def down(values: Any) -> Any:
        for generation in generations:
            values = library.where(generation, values * values[:, parents], values)
        return values

    if form:
        odds = log_odds(p)
        if form == "conditional":
            odds = library.where(child, shares(p, library.clip(p[:, parents], 1e-9, None)), odds)
        z = library.clip((odds - arrays["map_mean"]) / arrays["map_std"], -6, 6)
        w, knots = arrays["map_weights"], arrays["map_knots"]
        odds = odds + w[:, 0] + w[:, 1] * z
        for k in range(5):
            odds = odds + w[:, 2 + k] * library.clip(z - knots[:, k], 0, None)
        mapped = library.where(amount, library.exp(odds), sigmoid(odds))
        p = down(mapped) if form == "conditional" else library.where(amount, mapped, library.clip(mapped, 0, 0.9990005))
    base = library.where(child, shares(p, p[:, parents] + 1e-7), log_odds(p))
    variables = base if items is None else library.concatenate((base, items), 1)
    variables = library.clip((variables - arrays["l_mean"]) / arrays["l_std"], -4, 4)
    mean = variables.mean(0)
    missing = library.isnan(x)
    inputs = library.concatenate((library.where(missing, arrays["median"], x), missing[list(INDICATORS)]))
    inputs = library.clip((inputs - arrays["x_mean"]) / arrays["x_std"], -4, 4)
    b = library.concatenate((arrays["one"], inputs, mean)) @ arrays["weights"]  # [T, U]
    shift = b[:, 0] + (variables - mean) @ b[:, 1:].T
    grown = library.clip(p, 1e-6, None) * library.exp(shift)
    root = library.where(amount, grown, library.clip(grown, 0, 1))
    return down(library.where(child, sigmoid(base + shift), root))


class _Plain(torch.nn.Module):
    def __init__(self, arrays: Arrays, form: str) -> None:
        super().__init__()
        self.arrays, self.form = arrays, form

    def forward(self, x: Tensor, p: Tensor, items: Tensor | None = None) -> Tensor:
        result: Tensor = plain(torch, self.arrays, self.form, x, p, items)
        return result


def _onnx(module: _Plain, feeds: list[tuple[Any, ...]]) -> Callable[[int], Any]:
    import onnxruntime

    content = io.BytesIO()
    names = ["x", "p", "items"][: len(feeds[0])]
    given = tuple(map(torch.from_numpy, feeds[0]))
    torch.onnx.export(module, given, content, input_names=names, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    named = [dict(zip(names, feed, strict=True)) for feed in feeds]
    return lambda i: session.run(None, named[i % ROTATIONS])[0]


def _row(count: int, columns: int, form: str, seconds: float) -> Row:
    generator = np.random.default_rng(0)
    arrays, tasks = _arrays(columns, generator), len(PARENTS)
    amounts = [t == AMOUNT for t in range(tasks)]
    context = generator.standard_normal((ROTATIONS, FEATURES)).astype(np.float32)
    context[:, INDICATORS[0]] = np.nan
    roots = np.exp(generator.standard_normal((ROTATIONS, count, tasks)) - 3).clip(0, 1).astype(np.float32)
    predictions = roots.copy()
    for t, s in enumerate(PARENTS):
        predictions[:, :, t] *= 1 if s < 0 else predictions[:, :, s]
    items = generator.standard_normal((ROTATIONS, count, columns)).astype(np.float32)
    feeds = [(context[i], predictions[i], items[i])[: 3 if columns else 2] for i in range(ROTATIONS)]

    core = _core.Correction(
        items=[f"item {i}" for i in range(columns)],
        parents=PARENTS,
        amounts=amounts,
        indicators=INDICATORS,
        form=form,
        **arrays,
    )
    requests, offsets = [feed[0][None] for feed in feeds], np.array([0, count])
    out = np.empty((count, tasks), np.float32)

    def ours(i: int) -> Any:
        feed = feeds[i % ROTATIONS]
        core.apply(requests[i % ROTATIONS], feed[1], offsets, feed[2] if columns else None, out)
        return out

    depth = [0] * tasks
    for t, s in enumerate(PARENTS):
        depth[t] = 0 if s < 0 else depth[s] + 1
    more = {
        "child": np.array(PARENTS) >= 0,
        "amount": np.array(amounts),
        "generations": [np.array(depth) == d for d in range(1, max(depth) + 1)],
        "one": np.ones(1, np.float32),
    }
    of_numpy: Arrays = {**arrays, **more}
    of_torch: Arrays = {
        name: [torch.from_numpy(a) for a in value] if isinstance(value, list) else torch.from_numpy(value)
        for name, value in of_numpy.items()
    }
    module = _Plain(of_torch, form)
    tensors = [tuple(map(torch.from_numpy, feed)) for feed in feeds]
    contenders: dict[str, Contender] = {
        OURS: ours,
        "numpy": lambda i: plain(np, of_numpy, form, *feeds[i % ROTATIONS], *[None] * (not columns)),
        "torch": lambda i: module(*tensors[i % ROTATIONS]),
    }
    if onnx_peers.installed():
        contenders["onnxruntime"] = _onnx(module, feeds)
    exact = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    structured: Arrays = {"parents": PARENTS, "amounts": amounts, "indicators": INDICATORS, "form": form, **exact}
    for number in (0, 1):
        x, p, *rest = (torch.from_numpy(a).double() for a in feeds[number])
        wanted = reference.correct(x, p, *rest, **structured)
        for name, run in contenders.items():
            verify.close(name, "corrected predictions", run(number), wanted)
    shape: dict[str, int | str] = {"N": count, "T": tasks, "I": columns, "maps": form or "none"}
    return Row("correct", shape, measure(contenders, seconds), tuple(contenders)[1:])
