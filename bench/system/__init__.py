"""Benchmarks of more than an op: the stores, and the memory of a pipeline."""
