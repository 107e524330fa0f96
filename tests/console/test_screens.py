"""The page looks as it did."""

import shutil
import subprocess

import pytest

from tests.console.browser import needs_browser, opened
from tests.console.screens import THEMES, WIDTHS, alike, baseline, small

pytestmark = [needs_browser, pytest.mark.slow]
pytest.importorskip("PIL", reason="pillow is not installed")

FONTS = {"system-ui": "DejaVu Sans", "Arial": "Liberation Sans"}  # of the baselines; others have other widths


def font_of(family):
    """The font that the machine shows a family with."""
    command = ["fc-match", "--format", "%{family[0]}", family]
    return (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout if shutil.which("fc-match") else ""
    )


@pytest.mark.skipif({family: font_of(family) for family in FONTS} != FONTS, reason=f"the fonts are not {FONTS}")
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_screenshots_are_the_baselines(engine, address, theme, width):
    page = opened(engine, address, width, theme)
    assert alike(small(page), baseline(theme, width)), "python -m tests.console.screens makes them again: look at them"
    page.close()


@pytest.mark.parametrize(
    "damage",
    [
        "#pages { display: none; }",
        ".panel { position: absolute; left: 40%; }",
        ":root { --card: #ffe0b0; }",
        ".columns { grid-template-columns: 1fr; }",
    ],
)
def test_a_broken_page_is_not_alike(engine, address, damage):
    page = opened(engine, address, 1400)
    page.evaluate(
        "(text) => { const s = new CSSStyleSheet(); s.replaceSync(text); document.adoptedStyleSheets = [s]; }",
        damage,
    )
    assert not alike(small(page), baseline("light", 1400))
    page.close()
