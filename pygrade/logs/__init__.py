"""Logged requests: the typed record that every stage reads, and its Parquet form."""

from pygrade.logs.arrays import numbered, pad
from pygrade.logs.keys import request_keys
from pygrade.logs.logs import EXPLORATIONS, Logs, concatenate, read_logs, validate, write_logs

__all__ = [
    "EXPLORATIONS",
    "Logs",
    "concatenate",
    "numbered",
    "pad",
    "read_logs",
    "request_keys",
    "validate",
    "write_logs",
]
