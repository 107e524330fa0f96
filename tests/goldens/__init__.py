"""Calls of ops whose results have the same bits on every backend; `python -m tests.goldens` writes their hashes.

`cases` makes the inputs from seeds; ``bits.json`` holds a hash of them and one of each output: family → case → name →
16 hexadecimal digits of SHA-256 over dtype, shape and bytes, in which every NaN is the same.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pygrade
from tests.goldens.cases import CASES

FILE = Path(__file__).parent / "bits.json"
FAMILIES = tuple(CASES)
INPUTS = "inputs"
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
    """One call of an op, and the hashes of its inputs and outputs by name (none yet when they are written)."""

    name: str
    op: str
    arguments: dict[str, Any]
    bits: dict[str, str]

    def run(self, device: str = "cpu") -> dict[str, Tensor]:
        """The op's outputs for the arguments on a device, back on the CPU."""
        given = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in self.arguments.items()}
        result = getattr(pygrade, self.op)(**given)
        parts = {name: getattr(result, name) if name else result for name in OUTPUTS[self.op]}
        return {name: part.cpu() for name, part in parts.items()}

    def hashes(self, outputs: dict[str, Tensor]) -> dict[str, str]:
        """What the file holds of the inputs and of these outputs."""
        inputs = [[name, _hash(v) if isinstance(v, Tensor) else v] for name, v in self.arguments.items()]
        made = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
        return {INPUTS: made} | {name: _hash(value) for name, value in outputs.items()}

    def checked(self, device: str = "cpu") -> dict[str, Tensor]:
        """The op's outputs if all have the golden bits, or AssertionError."""
        outputs = self.run(device)
        for name, found in self.hashes(outputs).items():
            reason = "are not made as they were" if name == INPUTS else "differs from the golden bits"
            assert found == self.bits[name], f"{self.name}: {self.op} {name} {reason}"
        return outputs

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """The golden outputs, computed by the backend of the CPU."""
        return self.checked()

    def equal_values(self, device: str = "cpu") -> int:
        """How many values are equal bit for bit: all of them, or AssertionError."""
        return sum(part.numel() for part in self.checked(device).values())


def load(family: str) -> list[Golden]:
    """The cases of one family."""
    bits = json.loads(FILE.read_text())[family]
    return [Golden(name, op, arguments, bits.get(name, {})) for name, op, arguments in CASES[family]()]


def _hash(value: Tensor) -> str:
    if value.is_floating_point():
        value = torch.where(torch.isnan(value), torch.full_like(value, torch.nan), value)
    record = hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode())
    record.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return record.hexdigest()[:16]
