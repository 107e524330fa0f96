"""The figures of a training: ``metrics.jsonl``, one line a step, and TensorBoard scalars if it is installed."""

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pygrade._util.serialization import write_bytes

_SCALAR_EVERY = 10  # steps between TensorBoard points


class Tracker:
    """Appends figures; lines of an earlier run from after the resumed checkpoint are dropped.

    done: {stage: steps done} at the start, {} for a fresh run.
    """

    def __init__(self, directory: Path, done: dict[str, int], tensorboard: bool) -> None:
        self.path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= done.get(line["stage"], -1)]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (closed by close)
        self._writer = _writer(directory / "tensorboard", sum(done.values())) if tensorboard else None

    def log(self, stage: str, step: int, figures: dict[str, float]) -> None:
        """Figures of step ``step`` (from 1) of a stage."""
        self._file.write(json.dumps({"stage": stage, "step": step, **figures}) + "\n")
        if self._writer is not None and (step % _SCALAR_EVERY == 0 or step == 1):
            for name, value in figures.items():
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; [] if there is none. An unfinished last line is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "stage" in line and "step" in line:
            lines.append(line)
    return lines


def _writer(directory: Path, purge_step: int) -> Any:
    """A TensorBoard writer, or None if tensorboard is absent."""
    if find_spec("tensorboard") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(directory), purge_step=purge_step or None)
