"""Verdict and warnings, which `train`, `evaluate`, `pipeline` and `demo` print last."""

from collections.abc import Iterable, Mapping
from typing import Any

from pygrade.cli import terminal

IN_SAMPLE = "in-sample, not evidence: "


def print_verdict(
    verdict: Mapping[str, Any], later: Mapping[str, Any] | None = None, warnings: Iterable[str] = ()
) -> None:
    """The verdict of a training, what moved it, how it was found, what later requests show, whose figures are no
    verdict, and sentences that a reader must not miss, last, where they are seen.
    """
    detail = verdict["detail"] and f"how it was judged: {verdict['detail']}"
    lines = [*verdict["reasons"], detail, *([] if later is None else [later["text"]])]
    for line in ("", verdict["sentence"], *(f"  {line}" for line in lines if line)):
        terminal.text(line)
    for sentence in warnings:
        terminal.text(f"WARNING: {sentence}")
