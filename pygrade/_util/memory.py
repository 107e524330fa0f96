"""Peak memory of this process."""

import resource
import sys


def peak_mib() -> float:
    """The largest memory of this process so far, MiB."""
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
