"""The tables of a replay and the verdict, which `train`, `evaluate` and `pipeline` share."""

from collections.abc import Iterable, Mapping
from typing import Any

from pygrade.cli import terminal
from pygrade.console.tables import prediction_table, replay_table
from pygrade.evaluation.replay import equal_metrics, judged_by, reinforcement_sentence
from pygrade.policy.guardrails import LimitState

IN_SAMPLE = "in-sample, not evidence: "


def print_evaluation(record: Mapping[str, Any], heading: str = "") -> None:
    """The tables of a `replay`; ``heading`` before their titles."""
    size = f"{record['num_requests']:,} requests of {record['num_users']:,} users"
    terminal.table(f"Predictions, {size}", *prediction_table(record))
    title = f"{heading}Replay of the shown items; lift over {record['baseline']}, ± two-sided 95 %"
    later = record["later"]
    caption = f"served: {later['serves']}; {judged_by(record)}"
    terminal.table(title, *replay_table(record), later["served"], caption)
    for sentence in equal_metrics(record):
        terminal.text(sentence)
    if added := reinforcement_sentence(record):
        terminal.text(added)


def print_verdict(verdict: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> None:
    """The verdict of a training, what moved it, and what later requests show, whose figures are no verdict."""
    terminal.text("")
    terminal.text(verdict["sentence"])
    for line in (verdict["detail"], *verdict["reasons"]):
        if line:
            terminal.text(f"  {line}")
    if later is not None:
        terminal.text(f"  {later['text']}")


def print_guardrails(record: Mapping[str, Any]) -> None:
    """Limits, their estimates and bounds, of `Guardrails.to_dict`."""
    states = [LimitState(**state) for state in record["states"]]
    rows = [[state.limit, f"{state.value:.4g}", f"{state.bound:.4g}", state.word] for state in states]
    size, sure = record["num_requests"], record["confidence"]
    title = (
        f"Limits of what is served, on {size:,} requests that trained nothing; all bounds hold at once with {sure:.0%}"
    )
    terminal.table(title, ["limit", "estimate", "bound", ""], rows)


def print_warnings(sentences: Iterable[str]) -> None:
    """Sentences that a reader must not miss, last, where they are seen."""
    for sentence in sentences:
        terminal.text(f"WARNING: {sentence}")
