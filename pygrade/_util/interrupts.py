"""Ctrl-C that is not lost: an interrupt that some library's ``except:`` swallows is raised again at the next step."""

import signal
import threading
from types import FrameType

_pending = False


def record_interrupts() -> None:
    """Remember Ctrl-C from now on, for `raise_pending`; the signal raises `KeyboardInterrupt` at once, as it always
    does. Leaves a handler that somebody else has installed, and a signal that is ignored, as they are."""
    global _pending
    _pending = False
    in_main_thread = threading.current_thread() is threading.main_thread()  # others may not install any
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def raise_pending() -> None:
    """`KeyboardInterrupt` if there was one since `record_interrupts`."""
    if _pending:
        raise KeyboardInterrupt


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    _pending = True
    raise KeyboardInterrupt
