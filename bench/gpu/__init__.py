"""Measurements and checks on a GPU."""
