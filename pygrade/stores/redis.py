"""The store for many machines: a Redis server (7 or newer, or a compatible one), through redis-py.

    PREFIX:store             hash   format; current, the name of the current version; next, a counter
    PREFIX:versions          hash   name → "<number> filling" or "<number> ready"
    PREFIX:tables:VERSION    set    the tables of a version
    PREFIX:v:VERSION:TABLE   hash   key as decimal text → the record (pygrade/stores/record.py)

A read asks for the current version's name and, in the same MULTI block, for the records of the version that was current
at the last read: one round trip, and a second one only after a switch. Every write is a Lua script that first checks
whether its version is still current. Expiry follows the clock of the machine that reads.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pygrade._util import optional_imports as extras
from pygrade.stores.errors import (
    MissingVersionError,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreUnreachableError,
    VersionInUseError,
    format_message,
)
from pygrade.stores.record import FORMAT, header, is_expired, now, pack, unpack
from pygrade.stores.store import (
    CURRENT,
    FILLING,
    READY,
    Keys,
    Request,
    Store,
    Values,
    check_keys,
    check_requests,
    check_table,
    check_ttl,
    check_updated,
    check_values,
    check_version,
    without_secret,
)

TIMEOUT = 0.25  # seconds for a connection, and for an answer
_LONGEST = 86_400.0  # seconds that a timeout may have
PAUSE = 1.0  # seconds without requests to a server that did not answer in time
_BATCH = 4096  # records a script writes: other clients wait only for these
_ATTEMPTS = 1000  # of an update while others write to the same keys

# KEYS: store, versions, tables, hash of the table. ARGV: version, "1" if it must be the current one, table, then
# key, record, key, record … (unpack takes some 8000 at once)
_PUT = """
if ARGV[2] == '1' and redis.call('HGET', KEYS[1], 'current') ~= ARGV[1] then return 'switched' end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 'missing' end
redis.call('SADD', KEYS[3], ARGV[3])
for i = 4, #ARGV, 2000 do
  redis.call('HSET', KEYS[4], unpack(ARGV, i, math.min(i + 1999, #ARGV)))
end
return 'ok'
"""

# KEYS: store, tables, then the hash of each table. ARGV: version, then for each table its name, the number n of its
# records, n keys, the n old records ('' for none) and n new ones. Nothing is written if an old one has changed.
_UPDATE = """
if redis.call('HGET', KEYS[1], 'current') ~= ARGV[1] then return 'switched' end
local at = 2
for t = 3, #KEYS do
  local n = tonumber(ARGV[at + 1])
  for i = at + 2, at + 1 + n do
    if (redis.call('HGET', KEYS[t], ARGV[i]) or '') ~= ARGV[i + n] then return 'changed' end
  end
  at = at + 2 + 3 * n
end
at = 2
for t = 3, #KEYS do
  local n = tonumber(ARGV[at + 1])
  redis.call('SADD', KEYS[2], ARGV[at])
  for i = at + 2, at + 1 + n do redis.call('HSET', KEYS[t], ARGV[i], ARGV[i + 2 * n]) end
  at = at + 2 + 3 * n
end
return 'ok'
"""

# KEYS: store, versions, tables. ARGV: version, prefix of its hashes.
_BEGIN = """
local state = redis.call('HGET', KEYS[2], ARGV[1])
if state and string.find(state, ' ready') then return 'ready' end
for _, table in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('UNLINK', ARGV[2] .. table) end
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[2], ARGV[1], redis.call('HINCRBY', KEYS[1], 'next', 1) .. ' filling')
return 'ok'
"""
_SWITCH = """
local state = redis.call('HGET', KEYS[2], ARGV[1])
if not state then return 'missing' end
redis.call('HSET', KEYS[2], ARGV[1], string.match(state, '^%d+') .. ' ready')
redis.call('HSET', KEYS[1], 'current', ARGV[1])
return 'ok'
"""
_DROP = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 'missing' end
if redis.call('HGET', KEYS[1], 'current') == ARGV[1] then return 'current' end
for _, table in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('UNLINK', ARGV[2] .. table) end
redis.call('DEL', KEYS[3])
redis.call('HDEL', KEYS[2], ARGV[1])
return 'ok'
"""

# KEYS: hash of a table. ARGV: key, record, key, record …: removes those that have not changed.
_EXPIRE = """
local gone = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then gone = gone + redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return gone
"""


class RedisStore(Store):
    """`Store` on a Redis server.

    url: redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://… (TLS) or unix://SOCKET?db=DB, with ?prefix=NAME (default
    "pygrade": several stores share a server) and ?timeout=SECONDS. ``create``: make the store if there is none, which
    is an error otherwise.

    A server that does not answer within the timeout raises `StoreUnreachableError`, and so does, at once, every request
    of the second after; lost connections are made again. An update whose answer was lost is not repeated: it may have
    been done.
    """

    def __init__(self, url: str, create: bool = False) -> None:
        address, prefix, timeout = _parse(url)
        super().__init__(without_secret(url))
        redis = extras.require("redis", "pipeline")
        backoff = extras.require("redis.backoff", "pipeline").NoBackoff()
        retry = extras.require("redis.retry", "pipeline").Retry(backoff, 0)
        self._errors = redis.exceptions
        self._client: Any = redis.Redis.from_url(
            address, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry, protocol=2
        )
        self._prefix = prefix.encode()
        self._store, self._versions = self._prefix + b":store", self._prefix + b":versions"
        scripts = {"put": _PUT, "update": _UPDATE, "begin": _BEGIN, "switch": _SWITCH, "drop": _DROP, "expire": _EXPIRE}
        self._scripts = {name: self._client.register_script(text) for name, text in scripts.items()}
        self._seen: bytes | None = None  # the version that was current at the last read
        self._down_until = 0.0
        try:
            self._check_server(create)
        except BaseException:
            self.close()
            raise

    # --- records ------------------------------------------------------------------------------------------------------

    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        checked = check_requests(requests)
        stored = self._read(checked)[1] if version is None else self._read_version(checked, check_version(version))
        return [self._unpack(records) for records in stored]

    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        table, keys = check_table(table), check_keys(keys)
        records = pack(check_values(values, len(keys)), header(check_ttl(ttl)))
        fields = _fields(keys)
        for start in range(0, len(fields), _BATCH):
            pairs = zip(fields[start : start + _BATCH], records[start : start + _BATCH], strict=True)
            flat = [part for pair in pairs for part in pair]
            answer = b"switched"
            while answer == b"switched":
                name = self._current_or_raise() if version is None else check_version(version).encode()
                places = (self._store, self._versions, self._tables(name), self._hash(name, table))
                answer = self._run("put", places, (name, b"1" if version is None else b"0", table, *flat))
            if answer == b"missing":
                raise self._missing(name)

    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        checked, ttl = check_requests(requests, distinct=True), check_ttl(ttl)
        for attempt in range(_ATTEMPTS):
            name, stored = self._read(checked)
            updated = check_updated(update([self._unpack(records) for records in stored]), checked)
            head = header(ttl)
            arguments: list[Any] = [name]
            for (table, keys), records, values in zip(checked, stored, updated, strict=True):
                arguments += [table, len(keys), *_fields(keys)]
                arguments += [b"" if old is None else old for old in records]
                arguments += pack(values, head)
            places = (self._store, self._tables(name), *(self._hash(name, table) for table, _ in checked))
            if self._run("update", places, arguments) == b"ok":
                return
            time.sleep(random.random() * min(0.05, 0.0005 * (attempt + 1)))  # let others finish
        raise StoreError(f"{self.url}: others wrote to the same keys before each of {_ATTEMPTS} attempts of an update")

    def sweep(self) -> int:
        moment, gone = now(), 0
        for version in self.versions():
            with self._named():
                tables = list(self._client.sscan_iter(self._tables(version.encode())))
            for table in tables:
                gone += self._sweep(self._hash(version.encode(), table.decode()), moment)
        return gone

    # --- versions -----------------------------------------------------------------------------------------------------

    def begin(self, version: str) -> None:
        if self._manage("begin", version) == b"ready":
            raise VersionInUseError(f"{self.url}: version {version!r} is complete; drop it first")

    def switch(self, version: str) -> None:
        self._manage("switch", version)

    def versions(self) -> dict[str, str]:
        with self._named():
            pipe = self._client.pipeline(transaction=True)
            current, states = pipe.hget(self._store, "current").hgetall(self._versions).execute()
        numbered = sorted((int(state.split()[0]), name, state.split()[1]) for name, state in states.items())
        names = {b"filling": FILLING, b"ready": READY}
        return {name.decode(): CURRENT if name == current else names[state] for _, name, state in numbered}

    def drop(self, version: str) -> None:
        if self._manage("drop", version) == b"current":
            raise VersionInUseError(f"{self.url}: version {version!r} is current; switch to another first")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _read(self, requests: Sequence[Request]) -> tuple[bytes, list[list[bytes | None]]]:
        """The current version and the records, of one moment."""
        name = self._seen or self._current_or_raise()
        while True:
            current, records = self._ask(requests, name, self._store, "current")
            if current == name:
                return name, records
            name = self._known(current)

    def _read_version(self, requests: Sequence[Request], version: str) -> list[list[bytes | None]]:
        """The records of a complete version."""
        name = version.encode()
        state, records = self._ask(requests, name, self._versions, version)
        if state is None or not state.endswith(b" ready"):
            raise MissingVersionError(f"{self.url} has no complete version {version!r}; switch to it first")
        return records

    def _ask(
        self, requests: Sequence[Request], name: bytes, place: bytes, field: str
    ) -> tuple[bytes | None, list[list[bytes | None]]]:
        """A field of a hash and the records of a version, of one moment."""
        fields = [_fields(keys) for _, keys in requests]
        with self._named():
            pipe = self._client.pipeline(transaction=True)
            pipe.hget(place, field)
            for (table, _), keys in zip(requests, fields, strict=True):
                if keys:
                    pipe.hmget(self._hash(name, table), keys)
            found, *answers = pipe.execute()
        rest = iter(answers)
        return found, [next(rest) if keys else [] for keys in fields]

    def _current_or_raise(self) -> bytes:
        with self._named():
            return self._known(self._client.hget(self._store, "current"))

    def _known(self, current: bytes | None) -> bytes:
        self._seen = current
        if current is None:
            raise MissingVersionError(f"{self.url} has no current version; fill one and switch to it")
        return current

    def _manage(self, script: str, version: str) -> bytes:
        name = check_version(version).encode()
        places = (self._store, self._versions, self._tables(name))
        answer: bytes = self._run(script, places, (name, self._hash(name, "")))
        if answer == b"missing":
            raise self._missing(name)
        return answer

    def _missing(self, name: bytes) -> StoreError:
        return MissingVersionError(f"{self.url} has no version {name.decode()!r}; begin it first")

    def _run(self, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        with self._named():
            return self._scripts[script](keys=keys, args=arguments, client=self._client)

    def _sweep(self, place: bytes, moment: int) -> int:
        gone, cursor = 0, 1
        position = 0
        while cursor:
            with self._named():
                cursor, records = self._client.hscan(place, position, count=1000)
            position = cursor
            expired = [part for pair in records.items() if is_expired(pair[1], moment) for part in pair]
            gone += self._run("expire", (place,), expired) if expired else 0
        return gone

    def _tables(self, version: bytes) -> bytes:
        return b"%b:tables:%b" % (self._prefix, version)

    def _hash(self, version: bytes, table: str) -> bytes:
        return b"%b:v:%b:%b" % (self._prefix, version, table.encode())

    def _unpack(self, records: list[bytes | None]) -> Values:
        try:
            return unpack(records)
        except ValueError as error:
            raise StoreCorruptError(f"{self.url}: {error}") from error

    def _check_server(self, create: bool) -> None:
        with self._named():
            memory = self._client.info("memory")
            if create:
                self._client.hsetnx(self._store, "format", FORMAT)
            stored = self._client.hget(self._store, "format")
        if stored is None:
            raise NotAStoreError(f"{self.url}: the server holds no store of this prefix; one is made with create=True")
        if stored != FORMAT:
            raise StoreFormatError(format_message(self.url, stored, FORMAT))
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys") and int(memory.get("maxmemory", 0)):
            raise StoreError(
                f"{self.url}: the server may evict whole tables (maxmemory-policy {policy}); want noeviction"
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns redis-py's errors into StoreErrors."""
        if self._client is None:
            raise StoreError(f"{self.url}: the store is closed")
        if time.monotonic() < self._down_until:
            raise StoreUnreachableError(f"{self.url} has not answered within the last {PAUSE:g} s")
        try:
            yield
        except self._errors.TimeoutError as error:
            self._down_until = time.monotonic() + PAUSE
            raise StoreUnreachableError(f"{self.url} does not answer: {error}") from error
        except (self._errors.ConnectionError, OSError) as error:
            raise StoreUnreachableError(f"{self.url} is not reachable: {error}") from error
        except self._errors.ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise NotAStoreError(f"{self.url}: keys of this prefix are no store: {error}") from error
            raise StoreError(f"{self.url}: the server refuses: {error}") from error
        except self._errors.RedisError as error:
            raise StoreError(f"{self.url}: {error}") from error


def _fields(keys: Keys) -> list[bytes]:
    return [b"%d" % key for key in keys.tolist()]


def _parse(url: str) -> tuple[str, str, float]:
    """redis-py's part of the address, the prefix and the timeout. ValueError never shows a user or password."""
    parts = urlsplit(url)
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    if parts.fragment or any("@" in text for text in (parts.path, *options) if parts.scheme != "unix"):
        raise ValueError("url has a '/', '?' or '#' in its user or password; want it percent-encoded")
    try:
        parts.port  # noqa: B018
    except ValueError:
        raise ValueError("url has a port that is no number from 0 to 65535") from None
    prefix, seconds = options.pop("prefix", "pygrade"), options.pop("timeout", str(TIMEOUT))
    try:
        timeout = float(seconds)
    except ValueError:
        timeout = 0.0
    if not 0.0 < timeout <= _LONGEST:
        raise ValueError(f"url has timeout={seconds!r}; want seconds, above 0 and at most {_LONGEST:g}")
    if unknown := set(options) - {"db"}:
        raise ValueError(f"url has the option {sorted(unknown)[0]!r}; want prefix, timeout or db")
    for database in ([] if parts.scheme == "unix" else [parts.path.removeprefix("/")]) + [*options.values()]:
        if not re.fullmatch(r"[0-9]{0,9}", database, re.ASCII):
            raise ValueError(f"url has the database {database!r}; want a whole number from 0 on")
    return f"{address}?{urlencode(options)}", prefix, timeout
