"""Benchmarks and resource reports: `python -m bench.resources` compiles every kernel and reads what it uses."""
