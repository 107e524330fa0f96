"""The errors of stores. A server catches `StoreError` and goes on with defaults."""


class StoreError(Exception):
    """The store failed; the message names the store and the reason."""


class StoreUnreachableError(StoreError):
    """No answer in time: the server is down, hangs, or refuses the login."""


class NotAStoreError(StoreError):
    """There is nothing at this address, or something that pygrade did not write."""


class StoreCorruptError(StoreError):
    """The content is damaged: cut off, overwritten, or a record with a wrong checksum."""


class StoreFormatError(StoreError):
    """Another release wrote the store, in a format that this one does not read."""


def format_message(url: str, stored: bytes, wanted: bytes) -> str:
    """The text of a StoreFormatError."""
    return (
        f"{url} has format {stored.decode(errors='replace')!r}; this release reads {wanted.decode()!r}: "
        "remove the store and publish again"
    )


class MissingVersionError(StoreError):
    """The store has no version of that name, or none is current yet."""


class VersionInUseError(StoreError):
    """The version is complete and may not be begun again, or is current and may not be dropped."""
