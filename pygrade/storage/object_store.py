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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pygrade._util.optional_imports import require

ATTEMPTS = 4  # of a request, before its store counts as unreachable
_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 60.0
_S3_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_S3_SECRETS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")  # schemes whose URLs begin with one
_BLOCK = 8 << 20  # bytes that a copy reads at a time
_REASONS = (  # in the text of an error → what it means
    ("NO_SUCH_BUCKET|NoSuchBucket|specified bucket does not exist", "no such bucket"),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|INVALID_CLIENT_TOKEN|EXPIRED|"
        r"HTTP status 40[13]\b|AccessDenied|Forbidden|Unauthorized|PERMISSION_DENIED|UNAUTHENTICATED",
        "the store refuses these credentials; want credentials in the environment that may read and write there "
        "({code})",
    ),
    (
        "NETWORK_CONNECTION|curlCode|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT|UNAVAILABLE|[Cc]onnect",
        "the store{where} can't be reached after {attempts} attempts ({code})",
    ),
    ("", "{text}"),
)


class StorageError(OSError):
    """A store that refuses or can't be reached, or a copy that is not what was published; the message has the URL."""


class Found(NamedTuple):
    """A file in a store."""

    size: int
    stamp: str  # another one if the content changed: the ETag or, if the store has none, the time of the change
    time_ns: int | None = None  # of the change, if a listing shows it


class ObjectStore:
    """One store. Paths are those of pyarrow: ``bucket/key``."""

    def __init__(self, scheme: str, files: Any) -> None:
        self.scheme, self.files = scheme, files

    def is_file(self, path: str) -> bool:
        """Whether an object has this name."""
        with self._errors(path):
            return bool(self.files.get_file_info(path).type == require("pyarrow.fs").FileType.File)

    def listing(self, path: str) -> dict[str, Found]:
        """The files below a path by their names relative to it, sorted; {} if there are none.

        `StorageError` if there is no such bucket.
        """
        fs = require("pyarrow.fs")
        with self._errors(path):
            infos = self.files.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            if not infos and self.scheme in _BUCKETS and not self.files.get_file_info(path.split("/")[0]).type:
                raise StorageError(f"{self.scheme}://{path}: no such bucket")
        files = sorted((info.path.strip("/")[len(path) + 1 :], info) for info in infos if info.type == fs.FileType.File)
        return {name: Found(info.size, f"time:{info.mtime_ns}", info.mtime_ns) for name, info in files}

    def head(self, path: str) -> Found:
        """Size and stamp of a file; FileNotFoundError if it is not there."""
        with self._errors(path), self.files.open_input_file(path) as stream:
            for name, value in (stream.metadata() or {}).items():
                if name.lower() in (b"etag", "etag"):
                    return Found(stream.size(), f"etag:{bytes(value).decode()}")
            if (handler := getattr(self.files, "handler", None)) is not None:
                return Found(stream.size(), f"key:{handler.fs.ukey(path)}")
            return Found(stream.size(), f"time:{self.files.get_file_info(path).mtime_ns}")

    def read(self, path: str) -> bytes:
        """The content of a small file; FileNotFoundError if it is not there."""
        with self._errors(path), self.files.open_input_file(path) as stream:
            return bytes(stream.read())

    def download(self, path: str, target: Path) -> str:
        """Copies a file into a local one; returns the sha256 of the content."""
        digest = hashlib.sha256()
        with self._errors(path), self.files.open_input_file(path) as stream, target.open("wb") as copy:
            while block := stream.read(_BLOCK):
                digest.update(block)
                copy.write(block)
        return digest.hexdigest()

    def write(self, path: str, content: bytes | Path) -> None:
        """Makes the content the file's: it is there as a whole when the upload ends, or as it was before."""
        # One call of write: an interrupt between two would end the upload as if the file ended there.
        data = content
        if isinstance(content, Path):
            data = require("pyarrow").memory_map(str(content)).read_buffer() if content.stat().st_size else b""
        with self._errors(path), self.files.open_output_stream(path) as stream:
            stream.write(data)

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError), self._errors(path):
            self.files.delete_file(path)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Errors of the store with the URL, and what to do."""
        url = f"{self.scheme}://{path}"
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url} does not exist") from error
        except (OSError, require("pyarrow").ArrowException) as error:
            text = " ".join(str(error).split())
            code = found[1] if (found := re.search(r"AWS Error (\w+)", text)) else text[:120]  # without ids of requests
            endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if url.startswith("s3:") else ""
            where = f" at {endpoint}" if endpoint else ""
            reason = next(reason for pattern, reason in _REASONS if re.search(pattern, text))
            reason = reason.format(code=code, where=where, attempts=ATTEMPTS, text=text[:300])
            raise StorageError(f"{url}: {reason}") from error


def store_of(url: str) -> tuple[ObjectStore, str]:
    """The store of a URL, and the path in it. ValueError if nothing here reads the scheme."""
    scheme, _, rest = url.partition("://")
    if scheme in ("s3", "s3a"):
        settings = map(os.environ.get, (*_S3_VARIABLES, *_S3_SECRETS))
        return ObjectStore(scheme, _s3(os.getpid(), *settings)), rest.strip("/")
    host, _, path = rest.partition("/")  # abfs names container@account: the path in the store starts with the container
    return ObjectStore(scheme, _by_uri(scheme, host, os.getpid())), f"{host.partition('@')[0]}/{path}".strip("/")


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
def _by_uri(scheme: str, host: str, _process: int) -> Any:
    pa, fs = require("pyarrow"), require("pyarrow.fs")
    url = f"{scheme}://{host}"
    try:
        return fs.FileSystem.from_uri(url)[0]
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid: no such scheme here
        reason = error
    try:
        return fs.PyFileSystem(fs.FSSpecHandler(require("fsspec").core.url_to_fs(url)[0]))
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url}: nothing here reads {scheme}:// ({error}; {reason})") from error
