"""The raw tables by name, each with its truth, and written beside its oracle."""

import tomllib
from pathlib import Path

from tests.raw_tables import foul, services, shops

GROUPS = tomllib.loads((Path(__file__).parent / "truth.toml").read_text(encoding="utf-8"))
WRITERS = {"foul": foul, "services": services, "shops": shops}
FOUL = GROUPS["foul"].pop("defaults")
TABLES = {
    name: {"group": group, **(FOUL if group == "foul" else {}), **truth}
    for group, tables in GROUPS.items()
    for name, truth in tables.items()
}


def write_table(name, folder, requests=1_500, seed=1):
    """Write ``folder/table``, and its rows as they should be read, with their true values, ``folder/oracle.parquet``.

    Returns the path that doctor gets, and the rows.
    """
    table = folder / "table"
    table.mkdir(parents=True)
    rows = getattr(WRITERS[TABLES[name]["group"]], name)(table, requests, seed)
    rows.write_parquet(folder / "oracle.parquet")
    files = list(table.iterdir())
    return files[0] if len(files) == 1 and files[0].is_file() else table, rows
