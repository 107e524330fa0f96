"""The tables of a replay and the verdict, which `train`, `evaluate` and `pipeline` share."""

from collections.abc import Iterable, Mapping
from typing import Any

from pygrade.cli import console
from pygrade.evaluation.replay import equal_metrics, judged_by, reinforcement_sentence
from pygrade.metrics.texts import lift_text, positive_text, share_text

IN_SAMPLE = "in-sample, not evidence: "


def print_evaluation(record: Mapping[str, Any], heading: str = "") -> None:
    """The tables of a `replay`; ``heading`` before their titles."""
    tasks = [
        [
            task,
            f"{int(entry['events']):,}",
            f"{entry['rate']:.2%}",
            f"{entry['mean_prediction']:.2%}",
            *(share_text(entry[name]) for name in ("auc", "gauc")),
        ]
        for task, entry in record["predictions"].items()
    ]
    size = f"{record['num_requests']:,} requests of {record['num_users']:,} users"
    console.table(f"Predictions, {size}", ["task", "events", "rate", "predicted", "AUC", "GAUC"], tasks)
    names = {"ndcg": f"NDCG@{record['k']}", "value": f"value@{record['k']}"}
    lifted = {name: record["lifts"].get(name, {}) for name in record["rankers"]}
    rows = [
        [name, *(positive_text(entry[m]) for m in names), *(lift_text(lifted[name].get(m)) for m in names)]
        for name, entry in sorted(record["rankers"].items(), key=lambda row: row[0] != record["baseline"])
    ]
    head = ["", *names.values(), *(f"{label} lift" for label in names.values())]
    title = f"{heading}Replay of the shown items; lift over {record['baseline']}, ± two-sided 95 %"
    later = record["later"]
    console.table(title, head, rows, later["served"], f"served: {later['serves']}; {judged_by(record)}")
    for sentence in equal_metrics(record):
        console.text(sentence)
    if added := reinforcement_sentence(record):
        console.text(added)


def print_verdict(verdict: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> None:
    """The verdict of a training, what moved it, and what later requests show, whose figures are no verdict."""
    console.text("")
    console.text(verdict["sentence"])
    for line in (verdict["detail"], *verdict["reasons"]):
        if line:
            console.text(f"  {line}")
    if later is not None:
        console.text(f"  {later['text']}")


def print_warnings(sentences: Iterable[str]) -> None:
    """Sentences that a reader must not miss, last, where they are seen."""
    for sentence in sentences:
        console.text(f"WARNING: {sentence}")
