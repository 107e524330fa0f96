"""Benchmarks: `cpu` and `gpu` time the ops, `system` what is built on them; `report` reads what is in `results/`.

Installed as pygrade.bench, without the study, `system` and `results`, which need a clone.
"""

PROG = "python -m bench" if __name__ == "bench" else "pygrade bench"


def usage(doc: str | None) -> str:
    """The text of --help: a docstring with the name of the program."""
    return (doc or "").replace("PROG", PROG)
