"""Benchmarks: `cpu` and `gpu` time the ops, `system` what is built on them; `report` reads what is in `results/`.

Installed as pygrade.bench, without the study, `system` and `results`, which need a clone of the repository.
"""

PROG = "python -m bench" if __name__ == "bench" else "pygrade bench"
