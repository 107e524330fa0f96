"""Intervals and ranking metrics."""
