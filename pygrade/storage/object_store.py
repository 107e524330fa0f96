"""Files in object stores (S3, Google Cloud Storage, Azure …) by pyarrow, or by fsspec if pyarrow lacks the scheme.

Endpoints and credentials come from the variables that the stores' own tools read: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE; GOOGLE_APPLICATION_CREDENTIALS;
AZURE_STORAGE_ACCOUNT_NAME and so on.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require

ATTEMPTS = 4  # of a request, before its store counts as unreachable
_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 60.0
_S3_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_S3_SECRETS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")  # schemes whose URLs begin with one
_BLOCK = 8 << 20  # bytes that a copy reads at a time
_WORDS = (  # in the text of an error → what it means
    (r"NO_SUCH_BUCKET|NoSuchBucket|specified bucket does not exist", "no such bucket"),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN|EXPIRED|"
        r"HTTP status 40[13]\b|AccessDenied|Forbidden|Unauthorized|PERMISSION_DENIED|UNAUTHENTICATED",
        "the store refuses these credentials",
    ),
    (r"NETWORK_CONNECTION|curlCode|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT|UNAVAILABLE|[Cc]onnect", ""),
)


class StorageError(OSError):
    """A store that refuses or can't be reached, or a copy that is not what was published; the message has the URL."""


@dataclass(frozen=True)
class Found:
    """A file in a store."""

    size: int
    stamp: str  # another one if the content changed: the ETag or, if the store has none, the time of the change


class ObjectStore:
    """One store. Paths are those of pyarrow: ``bucket/key``."""

    def __init__(self, scheme: str, files: Any, fsspec: Any = None) -> None:
        self.scheme, self.files, self.fsspec = scheme, files, fsspec

    def url(self, path: str) -> str:
        return f"{self.scheme}://{path}"

    def is_file(self, path: str) -> bool:
        """Whether an object has this name."""
        with self._naming(path):
            return bool(self.files.get_file_info(path).type == require("pyarrow.fs").FileType.File)

    def listing(self, path: str) -> dict[str, Found]:
        """The files below a path: name relative to it → size and time of the change; {} if there are none.

        `StorageError` if there is no such bucket.
        """
        fs = require("pyarrow.fs")
        with self._naming(path):
            found = self.files.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            bucket = path.split("/")[0]
            if not found and self.scheme in _BUCKETS and not self.files.get_file_info(bucket).type:
                raise StorageError(f"{self.url(path)}: no such bucket")
        files = (info for info in found if info.type == fs.FileType.File)
        start = len(path) + 1
        result = {info.path.strip("/")[start:]: Found(info.size, f"time:{info.mtime_ns}") for info in files}
        return dict(sorted(result.items()))

    def head(self, path: str) -> Found:
        """Size and stamp of a file; FileNotFoundError if it is not there."""
        with self._naming(path), self.files.open_input_file(path) as stream:
            size, facts = stream.size(), stream.metadata() or {}
            tags = [bytes(value).decode() for name, value in facts.items() if _text(name).lower() == "etag"]
            if tags:
                return Found(size, f"etag:{tags[0]}")
            if self.fsspec is not None:
                return Found(size, f"key:{self.fsspec.ukey(path)}")
            return Found(size, f"time:{self.files.get_file_info(path).mtime_ns}")

    def open(self, path: str) -> Any:
        """A file that pyarrow and polars read and seek in, part by part."""
        with self._naming(path):
            return self.files.open_input_file(path)

    def read(self, path: str) -> bytes:
        """The content of a small file; FileNotFoundError if it is not there."""
        with self._naming(path), self.files.open_input_file(path) as stream:
            return bytes(stream.read())

    def download(self, path: str, target: Path) -> str:
        """Copies a file into a local one; returns the sha256 of the content."""
        digest = hashlib.sha256()
        with self._naming(path), self.files.open_input_file(path) as stream, target.open("wb") as copy:
            while block := stream.read(_BLOCK):
                digest.update(block)
                copy.write(block)
        return digest.hexdigest()

    def write(self, path: str, content: bytes | Path) -> None:
        """Makes the content the file's: it is there as a whole when the upload ends, or as it was before."""
        pa = require("pyarrow")
        # One call of write: an interrupt between two would end the upload as if the file ended there.
        data = content
        if isinstance(content, Path):
            data = pa.memory_map(str(content)).read_buffer() if content.stat().st_size else b""
        with self._naming(path), self.files.open_output_stream(path) as stream:
            stream.write(data)

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with self._naming(path):
            try:
                self.files.delete_file(path)
            except FileNotFoundError:
                return

    @contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        """Errors of the store with the URL, and what to do."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.url(path)} does not exist") from error
        except (OSError, require("pyarrow").ArrowException) as error:
            raise _named(error, self.url(path)) from error


def _named(error: Exception, url: str) -> StorageError:
    text = " ".join(str(error).split())
    for pattern, meaning in _WORDS:
        if not re.search(pattern, text):
            continue
        if meaning == "no such bucket":
            return StorageError(f"{url}: no such bucket")
        if meaning:
            wanted = "want credentials in the environment that may read and write there"
            return StorageError(f"{url}: {meaning}; {wanted} ({_code(text)})")
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if url.startswith("s3:") else ""
        where = f" at {endpoint}" if endpoint else ""
        return StorageError(f"{url}: the store{where} can't be reached after {ATTEMPTS} attempts ({_code(text)})")
    return StorageError(f"{url}: {text[:300]}")


def _code(text: str) -> str:
    """The store's own word for an error, without ids of requests."""
    found = re.search(r"AWS Error (\w+)", text)
    return found[1] if found else text[:120]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def store_of(url: str) -> tuple[ObjectStore, str]:
    """The store of a URL, and the path in it. ValueError if nothing here reads the scheme."""
    scheme, _, rest = url.partition("://")
    if scheme in ("s3", "s3a"):
        settings = map(os.environ.get, (*_S3_VARIABLES, *_S3_SECRETS))
        return ObjectStore(scheme, _s3(os.getpid(), *settings)), rest.strip("/")
    return _by_uri(scheme, rest.split("/")[0], os.getpid()), _path_in(scheme, rest)


def _path_in(scheme: str, rest: str) -> str:
    """abfs names container@account: the path in the store starts with the container."""
    host, _, path = rest.partition("/")
    return f"{host.partition('@')[0]}/{path}".strip("/") if "@" in host else rest.strip("/")


@functools.cache
def _s3(_process: int, *variables: str | None) -> Any:
    """One connection a process, and another one if the environment changes."""
    fs = require("pyarrow.fs")
    own, endpoint, region, default_region = variables[:4]
    endpoint, region = own or endpoint, region or default_region
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if endpoint else None),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        background_writes=False,  # would hold a copy of the whole file
        allow_delayed_open=True,  # a small file is one request
    )


@functools.cache
def _by_uri(scheme: str, host: str, _process: int) -> ObjectStore:
    pa, fs = require("pyarrow"), require("pyarrow.fs")
    url = f"{scheme}://{host}"
    try:
        return ObjectStore(scheme, fs.FileSystem.from_uri(url)[0])
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid: no such scheme here
        reason = error
    try:
        found = require("fsspec").core.url_to_fs(url)[0]
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url}: nothing here reads {scheme}:// ({error}; {reason})") from error
    return ObjectStore(scheme, fs.PyFileSystem(fs.FSSpecHandler(found)), found)
