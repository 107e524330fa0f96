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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
        "the store refuses these credentials; expected credentials in the environment that may read and write there"
    ),
    "NETWORK_CONNECTION|curlCode|SLOW_DOWN|UNAVAILABLE|TIMEOUT|[Cc]onnect": "the store can't be reached",
}


class StorageError(OSError):
    """A store that refuses or can't be reached, or a copy that is not what was published; the message has the URL."""


class FileFacts(NamedTuple):
    """Facts about a file in a store."""

    size: int  # bytes
    stamp: str  # another one if the content changed
    changed: float = 0.0  # seconds since 1970, if a listing shows it


class Files:
    """The files of one store. Paths are those of its file system: ``bucket/key``. Errors have the URL and a reason."""

    def __init__(self, scheme: str, system: Any) -> None:
        self.scheme, self.system = scheme, system

    def is_file(self, path: str) -> bool:
        """Return whether an object has this name."""
        return bool(self._try(path, self.system.isfile))

    def listing(self, path: str) -> dict[str, FileFacts]:
        """The files below a path by their names relative to it, sorted; {} if there are none."""
        self.system.invalidate_cache()
        facts = self._try(path, lambda path: self.system.find(path, detail=True))
        names = {name.strip("/"): fact for name, fact in sorted(facts.items())}
        return {name[len(path) + 1 :]: _listed(fact) for name, fact in names.items() if name != path}

    def head(self, path: str) -> FileFacts:
        """Size and stamp of a file, its ETag if the store has one; FileNotFoundError if it is not there."""
        return self._try(path, self._head)  # type: ignore[no-any-return]

    def _head(self, path: str) -> FileFacts:
        fact = self.system.info(path)
        if (arrow := getattr(self.system, "fs", None)) is None:
            return FileFacts(fact["size"], str(fact.get("ETag") or self.system.ukey(path)))
        with arrow.open_input_file(path) as stream:
            tags = {str(name).lower(): value for name, value in (stream.metadata() or {}).items()}
        return FileFacts(fact["size"], f"{tags.get('etag')} {fact['mtime']}")

    def read(self, path: str) -> bytes:
        """The content of a small file; FileNotFoundError if it is not there."""
        return bytes(self._try(path, self.system.cat_file))

    def download(self, path: str, target: Path) -> None:
        """Copies a file into a local one."""
        self._try(path, lambda path: self.system.get_file(path, str(target)))

    def write(self, path: str, content: bytes | Path) -> None:
        """Makes the content the file's: it is there as a whole when the upload ends, or as it was before."""
        if isinstance(content, Path) and content.stat().st_size:
            with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                self._try(path, lambda path: self._write(path, mapped))
        else:
            self._try(path, lambda path: self._write(path, b"" if isinstance(content, Path) else content))

    def _write(self, path: str, data: bytes | mmap.mmap) -> None:
        with self.system.open(path, "wb") as stream:
            stream.write(data)  # at once: an interrupt between two would end the upload as if the file ended there

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self._try(path, self.system.rm_file)

    def _try(self, path: str, work: Callable[[str], Any]) -> Any:
        """work(path); its errors with the URL, and what they mean."""
        url = f"{self.scheme}://{path}"
        try:
            return work(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url} does not exist") from error
        except (OSError, require("pyarrow").ArrowException) as error:
            text = " ".join(str(error).split())
            reason = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, text)), "")
            code = match[1] if (match := re.search(r"AWS Error (\w+)", text)) else text[:200]  # without ids of requests
            raise StorageError(f"{url}: {reason} ({code})" if reason else f"{url}: {text[:300]}") from error


def _listed(fact: dict[str, Any]) -> FileFacts:
    changed = fact.get("mtime") or fact.get("LastModified") or fact.get("created")
    return FileFacts(int(fact["size"]), "", changed.timestamp() if isinstance(changed, datetime) else time.time())


def is_url(place: object) -> bool:
    """Return whether the place is a URL, such as ``s3://bucket/logs``; a local path otherwise."""
    return isinstance(place, str) and _URL.match(place) is not None


def checked_url(url: str) -> str:
    """The URL without a slash at its end. ValueError, which does not show them, for secrets and options in it."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    user, _, bucket = host.rpartition("@")
    if ":" in user or (user and scheme.lower().startswith("s3")):
        raise ValueError(f"the URL {scheme}://…@{bucket} has credentials; expected them in the environment")
    if "?" in rest:
        wanted = "expected endpoint and credentials in the environment (AWS_ENDPOINT_URL …)"
        raise ValueError(f"the URL {scheme}://{rest.partition('?')[0]}?… has options; {wanted}")
    if not host and scheme.lower() != "file":
        raise ValueError(f"{url} names no bucket; expected {scheme}://BUCKET/PATH")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def files_of(url: str) -> tuple[Files, str]:
    """The store of a URL, and the path in it. ValueError if nothing here reads the scheme."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")  # abfs names container@account: the path in the store starts with the container
    if scheme in ("s3", "s3a"):
        system = _s3(os.getpid(), *map(os.environ.get, (*_S3_VARIABLES, *_S3_SECRETS)))
    else:
        system = _by_uri(scheme, host, os.getpid())
    return Files(scheme, system), f"{host.partition('@')[0]}/{path}".strip("/")


@functools.cache
def _s3(_process: int, *variables: str | None) -> Any:
    """One connection a process, and another one if the environment changes."""
    fs = require("pyarrow.fs")
    own, endpoint, region, default_region = variables[:4]
    endpoint, region = own or endpoint, region or default_region
    system = fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if endpoint else None),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        background_writes=False,  # would hold a copy of the whole file
        allow_delayed_open=True,  # a small file is one request
    )
    return require("fsspec.implementations.arrow").ArrowFSWrapper(system, skip_instance_cache=True)


@functools.cache
def _by_uri(scheme: str, host: str, _process: int) -> Any:
    pa, url = require("pyarrow"), f"{scheme}://{host}"
    try:
        system = require("pyarrow.fs").FileSystem.from_uri(url)[0]
        return require("fsspec.implementations.arrow").ArrowFSWrapper(system, skip_instance_cache=True)
    except (pa.ArrowException, OSError) as error:  # ArrowInvalid: no such scheme here
        reason = error
    try:
        return require("fsspec").core.url_to_fs(url)[0]
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url}: nothing here reads {scheme}:// ({error}; {reason})") from error


def in_parallel(work: Callable[[Any], Any], names: Iterable[Any]) -> dict[Any, Any]:
    """work(name) of every name, a few at a time; the first error ends it."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))
