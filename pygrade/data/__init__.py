"""Data sets as raw events, one importer each, and the synthetic marketplace."""
