"""What an import of raw events lost or assumed, in sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_MOST_KINDS = 10
_ALONE = 0.5  # of the requests, from which on it is said that they have one exposure


@dataclass
class Lost:
    """Counts of rows that were left out, and ids that were not found."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)  # table → reason → rows
    kinds: dict[str, Counter[str]] = field(default_factory=dict)  # table → kind that is nothing → rows
    joins: Counter[str] = field(default_factory=Counter)  # see `event_joins.make_requests`
    unknown: dict[str, "Unknown"] = field(default_factory=dict)  # user, item → ids without attributes
    several: Counter[str] = field(default_factory=Counter)  # table → ids with several rows
    late: Counter[str] = field(default_factory=Counter)  # dated table → ids without a row before their first event
    undated: list[str] = field(default_factory=list)  # tables

    def count(self, table: str, left_out: Mapping[str, int], kinds: Mapping[str, int] | None = None) -> None:
        """Rows that a job left out of a table."""
        for counted, found in ((self.rows, left_out), (self.kinds, kinds or {})):
            for reason, rows in found.items():
                if rows:
                    counted.setdefault(table, Counter())[reason] += rows


@dataclass
class Unknown:
    """Ids of the events that no table has."""

    ids: int = 0
    of: int = 0  # all ids of the events
    rows: int = 0  # events of them
    examples: Sequence[str] = ()


def sentences(lost: Lost, window_hours: float) -> Iterator[str]:
    """All of it, for people."""
    for table, reasons in lost.rows.items():
        for reason, count in reasons.items():
            yield f"{table}: {count:,} rows {reason}"
    for table, kinds in lost.kinds.items():
        named = ", ".join(f"{kind!r} ({count:,} rows)" for kind, count in kinds.most_common(_MOST_KINDS))
        yield f"{table}: neither exposure nor feedback, left out: {named}"
    if lost.joins["repeated"]:
        yield f"{lost.joins['repeated']:,} events repeat others in every column: each is counted once"
    alone, requests = lost.joins["alone"], lost.joins["requests"]
    if alone > _ALONE * requests:
        yield (
            f"{alone:,} of {requests:,} requests ({100 * alone / requests:.3g} %) have one exposure, of which there is "
            "no order to learn: are users and items swapped, or is what makes a request wrong (requests, gap_minutes)?"
        )
    if count := lost.joins["lost"]:
        whole = lost.joins["feedback"]
        share = f"{100 * count / max(whole, 1):.3g} %"
        yield (
            f"{count:,} of {whole:,} events of feedback ({share}) are left out: no exposure of their user and item in "
            f"the same request, or in the {window_hours:g} hours before"
        )
    for entity, unknown in lost.unknown.items():
        if unknown.ids:
            yield (
                f"{unknown.ids:,} of {unknown.of:,} {entity}s of the events ({unknown.rows:,} rows) have no row in "
                f"the tables of {entity}s, such as {', '.join(unknown.examples)}: their attributes are unknown"
            )
    for table, count in (+lost.several).items():
        yield f"{table}: {count:,} ids have several rows that differ, and no time: the smallest counts"
    for table, count in (+lost.late).items():
        yield f"{table}: {count:,} ids have no row before their first event: unknown"
    if lost.undated:
        yield (
            f"{', '.join(lost.undated)}: no time, so its values are taken as known before the first event; what was "
            "counted later tells the future"
        )
