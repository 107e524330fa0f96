"""Records by their definition in csrc/src/stores/record.hpp, written here by zlib."""

import time
from zlib import crc32

import pytest

from pygrade._core import StoreError, pack_records, unpack_records

VALUES = [b"", b"value", b"\0\1\xff", bytes(5000)]


def record(kind, value):
    return kind + value + crc32(kind + value).to_bytes(4, "little")


def timed(milliseconds, value):
    return record(b"\1" + milliseconds.to_bytes(8, "big"), value)


def test_a_record_is_kind_value_and_checksum():
    assert pack_records(VALUES, None) == [record(b"\0", value) for value in VALUES]
    before = int(time.time() * 1000)
    packed = pack_records(VALUES, 60.0)
    after = int(time.time() * 1000)
    assert any(packed == [timed(end + 60_000, value) for value in VALUES] for end in range(before, after + 1))


def test_the_value_of_a_record_is_read_until_its_end():
    now = int(time.time() * 1000)
    records = [record(b"\0", b"ever"), timed(now + 60_000, b"long"), timed(now - 1, b"over"), timed(0, b""), None]
    assert unpack_records(records, "test") == [b"ever", b"long", None, None, None]


@pytest.mark.parametrize("wrong", [b"", b"\0", record(b"\2", b"x"), record(b"\1", b"short"), record(b"", b"")])
def test_what_is_no_record_is_named(wrong):
    with pytest.raises(StoreError, match="test: a record"):
        unpack_records([wrong], "test")
