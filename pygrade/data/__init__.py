"""Data sets as raw events, one importer each."""
