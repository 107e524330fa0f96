"""Progress and warnings go to standard error."""

import logging

import pytest

from pygrade.cli.console import show_log


@pytest.mark.parametrize(
    ("quiet", "expected"), [(False, "reading a\nwarning: b is odd\n"), (True, "warning: b is odd\n")]
)
def test_the_log_is_shown_once_and_quiet_keeps_warnings(capsys, quiet, expected):
    logger = logging.getLogger("pygrade")
    for _ in range(2):
        show_log(quiet)
    logger.info("reading %s", "a")
    logger.warning("%s is odd", "b")
    assert capsys.readouterr().err == expected
