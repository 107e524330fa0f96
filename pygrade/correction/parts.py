"""A correction of a log that is longer than memory: from the sample's solution by Newton steps over all of its parts.

A step's gradient and information are sums over the parts, added in their order, so that the result has the same bits
for any number of workers. The standardization, the chain, the maps and the gate are those of the sample.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple, Protocol

import numpy as np

from pygrade._typing import Floats
from pygrade.correction import newton
from pygrade.correction.fit import State
from pygrade.correction.inputs import TaskRows
from pygrade.logs import Logs
from pygrade.workers import Workers

_ROUNDS, _ALONE = 5, 1  # passes over the log, and those before precisions are drawn to those of all tasks


class Part(Protocol):
    """Requests of a log, some at a time."""

    def chunks(self) -> Iterator[Logs]: ...


class _Job(NamedTuple):
    part: Part
    state: State
    examine: Callable[[Logs], Floats]

    def __str__(self) -> str:
        return str(self.part)


class _Sums(NamedTuple):
    """Information [Z·U, Z·U] and gradient [Z, U] of one task."""

    information: Floats
    gradient: Floats


def continue_fit(state: State, parts: Sequence[Part], examine: Callable[[Logs], Floats], workers: Workers) -> State:
    """The solution of all requests of the parts; examine: θ [M] of a log's rows.

    Precisions begin anew: a block that the sample did not show may be seen in the whole log.
    """
    state = replace(state, solutions=[None if at is None else _open(at) for at in state.solutions])
    pool = None
    for turn in range(_ROUNDS):
        jobs = [_Job(part, state, examine) for part in parts]
        total = reduce(_add, workers.map(sums_of_part, jobs, "correction"))
        tasks = zip(state.designs, state.solutions, total, strict=True)
        moved = [None if at is None else _moved(design, at, sums, pool) for design, at, sums in tasks]
        state = replace(state, solutions=moved)
        pool = newton.pooled(moved, state.designs[0]) if turn >= _ALONE else None
    return state


def _open(at: newton.Solution) -> newton.Solution:
    return replace(at, precision=np.minimum(at.precision, newton.FIRST_PRECISION))


def _moved(design: newton.Design, at: newton.Solution, sums: _Sums, pool: dict[str, float] | None) -> newton.Solution:
    covariance = newton.inverse(design.information(sums.information), at.precision)
    vector = at.vector + covariance @ (design.gradient(sums.gradient) - at.precision * at.vector)
    precision, determined = newton.renewed(design, vector, at.precision, covariance, pool)
    return newton.Solution(vector, precision, determined)


def sums_of_part(job: _Job) -> list[_Sums]:
    """The sums of a part's requests at the state's coefficients, by task."""
    state, weights = job.state, job.state.weights()

    def sums_of(logs: Logs) -> list[_Sums]:
        predictions = logs.predictions if state.maps is None else state.maps.apply(logs.predictions)
        inputs, theta = state.scaling.inputs(logs, predictions), job.examine(logs)[logs.shown]
        sums = []
        for t, case in enumerate(state.cases):
            rows = TaskRows(t, state.scaling, inputs, logs, theta, case=case)
            mean = rows.mean(weights[t])
            sums.append(_Sums(rows.information(mean)[0], rows.gradient(mean)))
        return sums

    return reduce(_add, map(sums_of, job.part.chunks()))


def _add(one: list[_Sums], other: list[_Sums]) -> list[_Sums]:
    return [_Sums(*map(np.add, *pair)) for pair in zip(one, other, strict=True)]
