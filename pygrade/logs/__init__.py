"""Logged requests: the typed record that every stage reads, and its Parquet form."""

from pygrade.logs.logs import EXPLORATIONS, Logs, concatenate, pad, read_logs, validate, write_logs

__all__ = ["EXPLORATIONS", "Logs", "concatenate", "pad", "read_logs", "validate", "write_logs"]
