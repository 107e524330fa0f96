"""Data sources: one loader per public data set, and the synthetic marketplace."""

from pathlib import Path
from typing import Any

from pygrade.logs import Logs, read_logs

SCHEMES = {
    "logs": "logs:DIR, Parquet logs that pygrade wrote",
    "kuairand": "kuairand:DIR, the KuaiRand files (excerpt, Pure, 1K or 27K)",
}


def load(spec: str, **options: Any) -> Logs:
    """The logs that ``SCHEME:PATH`` names: ``logs:DIR`` or ``kuairand:DIR``.

    ``options`` are the fields of `pygrade.data.kuairand.KuaiRandConfig` (``kuairand:`` only) and ``log``, a function
    that gets a line of progress now and then. ValueError for an unknown scheme or option, FileNotFoundError for a
    missing path, and what the loader itself raises.
    """
    scheme, colon, path = spec.partition(":")
    accepted = "; ".join(SCHEMES.values())
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"data is {spec!r}; want one of {accepted}")
    if not path:
        raise ValueError(f"data is {spec!r}, which names no directory; want one of {accepted}")
    if not Path(path).exists():
        raise FileNotFoundError(f"data is {spec!r}, and {path} does not exist; want one of {accepted}")
    log = options.pop("log", None)
    if scheme == "logs":
        if options:
            raise ValueError(f"option {next(iter(options))!r} is unknown for logs:; it takes none")
        return read_logs(path)
    from dataclasses import fields

    from pygrade.data import kuairand  # loads the multi-task model, which reading Parquet does not need

    names = [f.name for f in fields(kuairand.KuaiRandConfig)]
    for name in options:
        if name not in names:
            raise ValueError(f"option {name!r} is unknown for kuairand:; it takes {', '.join(names)}")
    return kuairand.load(path, kuairand.KuaiRandConfig(**options), log)
