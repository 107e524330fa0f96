"""Shared by tests, bench and docs; never part of the wheel."""
