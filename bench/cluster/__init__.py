"""Benchmarks of long logs in one process and on a Ray cluster: throughput, kills, and what capacity follows."""
