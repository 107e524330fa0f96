"""The schema of raw events as a file that people edit, and as tables that they read."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from pygrade.data.event_schema import ATTRIBUTE_FORM, KEYS
from pygrade.data.event_tables import schema_of
from pygrade.doctor.event_proposal import SchemaProposal, TableProposal
from pygrade.logs.feedback_tables import same_table
from pygrade.logs.table_files import ARROW, CSV, JSON, PARQUET
from pygrade.logs.table_formats import format_of
from pygrade.storage import Place, is_url

_GROUPS = ("tasks", "measures", "context", "attributes", "item_attributes")


def group_tables(places: Sequence[Place]) -> list[list[Place]]:
    """The files of each table (`same_table`). A directory is one file, or several tables."""
    groups: list[tuple[tuple[str, list[str]], list[Place]]] = []
    for place in [inner for outer in places for inner in _tables_in(outer)]:
        own = _columns(place)
        group = next((other for other in groups if same_table(own, other[0], {})), None)
        if group is None:
            groups.append((own, [place]))
        else:
            group[1].append(place)
    return [other for _, other in groups]


def _columns(place: Place) -> tuple[str, list[str]]:
    """The name of a file or directory, and its columns."""
    return str(place).rstrip("/").rpartition("/")[2], list(schema_of(place).names)


def _tables_in(place: Place) -> list[Place]:
    """The directory, or its files if they have different columns."""
    path = Path(place)
    if is_url(place) or not path.is_dir() or format_of(path):
        return [place]
    inside = sorted(p for p in path.iterdir() if p.name[0] not in "._")
    suffixes = [*PARQUET, *CSV, *JSON, *ARROW]
    if len(inside) < 2 or not all(p.is_file() and set(p.suffixes) & set(suffixes) for p in inside):
        return [place]
    listed = [_columns(path) for path in inside]
    return [place] if all(same_table(a, b, {}) for a, b in combinations(listed, 2)) else [*inside]


def schema_text(proposal: SchemaProposal, file_name: Callable[[Place], str]) -> str:
    """The file: keys with what they mean, those that are not used as comments; ``file_name``: a file's name there."""
    lines = [
        "# Raw events of one's own: pygrade pipeline --data events:THIS_FILE --out DIR",
        '# Where a column is wanted, a number may also be an expression of SQL: rating >= 4, "play ms" / 1000',
        f"# Attributes and context: COLUMN = KIND, or {ATTRIBUTE_FORM}",
        *(f"# ! {sentence}" for sentence in proposal.open),
        "",
        *_keys(proposal.top, KEYS[""], {}),
    ]
    for table in proposal.tables:
        keys = {**table.keys, "files": [file_name(file) for file in table.keys["files"]]}
        plain = {key: value for key, value in keys.items() if key not in _GROUPS}
        lines += ["", f"[[{table.entity}]]", *_keys(plain, KEYS[table.entity], table.why)]
        lines += [f"# left out: {_text(column)}: {why}" for column, why in table.left_out.items()]
        for group in _GROUPS:
            if entries := keys.get(group):
                lines += ["", f"[{table.entity}.{group}]  # {KEYS[table.entity][group].text}"]
                for name, value in entries.items():
                    lines.append(f"{_name(name)} = {_value(value)}  # {table.why[f'{group} {name}']}")
            elif group in KEYS[table.entity] and KEYS[table.entity][group].required:
                lines += ["", f"[{table.entity}.{group}]"]
    return "\n".join(lines) + "\n"


def _keys(table: Mapping[str, Any], keys: Mapping[str, Any], why: Mapping[str, str]) -> Iterator[str]:
    for key, spec in keys.items():
        if key in table and table[key] not in (None, ""):
            reason = f" [{why[key].rpartition('(')[2].rstrip(')')}]" if key in why and "(" in why[key] else ""
            yield f"{key} = {_value(table[key])}  # {spec.text}{reason}"
        elif key not in _GROUPS:
            yield f"# {key} = {_value(spec.default) if spec.default else '…'}  # {spec.text}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_name(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value) if isinstance(value, int | float) else _text(str(value))


def table_rows(table: TableProposal) -> list[list[str]]:
    """Key, and column with reason, of a table, for people."""
    rows = [[key, why] for key, why in table.why.items() if key != "exposure"]
    if table.entity == "events":
        exposure = table.keys.get("exposure") or "none"
        rows.append(["exposure", exposure if isinstance(exposure, str) else ", ".join(exposure)])
    return rows + [["left out", f"{column}: {why}"] for column, why in table.left_out.items()]
