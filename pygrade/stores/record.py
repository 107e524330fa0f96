"""One record as every backend keeps it: 8 bytes of expiry (milliseconds since 1970, 0: never), then the value."""

import time
from collections.abc import Iterable, Sequence

FORMAT = b"1"  # rises where an older reader would misread a newer store
NEVER = bytes(8)
_HEADER = len(NEVER)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def expiry(ttl: float | None) -> bytes:
    """The header of what is written now and lives ``ttl`` seconds; None: for ever."""
    return NEVER if ttl is None else (now() + max(1, round(ttl * 1000))).to_bytes(_HEADER, "big")


def is_expired(record: bytes, moment: int) -> bool:
    """Whether the record's time is over at ``moment`` (milliseconds)."""
    return not record.startswith(NEVER) and int.from_bytes(record[:_HEADER], "big") <= moment


def pack(values: Iterable[bytes], header: bytes) -> list[bytes]:
    """Records of values that share a header."""
    return [b"".join((header, value)) for value in values]


def unpack(records: Sequence[bytes | None]) -> list[bytes | None]:
    """The values of records; None where there is none or its time is over.

    Raises ValueError where a record is shorter than its header.
    """
    values = [None if r is None else r[_HEADER:] if r.startswith(NEVER) else _timed(r) for r in records]
    return values


def _timed(record: bytes) -> bytes | None:
    if len(record) < _HEADER:
        raise ValueError(f"a record has {len(record)} bytes; want at least {_HEADER}")
    return None if is_expired(record, now()) else record[_HEADER:]
