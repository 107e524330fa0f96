"""Raw events of every data set in one form: `import_events` writes it once, `EventLog` reads it in chunks.

``SCHEME:PATH`` names the files as they are downloaded; each importer's module says which columns it reads and under
which license: `kuairand_events`, `recflow`, `ebnerd`, `logs_events`.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory
from pygrade.config.data import EbNerdConfig, KuaiRandEventConfig, LogsEventConfig, RecFlowConfig
from pygrade.data.ebnerd import import_ebnerd
from pygrade.data.event_log import EventLog, EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.kuairand_events import import_kuairand
from pygrade.data.logs_events import import_logs
from pygrade.data.recflow import import_recflow
from pygrade.storage import Place, download, place_exists, place_of
from pygrade.workers import Workers

__all__ = ["CONFIGS", "SCHEMES", "EventLog", "EventSource", "import_events", "parse_spec"]

SCHEMES = {
    "kuairand": "kuairand:DIR, the KuaiRand files (excerpt, Pure, 1K or 27K)",
    "recflow": "recflow:DIR, the RecFlow files (all_stage/ or realshow/)",
    "ebnerd": "ebnerd:DIR, an EB-NeRD bundle (demo, small or large)",
    "logs": "logs:DIR, Parquet logs in pygrade's contract",
}
CONFIGS: dict[str, type] = {
    "kuairand": KuaiRandEventConfig,
    "recflow": RecFlowConfig,
    "ebnerd": EbNerdConfig,
    "logs": LogsEventConfig,
}
"""The dataclass of options of each scheme."""

_PATIENCE_SECONDS = 10.0
_IMPORTERS: dict[str, Callable[..., None]] = {
    "kuairand": import_kuairand,
    "recflow": import_recflow,
    "ebnerd": import_ebnerd,
    "logs": import_logs,
}


def parse_spec(spec: str, schemes: Sequence[str] = tuple(SCHEMES)) -> tuple[str, Place]:
    """Scheme and place of ``SCHEME:PATH`` or ``SCHEME:URL``, such as ``logs:s3://bucket/logs``.

    ValueError if the scheme is not one of ``schemes``, FileNotFoundError if nothing is there, StorageError if the store
    of a URL refuses or can't be reached.
    """
    scheme, _, path = spec.partition(":")
    accepted = "; ".join(SCHEMES[name] for name in schemes)
    if scheme not in schemes or not path:
        raw = f"; `pygrade pipeline` reads {scheme}:" if scheme in SCHEMES and scheme not in schemes else ""
        raise ValueError(f"data is {spec!r}; want one of {accepted}{raw}")
    place = place_of(path)
    if not place_exists(place):
        raise FileNotFoundError(f"data is {spec!r}, and {path} does not exist; want one of {accepted}")
    return scheme, place


def import_events(
    spec: str, out: str | Path, config: Any = None, *, rows: int = 500_000, workers: Workers | None = None
) -> EventLog:
    """Writes the raw events that ``SCHEME:PATH`` names into the directory ``out`` and opens it; of a URL, those of a
    local copy.

    ``config`` is the scheme's dataclass (`CONFIGS`). ``rows`` is how many rows a job sorts at a time; memory does not
    grow with the log. ``workers`` run the jobs (`LocalWorkers`: this process); they must see the source, and the
    directory of ``out``, under the same paths. The log is the same, byte for byte, for any workers and for any division
    of the same rows into files; `event_writer` says what decides between duplicates. Scratch files beside ``out`` hold
    the rows meanwhile, and are removed at the end, also after an error.

    The directory appears at once and complete; it replaces an earlier log of events, never anything else. ValueError
    for an unknown scheme, a foreign directory and bad input (named by file, line or row, and column), TypeError for
    another scheme's config, FileNotFoundError for missing files.
    """
    scheme, place = parse_spec(spec)
    if config is not None and not isinstance(config, CONFIGS[scheme]):
        wanted = CONFIGS[scheme].__name__
        raise TypeError(f"config is a {type(config).__name__}; want a {wanted} for {scheme}:")
    out = Path(out)
    if out.exists() and not (out.is_dir() and ((out / "source.json").is_file() or not any(out.iterdir()))):
        raise ValueError(f"{out} exists and is no log of events; want a path that is free")
    with atomic_directory(out) as directory:
        try:
            _IMPORTERS[scheme](download(place), EventWriter(directory, rows, workers), config)
        except BaseException:
            _remove(directory)
            raise
    return EventLog.open(out)


def _remove(directory: Path) -> None:
    """Removes it, though jobs that still run may put files there until they find that it is gone."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while directory.exists() and time.monotonic() < until:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)
