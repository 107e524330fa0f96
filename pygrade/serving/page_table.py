"""A ranked page as a table, for terminal, report and notebook."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class PageTable(NamedTuple):
    """A ranked page as a table: the items' scores, and what every task, or the baseline, contributed to them; where the
    weights rank nothing also the sum of what the tasks contributed."""

    head: list[str]
    weights: list[float]  # of the tasks; empty if they rank nothing
    rows: list[tuple[str, float, list[float]]]  # item, score, contributions
    notes: list[str]  # what history did to items

    def texts(self) -> list[list[str]]:
        """The rows, of which the first two cells are no numbers; the weights are the first row, if they rank."""
        width = len(self.head) - 3
        weights = ["", "weight", "", *(f"{100 * weight:.1f} %" for weight in self.weights)]
        rows = [
            [str(slot), item, *(f"{number:+.3f}" for number in (score, *parts))]
            for slot, (item, score, parts) in enumerate(self.rows, 1)
        ]
        return [weights + [""] * (width - len(self.weights))] * bool(self.weights) + rows


def page_table(record: Mapping[str, Any]) -> PageTable:
    """The table of a record of `Page.describe`; an item's ``name`` stands for its id."""
    mixed = any("baseline" in item for item in record["items"])
    summed = [] if record["weighs"] else ["sum"]
    head = ["slot", "item", "score", *summed, *record["tasks"], *([record["baseline"]] if mixed else [])]
    rows = [
        (
            str(item.get("name", item["item_id"])),
            item["score"],
            [*(item[name] for name in summed), *item["contributions"], *([item["baseline"]] if mixed else [])],
        )
        for item in record["items"]
    ]
    said = [(rows[slot][0], item["history"]) for slot, item in enumerate(record["items"]) if item.get("history")]
    notes = [f"{name}: {'; '.join(reasons)}" for name, reasons in said]
    return PageTable(head, record["weights"] if record["weighs"] else [], rows, notes)
