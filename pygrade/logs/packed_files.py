"""Limits of what a compressed file may unpack to, so that a small hostile one cannot take the memory of a machine."""

import os
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require

PACKED = (".gz", ".zst", ".bz2", ".lz4")
VARIABLE = "PYGRADE_UNPACKED_GIB"  # in place of both limits
_RATIO, _FREE = 200, 1 << 28  # bytes of one packed byte, for text from so many bytes on
_BLOCK = 1 << 22
_CELL = 4  # bytes of a cell in memory, at least


def check_text(path: Path) -> None:
    """ValueError if a packed file of text unpacks to more than the limits, found without keeping what it holds."""
    if path.suffix.lower() not in PACKED:
        return
    size, count = path.stat().st_size, 0
    most = limit_bytes()
    allowed = most if os.environ.get(VARIABLE) else min(most, max(_RATIO * size, _FREE))
    with require("pyarrow").input_stream(str(path)) as stream:
        while block := stream.read(_BLOCK):
            count += len(block)
            if count > allowed:
                raise _too_large(path, f"unpacks to more than {allowed / 2**20:,.0f} MiB from {size:,} bytes")


def check_parquet(path: Path, metadata: Any) -> None:
    """ValueError if a Parquet file has more cells or bytes than the limit, by its `pyarrow.parquet.FileMetaData`."""
    sizes = (metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    count = max(sum(sizes), metadata.num_rows * metadata.num_columns * _CELL)
    if count > limit_bytes():
        raise _too_large(path, f"unpacks to {count / 2**30:,.0f} GiB or more")


def limit_bytes() -> float:
    """Bytes to which any file may unpack: those of the variable, else the memory of the machine."""
    if stated := os.environ.get(VARIABLE):
        return float(stated) * 2**30
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _too_large(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} {what}: is it what you expect? {VARIABLE} sets another limit, in GiB")
