"""One record as every backend keeps it: a byte 0 and the value, or a byte 1, the time it ends at, and the value.

The time is 8 bytes big endian, milliseconds since 1970. No record is empty.
"""

import time
from collections.abc import Iterable, Sequence

FORMAT = b"1"  # rises where an older reader would misread a newer store
_NEVER, _TIMED = b"\0", b"\1"
_VALUE = 9  # where the value of a record with an end begins


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def header(ttl: float | None) -> bytes:
    """What stands before values that are written now and live ``ttl`` seconds; None: for ever."""
    return _NEVER if ttl is None else _TIMED + (now() + max(1, round(ttl * 1000))).to_bytes(8, "big")


def is_expired(record: bytes, moment: int) -> bool:
    """Whether the record's time is over at ``moment`` (milliseconds)."""
    return record.startswith(_TIMED) and int.from_bytes(record[1:_VALUE], "big") <= moment


def pack(values: Iterable[bytes], head: bytes) -> list[bytes]:
    """Records of values that share a header."""
    return [b"".join((head, value)) for value in values]


def unpack(records: Sequence[bytes | None]) -> list[bytes | None]:
    """The values of records; None where there is none or its time is over. ValueError where a record cannot be."""
    try:
        return [None if r is None else _timed(r) if r[0] else r[1:] for r in records]
    except IndexError as error:
        raise ValueError("a record is empty") from error


def _timed(record: bytes) -> bytes | None:
    if not record.startswith(_TIMED) or len(record) < _VALUE:
        raise ValueError(f"a record begins with {record[:_VALUE].hex()}; want 00, or 01 and a time")
    return None if is_expired(record, now()) else record[_VALUE:]
