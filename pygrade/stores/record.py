"""One record, in every backend: kind, value, checksum.

    00 | value | crc32            lives until it is removed
    01 | end | value | crc32      lives until `end`: 8 bytes big endian, milliseconds since 1970

The crc32 (zlib's, 4 bytes little endian) covers all bytes before it. No record is empty.
"""

import time
from collections.abc import Iterable, Sequence
from zlib import crc32

FORMAT = b"2"  # 1: records without a checksum, which this release refuses
_NEVER, _TIMED = b"\0", b"\1"
_VALUE, _CHECKSUM = 9, 4  # first byte of the value of a record with an end; bytes of a checksum
_WHOLE = 0x2144DF1C  # crc32 of any bytes followed by their own crc32


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def header(ttl: float | None) -> bytes:
    """The bytes before values that are written now and live ``ttl`` seconds; None: for ever."""
    return _NEVER if ttl is None else _TIMED + (now() + max(1, round(ttl * 1000))).to_bytes(8, "big")


def is_expired(record: bytes, moment: int) -> bool:
    """Whether the record's time is over at ``moment`` (milliseconds)."""
    return record.startswith(_TIMED) and crc32(record) == _WHOLE and int.from_bytes(record[1:_VALUE], "big") <= moment


def pack(values: Iterable[bytes], head: bytes) -> list[bytes]:
    """Records of values that share a header."""
    start = crc32(head)
    return [b"".join((head, value, crc32(value, start).to_bytes(_CHECKSUM, "little"))) for value in values]


def unpack(records: Sequence[bytes | None]) -> list[bytes | None]:
    """The values of records; None if there is none or its time is over. ValueError for a damaged record."""
    try:
        return [None if r is None else r[1:-4] if not r[0] and crc32(r) == _WHOLE else _timed(r) for r in records]
    except IndexError as error:
        raise ValueError("a record is empty") from error


def _timed(record: bytes) -> bytes | None:
    if crc32(record) != _WHOLE:
        raise ValueError("a record is damaged: its checksum disagrees")
    if not record.startswith(_TIMED) or len(record) < _VALUE + _CHECKSUM:
        raise ValueError(f"a record begins with {record[:_VALUE].hex()}; want 00, or 01 and a time")
    return None if is_expired(record, now()) else record[_VALUE:-_CHECKSUM]
