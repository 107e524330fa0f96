"""Progress and warnings go to standard error."""

import logging

import pytest

from pygrade._util.progress import show_log


@pytest.mark.parametrize(
    ("quiet", "expected"), [(False, "reading a\nwarning: b is odd\n"), (True, "warning: b is odd\n")]
)
def test_the_log_is_shown_once_and_quiet_keeps_warnings(capsys, monkeypatch, quiet, expected):
    logger = logging.getLogger("pygrade")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    for _ in range(2):
        show_log(quiet)
    logger.info("reading %s", "a")
    logger.warning("%s is odd", "b")
    assert capsys.readouterr().err == expected
