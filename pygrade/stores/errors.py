"""The errors of stores, which the core raises. A server catches `StoreError` and goes on with defaults."""

from pygrade._core import (
    MissingVersionError,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreUnreachableError,
    VersionInUseError,
)

__all__ = [
    "MissingVersionError",
    "NotAStoreError",
    "StoreCorruptError",
    "StoreError",
    "StoreFormatError",
    "StoreUnreachableError",
    "VersionInUseError",
]


def format_message(url: str, stored: bytes, wanted: bytes) -> str:
    """The text of a StoreFormatError."""
    return (
        f"{url} has format {stored.decode(errors='replace')!r}; this release reads {wanted.decode()!r}: "
        "remove the store and publish again"
    )
