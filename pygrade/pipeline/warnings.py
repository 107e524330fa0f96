"""Sentences about a finished pipeline that a reader of its figures must not miss."""

from collections.abc import Mapping
from typing import Any

from pygrade.data.event_log import EventLog
from pygrade.pipeline.prerank import POPULAR


def warnings_of(stages: Mapping[str, Mapping[str, Any]], log: EventLog | None = None) -> list[str]:
    """Sentences that a reader of the stages' records must not miss; with the names that the log of events gives."""
    sentences = []
    leaks = stages.get("leaks", {}).get("leaks", [])
    if leaks:
        names = ", ".join(dict.fromkeys(leak["feature"] for leak in leaks))
        sentences.append(
            f"LEAK: the features {names} change with events after their request. Everything below is too good to be "
            "true; repair the schema or the log before you use it."
        )
    sentences += _prerank(stages["prerank"])
    sentences += stages.get("policy", {}).get("warnings", [])
    sentences += stages.get("evaluate", {}).get("replay", {}).get("warnings", [])
    return list(dict.fromkeys(sentences if log is None else map(log.name_ids, sentences)))


def _prerank(record: Mapping[str, Any]) -> list[str]:
    losing = [entry for entry in record["recall"] if (entry["difference"]["high"] or 0.0) < 0.0]
    if not losing:
        return []
    worst = max(losing, key=lambda entry: entry["n"])
    gap = worst["difference"]
    found = (
        f"Prerank is worse than popularity: recall@{worst['n']} is {worst['recall']['value']:.3f}, that of the "
        f"most popular items {worst['popularity_recall']['value']:.3f} (difference {gap['value']:+.3f}, 95 %: "
        f"{gap['low']:+.3f} … {gap['high']:+.3f})."
    )
    if record.get("published") == POPULAR:
        return [
            f"{found} The most popular items are published as candidates, the same for every user; --keep-prerank "
            "publishes the two towers instead. Train them on more data, or give your own item_ids."
        ]
    return [f"{found} The two towers are published. Train them on more data, or take popular items as candidates."]
