"""Files in object stores (S3, Google Cloud Storage, Azure …) by fsspec, over pyarrow's file systems where it has one.

Endpoints and credentials come from the variables that the stores' own tools read: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE; GOOGLE_APPLICATION_CREDENTIALS;
AZURE_STORAGE_ACCOUNT_NAME and so on.
"""

import functools
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pygrade._util.optional_imports import require

ATTEMPTS = 4  # of a request, before its store counts as unreachable
_CONNECT_SECONDS, _REQUEST_SECONDS = 5.0, 60.0
_THREADS = 8  # copies at a time
_S3_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_S3_SECRETS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_REASONS = {  # in the text of an error → what it means
    "NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist": "no such bucket",
    "ACCESS_DENIED|INVALID_|SIGNATURE_|UNRECOGNIZED_CLIENT|EXPIRED|HTTP status 40[13]|AccessDenied|Forbidden|Unauth": (
        "the store refuses these credentials; want credentials in the environment that may read and write there"
    ),
    "NETWORK_CONNECTION|curlCode|SLOW_DOWN|UNAVAILABLE|TIMEOUT|[Cc]onnect": "the store can't be reached",
}


class StorageError(OSError):
    """A store that refuses or can't be reached, or a copy that is not what was published; the message has the URL."""


class Found(NamedTuple):
    """A file in a store."""

    size: int
    stamp: str  # another one if the content changed
    changed: float = 0.0  # seconds since 1970, if a listing shows it


class Files:
    """The files of one store. Paths are those of its file system: ``bucket/key``."""

    def __init__(self, scheme: str, system: Any) -> None:
        self.scheme, self.system = scheme, system

    def is_file(self, path: str) -> bool:
        """True if an object has this name."""
        with self._errors(path):
            return bool(self.system.isfile(path))

    def listing(self, path: str) -> dict[str, Found]:
        """The files below a path by their names relative to it, sorted; {} if there are none."""
        with self._errors(path):
            self.system.invalidate_cache()
            found = self.system.find(path, detail=True)
        start = len(path) + 1
        return {
            name.strip("/")[start:]: _found(fact) for name, fact in sorted(found.items()) if name.strip("/") != path
        }

    def head(self, path: str) -> Found:
        """Size and stamp of a file, its ETag if the store has one; FileNotFoundError if it is not there."""
        with self._errors(path):
            fact = self.system.info(path)
            if (arrow := getattr(self.system, "fs", None)) is None:
                return Found(fact["size"], str(fact.get("ETag") or self.system.ukey(path)))
            with arrow.open_input_file(path) as stream:
                tags = {str(name).lower(): value for name, value in (stream.metadata() or {}).items()}
            return Found(fact["size"], f"{tags.get('etag')} {fact['mtime']}")

    def read(self, path: str) -> bytes:
        """The content of a small file; FileNotFoundError if it is not there."""
        with self._errors(path):
            return bytes(self.system.cat_file(path))

    def download(self, path: str, target: Path) -> None:
        """Copies a file into a local one."""
        with self._errors(path):
            self.system.get_file(path, str(target))

    def write(self, path: str, content: bytes | Path) -> None:
        """Makes the content the file's: it is there as a whole when the upload ends, or as it was before."""
        with ExitStack() as stack:
            if not isinstance(content, Path):
                data: Any = content
            elif content.stat().st_size:
                file = stack.enter_context(content.open("rb"))
                data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                data = b""
            with self._errors(path), self.system.open(path, "wb") as stream:
                stream.write(data)  # at once: an interrupt between two would end the upload as if the file ended there

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError), self._errors(path):
            self.system.rm_file(path)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Errors of the store with the URL, and what they mean."""
        url = f"{self.scheme}://{path}"
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url} does not exist") from error
        except (OSError, require("pyarrow").ArrowException) as error:
            text = " ".join(str(error).split())
            meant = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, text)), "")
            code = found[1] if (found := re.search(r"AWS Error (\w+)", text)) else text[:200]  # without ids of requests
            raise StorageError(f"{url}: {meant} ({code})" if meant else f"{url}: {text[:300]}") from error


def _found(fact: dict[str, Any]) -> Found:
    changed = fact.get("mtime") or fact.get("LastModified") or fact.get("created")
    seconds = changed.timestamp() if isinstance(changed, datetime) else time.time()
    return Found(int(fact["size"]), "", seconds)


def is_url(place: object) -> bool:
    """True if the place is a URL, such as ``s3://bucket/logs``; a local path otherwise."""
    return isinstance(place, str) and _URL.match(place) is not None


def checked_url(url: str) -> str:
    """The URL without a slash at its end. ValueError, which does not show them, for secrets and options in it."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    user, _, bucket = host.rpartition("@")
    if ":" in user or (user and scheme.lower().startswith("s3")):
        raise ValueError(f"the URL {scheme}://…@{bucket} has credentials; want them in the environment")
    if "?" in rest:
        wanted = "want endpoint and credentials in the environment (AWS_ENDPOINT_URL …)"
        raise ValueError(f"the URL {scheme}://{rest.partition('?')[0]}?… has options; {wanted}")
    if not host and scheme.lower() != "file":
        raise ValueError(f"{url} names no bucket; want {scheme}://BUCKET/PATH")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def files_of(url: str) -> tuple[Files, str]:
    """The store of a URL, and the path in it. ValueError if nothing here reads the scheme."""
    scheme, _, rest = url.partition("://")
    if scheme in ("s3", "s3a"):
        settings = map(os.environ.get, (*_S3_VARIABLES, *_S3_SECRETS))
        return Files(scheme, _s3(os.getpid(), *settings)), rest.strip("/")
    host, _, path = rest.partition("/")  # abfs names container@account: the path in the store starts with the container
    return Files(scheme, _by_uri(scheme, host, os.getpid())), f"{host.partition('@')[0]}/{path}".strip("/")


@functools.cache
def _s3(_process: int, *variables: str | None) -> Any:
    """One connection a process, and another one if the environment changes."""
    fs = require("pyarrow.fs")
    own, endpoint, region, default_region = variables[:4]
    endpoint, region = own or endpoint, region or default_region
    return _wrapped(
        fs.S3FileSystem(
            endpoint_override=endpoint,
            region=region or ("us-east-1" if endpoint else None),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            background_writes=False,  # would hold a copy of the whole file
            allow_delayed_open=True,  # a small file is one request
        )
    )


@functools.cache
def _by_uri(scheme: str, host: str, _process: int) -> Any:
    pa, fs = require("pyarrow"), require("pyarrow.fs")
    url = f"{scheme}://{host}"
    try:
        return _wrapped(fs.FileSystem.from_uri(url)[0])
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid: no such scheme here
        reason = error
    try:
        return require("fsspec").core.url_to_fs(url)[0]
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url}: nothing here reads {scheme}:// ({error}; {reason})") from error


def _wrapped(system: Any) -> Any:
    return require("fsspec.implementations.arrow").ArrowFSWrapper(system, skip_instance_cache=True)


def in_parallel(work: Callable[[Any], Any], names: Iterable[Any]) -> dict[Any, Any]:
    """work(name) of every name, a few at a time; the first error ends it."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))
