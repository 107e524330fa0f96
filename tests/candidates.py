"""Files of candidates, for `CandidateCopies`."""

import numpy as np

from pygrade.pipeline.candidates import CandidateFile, write_candidates


def candidate_file(path, requests, times, items) -> CandidateFile:
    """The file of some requests, in order of time, each with its list of items."""
    sizes = np.array([len(row) for row in items])
    return write_candidates(path, np.array(requests), np.array(times), sizes, np.concatenate(items).astype(np.int64))
