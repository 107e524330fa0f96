"""Raw events of every data set in one form: `import_events` writes it once, `EventLog` reads it in chunks.

``SCHEME:PATH`` names the files as they are downloaded. ``logs:`` is pygrade's own contract (`logs_events`), ``events:``
names the schema of tables of one's own (`raw_events`). Every other scheme is an entry point of the group `GROUP`, a
function ``importer(directory, writer, config)`` like those of
``examples/datasets``: it reads the directory, gives `EventWriter` the rows and says last what they are
(`EventWriter.finish`). Its config is that of `CONFIGS`, or None.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory
from pygrade.config.data import EbNerdConfig, KuaiRandEventConfig, LogsEventConfig, RawEventsConfig, RecFlowConfig
from pygrade.data.event_log import EventLog, EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.logs_events import import_logs
from pygrade.data.raw_events import import_raw_events, open_schema
from pygrade.storage import Place, download, place_exists, place_of

__all__ = ["CONFIGS", "EventLog", "EventSource", "import_events", "parse_spec"]

GROUP = "pygrade.datasets"  # of entry points: name of a scheme = module:function
CONFIGS: dict[str, type] = {
    "kuairand": KuaiRandEventConfig,
    "recflow": RecFlowConfig,
    "ebnerd": EbNerdConfig,
    "logs": LogsEventConfig,
    "events": RawEventsConfig,
}
"""The dataclass of options of each scheme."""

_OWN: dict[str, Callable[..., None]] = {"logs": import_logs, "events": import_raw_events}


def schemes() -> list[str]:
    """Names of the schemes that have an importer."""
    return [*_OWN, *sorted({point.name for point in entry_points(group=GROUP)} - set(_OWN))]


def importer_of(scheme: str) -> Callable[..., None]:
    """The function that imports a scheme's files."""
    return _OWN.get(scheme) or _entry(scheme).load()


def places_of(scheme: str, place: Place) -> list[Place]:
    """Everything that an importer reads: the place, and the tables that a schema of events names."""
    return [place, *(open_schema(place).places if scheme == "events" else ())]


def importer_hash(scheme: str) -> str:
    """Hash of the source files of a scheme's importer; empty for those that are part of the package."""
    if scheme in _OWN:
        return ""
    spec = find_spec(_entry(scheme).module.partition(".")[0])
    digest = hashlib.sha256()
    if spec is not None and spec.origin is not None:
        module = Path(spec.origin)
        for file in sorted(module.parent.rglob("*.py")) if spec.submodule_search_locations else [module]:
            digest.update(f"{file.relative_to(module.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _entry(scheme: str) -> EntryPoint:
    return next(iter(entry_points(group=GROUP, name=scheme)))


def parse_spec(spec: str, accepted: Sequence[str] | None = None) -> tuple[str, Place]:
    """Scheme and place of ``SCHEME:PATH`` or ``SCHEME:URL``, such as ``logs:s3://bucket/logs``.

    ValueError if the scheme is not one of ``accepted`` (None: of all `schemes`), FileNotFoundError if nothing is there,
    StorageError if the store of a URL refuses or can't be reached.
    """
    scheme, _, path = spec.partition(":")
    importable = schemes()
    accepted = importable if accepted is None else accepted
    wanted = ", ".join(f"{name}:{'SCHEMA.toml' if name == 'events' else 'DIR'}" for name in accepted)
    if scheme not in accepted or not path:
        raw = f"; `pygrade pipeline` reads {scheme}:" if scheme in importable and scheme not in accepted else ""
        there = not path and place_exists(place_of(spec))
        table = f"; logs:{spec} if it is a log, else `pygrade doctor {spec} --out DIR` makes one of a table"
        raise ValueError(f"data is {spec!r}; expected one of {wanted}{raw}{table if there else ''}")
    place = place_of(path)
    if not place_exists(place):
        raise FileNotFoundError(f"data is {spec!r}, and {path} does not exist; expected one of {wanted}")
    return scheme, place


def import_events(spec: str, out: str | Path, config: Any = None, *, rows: int = 500_000) -> EventLog:
    """Writes the raw events that ``SCHEME:PATH`` names into the directory ``out`` and opens it; of a URL, those of a
    local copy.

    ``config`` is the scheme's dataclass (`CONFIGS`). ``rows`` is how many rows are sorted at a time; memory does not
    grow with the log (``logs:`` takes as much as one of its files). The log is the same, byte for byte, for any
    division of the same rows into files (of ``logs:``, of whole requests); `event_writer` says what decides between
    duplicates. Scratch files beside ``out`` hold the rows meanwhile, and are removed at the
    end, also after an error.

    The directory appears at once and complete; it replaces an earlier log of events, never anything else. ValueError
    for an unknown scheme, a foreign directory and bad input (named by file, line or row, and column), TypeError for
    another scheme's config, FileNotFoundError for missing files.
    """
    scheme, place = parse_spec(spec)
    if config is not None and not isinstance(config, CONFIGS.get(scheme, ())):
        wanted = f"a {CONFIGS[scheme].__name__}" if scheme in CONFIGS else "None"
        raise TypeError(f"config is a {type(config).__name__}; expected {wanted} for {scheme}:")
    out = Path(out)
    if out.exists() and not (out.is_dir() and ((out / "source.json").is_file() or not any(out.iterdir()))):
        raise ValueError(f"{out} exists and is no log of events; expected a path that is free")
    with atomic_directory(out) as directory:
        source = place if scheme == "events" else download(place)  # whose tables may be anywhere
        importer_of(scheme)(source, EventWriter(directory, rows), config)
    return EventLog.open(out)
