"""Results of functions of one object, kept as long as the object is."""

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

Subject = TypeVar("Subject")
Result = TypeVar("Result")


def cached_by_object(function: Callable[[Subject], Result]) -> Callable[[Subject], Result]:
    """The function, which remembers its result for each object that does not change; objects are told apart by
    identity. What it returns is shared: callers leave it as it is.
    """
    known: WeakKeyDictionary[Subject, Result] = WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(subject: Subject) -> Result:
        if subject not in known:
            known[subject] = function(subject)
        return known[subject]

    return remembered
