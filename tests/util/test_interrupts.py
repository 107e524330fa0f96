import os
import signal

import pytest

from pygrade._util.interrupts import raise_pending, record_interrupts
from pygrade._util.progress import track


@pytest.fixture
def handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    record_interrupts()  # forgets the test's own
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handler")
def test_an_interrupt_that_a_library_swallows_comes_at_the_next_step():
    record_interrupts()
    raise_pending()
    with pytest.raises(KeyboardInterrupt), track("steps", total=2) as bar:
        bar.advance()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the signal raised nothing")
        except KeyboardInterrupt:
            pass
        bar.advance()


@pytest.mark.usefixtures("handler")
def test_a_handler_of_somebody_else_stays():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    record_interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
