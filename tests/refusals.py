"""Errors that a call must raise."""

import pytest


def refuses(error, names, act, /, *arguments, **options):
    """Calls ``act``, which must raise this kind of error with a message that names what is wrong; returns the message.

    error: one kind, or a tuple of them. names: a regular expression that the message must hold.
    """
    __tracebackhide__ = True
    with pytest.raises(error, match=names) as caught:
        act(*arguments, **options)
    message = str(caught.value)
    del caught  # its traceback would hold what the call had, until a collection
    return message
