"""Who may ask: tokens in a file, compared in constant time."""

import base64
import binascii
import hashlib
import hmac
from pathlib import Path


class Tokens:
    """The tokens of a file, a line each; blank lines and those that begin with # are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: tuple[bytes, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Reads the file again; ValueError if it has no token, and the earlier ones stay."""
        lines = (line.strip() for line in self.path.read_text(encoding="utf-8").splitlines())
        found = tuple(_digest(line.encode()) for line in lines if line and not line.startswith("#"))
        if not found:
            raise ValueError(f"{self.path} holds no token; want a line for each")
        self._digests = found

    def accept(self, authorization: bytes | None) -> bool:
        """Whether the header is ``Bearer TOKEN``, or ``Basic`` with the token as password, as browsers ask for it."""
        kind, _, value = (authorization or b"").strip().partition(b" ")
        given = value.strip()
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != b"bearer":
            return False
        digest = _digest(given)
        # All tokens are compared, so the time says neither which one fits nor how much of it.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
