"""Logged requests: the typed record that every stage reads, and its Parquet form."""

from pygrade.logs.arrays import count_distinct, evenly_spaced, numbered, pad
from pygrade.logs.categories import encode
from pygrade.logs.contract import LogContractError
from pygrade.logs.files import concatenate, read_logs, write_logs
from pygrade.logs.keys import request_keys
from pygrade.logs.logs import EXPLORATIONS, Logs, validate

__all__ = [
    "EXPLORATIONS",
    "LogContractError",
    "Logs",
    "concatenate",
    "count_distinct",
    "encode",
    "evenly_spaced",
    "numbered",
    "pad",
    "read_logs",
    "request_keys",
    "validate",
    "write_logs",
]
