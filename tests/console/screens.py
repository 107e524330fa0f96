"""Screenshots of the console, small enough to commit: `python -m tests.console.screens` makes the baselines again.

They are compared at an eighth of their size, where fonts and anti-aliasing of another machine hardly show, but a part
that is missing, moved or of another color does.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.console.browser import browser, opened

FOLDER = Path(__file__).with_name("screens")
WIDTHS, THEMES = (400, 800, 1400), ("light", "dark")
_SCALE = 8
MEAN, FAR, SHARE = 5.0, 40, 0.05  # mean difference of 255, and how many cells may differ by more than FAR


def small(page: Any) -> NDArray[np.uint8]:
    """What a page shows, [h, w, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as shot:
        size = (shot.width // _SCALE, shot.height // _SCALE)
        return np.asarray(shot.convert("RGB").resize(size, Image.Resampling.BOX))


def difference(actual: NDArray[np.uint8], expected: NDArray[np.uint8]) -> tuple[float, float]:
    """The mean difference, and the share of cells that are far from what is expected."""
    if actual.shape != expected.shape:
        return 255.0, 1.0
    change = np.abs(actual.astype(int) - expected).max(2)
    return float(change.mean()), float((change > FAR).mean())


def alike(actual: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """Whether both show the same page."""
    mean, share = difference(actual, expected)
    return mean <= MEAN and share <= SHARE


def baseline(theme: str, width: int) -> NDArray[np.uint8]:
    """The committed screenshot."""
    from PIL import Image

    with Image.open(FOLDER / f"{theme}-{width}.png") as image:
        return np.asarray(image.convert("RGB"))


def main() -> None:
    """Write all baselines."""
    from PIL import Image

    from pygrade.console.run_console import write_console
    from tests.console.conftest import CONFIG, make_run

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as engine:
        run = make_run(Path(folder))
        page = write_console(run, Path(folder) / "page.html", f"logs:{folder}/logs", CONFIG)
        for theme in THEMES:
            for width in WIDTHS:
                made = opened(engine, page.as_uri(), width, theme)
                Image.fromarray(small(made)).save(FOLDER / f"{theme}-{width}.png", optimize=True)


if __name__ == "__main__":
    main()
