"""Errors of clusters."""


class ClusterError(OSError):
    """A cluster that cannot be reached or used, or a job whose worker died again and again."""
