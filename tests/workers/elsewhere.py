"""Workers behind a wire."""

import pickle


class Elsewhere:
    """Whatever goes to these workers and back is pickled, and jobs end in another order than they begin."""

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, work, jobs, name):
        results = {}
        for number in [n for first in range(self.count) for n in range(first, len(jobs), self.count)]:
            results[number] = wire(wire(work)(wire(jobs[number])))
        yield from (results[number] for number in range(len(jobs)))


def wire(value):
    return pickle.loads(pickle.dumps(value))
