"""Tables in files: Parquet, CSV, JSON lines and Arrow IPC, read by pyarrow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.storage import Place, download

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".tsv", ".txt")
JSON, ARROW = (".jsonl", ".ndjson", ".json"), (".arrow", ".feather", ".ipc")
_PACKED = (".gz", ".bz2", ".zst", ".lz4")
_DELIMITERS = (",", ";", "\t", "|")


def read_table(paths: Sequence[Place]) -> tuple[Any, str]:
    """One Arrow table of all the files, with columns by name (null where a file lacks one), and a name for it.

    A directory stands for the files in it; of a URL the local copy is read. ValueError names a
    file that cannot be read, and why.
    """
    pa = require("pyarrow")
    files = [file for path in paths for file in _files(download(path))]
    if not files:
        raise ValueError("files is empty; want at least one file")
    tables = [_read(file) for file in files]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"the files' columns differ in type: {one_line(error)}") from error
    names = [Path(path).name or str(path) for path in paths]
    return table, names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        known = [*PARQUET, *CSV, *JSON, *ARROW]
        found = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] not in "._" and _kind(p) in known)
        if not found:
            raise ValueError(f"{path} holds no file of a kind that is read: {', '.join(known)}")
        return found
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; want a file or a directory of files")
    return [path]


def _kind(path: Path) -> str:
    """The suffix that names the format."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _PACKED]
    return suffixes[-1] if suffixes else ""


def _read(path: Path) -> Any:
    pa, kind = require("pyarrow"), _kind(path)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    try:
        if kind in PARQUET:
            return require("pyarrow.parquet").read_table(path)
        if kind in CSV:
            return _csv(path)
        if kind in JSON:
            return _json(path)
        if kind in ARROW:
            return require("pyarrow.feather").read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a complete {kind} file: {one_line(error)}") from error
    raise ValueError(f"{path}: want a file ending in {', '.join((*PARQUET, *CSV, *JSON, *ARROW))}")


def _csv(path: Path) -> Any:
    csv = require("pyarrow.csv")
    with require("pyarrow").input_stream(str(path)) as stream:
        first = stream.read(1 << 16).split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    delimiter = max(_DELIMITERS, key=first.count)
    parse = csv.ParseOptions(delimiter=delimiter)
    convert = csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NULL", "null", "NA", "NaN", "nan", "None"])
    try:
        return csv.read_csv(path, parse_options=parse, convert_options=convert)
    except require("pyarrow").ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
    whole = csv.ReadOptions(block_size=(1 << 31) - 1)  # types are taken from the first block: now it is the file
    return csv.read_csv(path, parse_options=parse, convert_options=convert, read_options=whole)


def _json(path: Path) -> Any:
    with require("pyarrow").input_stream(str(path)) as stream:
        begin = stream.read(64).lstrip()[:1]
    if begin != b"[":
        return require("pyarrow.json").read_json(path)
    with require("pyarrow").input_stream(str(path)) as stream:
        return require("pyarrow").Table.from_pylist(json.loads(stream.read()))
