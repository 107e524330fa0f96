"""Committed inputs of ops and the bits that every backend must give for them; `python -m tests.goldens` makes them.

A file holds the cases of one family: arrays ``<case>.<argument>`` and ``<case>:<output>``, and a JSON record of
the rest. bfloat16 travels as its 16 bits.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pygrade
from devtools.tolerances import same_bits

Case = tuple[str, str, dict[str, Any]]  # name, op, arguments
FOLDER = Path(__file__).parent
FAMILIES = ("dirichlet", "fusion", "gain", "page_search", "rollout")
# What of an op's result is bound to the bits; the rest (log-probabilities) has tolerances.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "dirichlet_sample": ("weights", "log_weights"),
    "transform_scores": ("",),
    "fuse_scores": ("",),
    "fuse_topk": ("values", "indices"),
    "topk_gain": ("",),
    "rollout": ("weights", "log_weights", "rewards"),
    "search_page": ("values", "indices"),
}


@dataclass(frozen=True)
class Golden:
    """One call of an op and the outputs whose bits are fixed, by name."""

    name: str
    op: str
    arguments: dict[str, Any]
    outputs: dict[str, Tensor]

    def run(self, device: str = "cpu") -> dict[str, Tensor]:
        """The op's outputs for the arguments on a device, back on the CPU."""
        given = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in self.arguments.items()}
        result = getattr(pygrade, self.op)(**given)
        parts = {name: getattr(result, name) if name else result for name in OUTPUTS[self.op]}
        return {name: part.cpu() for name, part in parts.items()}

    def equal_values(self, device: str = "cpu") -> int:
        """How many values are equal bit for bit: all of them, or AssertionError."""
        count = 0
        for name, actual in self.run(device).items():
            expected = self.outputs[name]
            assert same_bits(actual, expected), f"{self.name}: {self.op} {name} differs from the golden bits"
            count += expected.numel()
        return count


def load(family: str) -> list[Golden]:
    """The cases of one family."""
    with np.load(FOLDER / f"{family}.npz") as file:
        arrays = dict(file)
    goldens = []
    for name, record in json.loads(str(arrays["cases"])).items():
        arguments = dict(record["arguments"])
        arguments |= {a: _tensor(arrays[f"{name}.{a}"], d) for a, d in record["tensors"].items()}
        outputs = {o: torch.from_numpy(arrays[f"{name}:{o}"]) for o in OUTPUTS[record["op"]]}
        goldens.append(Golden(name, record["op"], arguments, outputs))
    return goldens


def save(path: Path, cases: Iterator[Case]) -> None:
    """Run the cases and write them; the bytes depend on nothing else."""
    arrays: dict[str, Any] = {}
    records = {}
    for name, op, arguments in cases:
        golden = Golden(name, op, arguments, {})
        tensors = {a: v for a, v in arguments.items() if isinstance(v, Tensor)}
        arrays |= {f"{name}.{a}": _array(v) for a, v in tensors.items()}
        arrays |= {f"{name}:{o}": _array(v) for o, v in golden.run().items()}
        plain = {a: v for a, v in arguments.items() if a not in tensors}
        records[name] = {"op": op, "arguments": plain, "tensors": {a: str(v.dtype)[6:] for a, v in tensors.items()}}
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        np.savez_compressed(file, cases=np.array(json.dumps(records)), **arrays)
    temporary.replace(path)


def _array(value: Tensor) -> Any:
    return value.view(torch.int16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


def _tensor(array: Any, dtype: str) -> Tensor:
    value = torch.from_numpy(array)
    return value.view(torch.bfloat16) if dtype == "bfloat16" else value
