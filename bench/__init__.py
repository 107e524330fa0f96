"""Benchmarks: `cpu` and `gpu` time the ops, `system` what is built on them; `report` reads what is in `results/`."""
