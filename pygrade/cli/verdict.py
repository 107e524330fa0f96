"""Verdict and warnings, which `train`, `evaluate`, `pipeline` and `demo` print last."""

from collections.abc import Iterable, Mapping
from typing import Any

from pygrade.cli import terminal
from pygrade.evaluation.verdict import lines_of

IN_SAMPLE = "in-sample, not evidence: "


def print_verdict(
    verdict: Mapping[str, Any], later: Mapping[str, Any] | None = None, warnings: Iterable[str] = ()
) -> None:
    """The verdict of a training, what moved it, how it was found, what later requests show, whose figures are no
    verdict, and sentences that a reader must not miss, last, where they are seen.
    """
    lines = lines_of(verdict, "" if later is None else later["text"])
    for line in ("", verdict["sentence"], *(f"  {line}" for line in lines)):
        terminal.text(line)
    for sentence in warnings:
        terminal.text(f"WARNING: {sentence}")
