"""Importers of event logs, one for each data set, and the log of raw events that they write."""
