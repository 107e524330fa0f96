"""Problems of a table: one run finds them all, and each names its column, its first row, and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from pygrade._util.text import one_line

MOST_LEFT_OUT = 0.1  # of the requests, by a fix


class TableProblem(ValueError):
    """One problem, and what would solve it without a guess.

    ``rows``: numbers of the rows in the table that was given; the table is sound without their requests. ``column``:
    one that is sound if what cannot be read in it is missing.
    """

    def __init__(self, text: str, rows: NDArray[np.int64] | None = None, column: str = "") -> None:
        super().__init__(text)
        self.rows, self.column = rows, column


class TableProblems(ValueError):
    """Several problems of one table; `summary` is one line, `problems` one text each."""

    def __init__(self, summary: str, problems: list[str]) -> None:
        self.summary, self.problems = summary, problems
        super().__init__("\n".join([summary, *(f"- {problem}" for problem in problems)]))


class Problems:
    """The problems found so far: conversions go on behind one that failed."""

    def __init__(self) -> None:
        self.errors: list[ValueError] = []
        self.hint = ""  # what a fix would do

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keeps the ValueError of a conversion for later."""
        try:
            yield
        except ValueError as error:
            if str(error) not in map(str, self.errors):
                self.errors.append(error)

    def texts(self, where: str) -> list[str]:
        """Each problem without the table's name in front."""
        return [one_line(error, 1000).removeprefix(f"{where}: ") for error in self.errors]

    def check(self, where: str) -> None:
        """ValueError with all problems, if there are any; one is raised as it is."""
        if not self.errors:
            return
        error = self.errors[0]
        if len(self.errors) > 1:
            error = TableProblems(f"{where} has {len(self.errors)} problems", self.texts(where))
        if self.hint:
            error.add_note(self.hint)
        raise error

    def cures(self) -> tuple[NDArray[np.int64], set[str]] | None:
        """Rows whose requests to leave out and columns to read with gaps, if that solves every problem; else None."""
        problems = [error for error in self.errors if isinstance(error, TableProblem)]
        if not problems or len(problems) < len(self.errors):
            return None
        if not all(problem.column or problem.rows is not None for problem in problems):
            return None
        rows = [problem.rows for problem in problems if problem.rows is not None]
        columns = {problem.column for problem in problems if problem.column}
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64), columns


class Source(str):
    """The name of a table of several files, with the name and the number of rows of each, and what was done to them."""

    files: Sequence[tuple[str, int]]
    notes: Sequence[str]

    def __new__(cls, name: str, files: Sequence[tuple[str, int]] = (), notes: Sequence[str] = ()) -> "Source":
        result = super().__new__(cls, name)
        result.files, result.notes = files, notes
        return result


def row_of(where: str, row: int, more: str = "") -> str:
    """A row of a table as users count it: of its file."""
    for name, count in where.files if isinstance(where, Source) else ():
        if row < count:
            return f"{row}{more} of {name}"
        row -= count
    return f"{row}{more} of {where}"
