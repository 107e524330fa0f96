"""The options of a pipeline, one list for Python and the command line."""

_CANDIDATES = 50  # the default, which own predictions make 0
