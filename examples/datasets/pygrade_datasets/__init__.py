"""Importers of public data sets, which pygrade finds by their entry points."""
