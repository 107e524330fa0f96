"""An importer of one's own: the function and the entry point that the guide shows, in a package of its own."""

import subprocess
import sys
import tomllib

import pytest

from pygrade.data.events import GROUP, import_events, importer_hash, schemes
from tests.documents import ROOT, blocks

GUIDE = ROOT / "docs/guides/raw-events.md"
ROWS = """request_id,user_id,item_id,position,timestamp,event_time,y_click,y_buy
0,7,1,0,1000,1500,1.0,0.0
0,7,2,1,1000,1500,0.0,0.0
1,8,2,0,2000,2500,1.0,1.0
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The guide's package, installed; and a directory of its data."""
    (code,) = [block for block in blocks(GUIDE, "py") if "import_shop" in block]
    (table,) = [table for table in map(tomllib.loads, blocks(GUIDE, "toml")) if "project" in table]
    (tmp_path / "site").mkdir()
    (tmp_path / "site/our_shop.py").write_text(code)
    info = tmp_path / "site/our_shop-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-shop\nVersion: 1\n")
    points = table["project"]["entry-points"][GROUP]
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/day.csv").write_text(ROWS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path
    sys.modules.pop("our_shop", None)


def test_a_plug_in_of_ones_own_is_read(shop):
    assert "shop" in schemes() and "kuairand" in schemes()
    log = import_events(f"shop:{shop / 'data'}", shop / "log")
    assert log.num_rows == 3 and log.tasks == ("click", "buy") and log.source["positives"] == {"click": 2, "buy": 1}
    with pytest.raises(TypeError, match="config is a dict"):
        import_events(f"shop:{shop / 'data'}", shop / "other", {})


def test_a_change_of_a_plug_in_makes_the_events_anew(shop):
    before = importer_hash("shop")
    (shop / "site/our_shop.py").write_text((shop / "site/our_shop.py").read_text() + "# changed\n")
    assert before != importer_hash("shop") != importer_hash("logs") == ""
    assert importer_hash("kuairand") == importer_hash("recflow") != before


def test_the_package_imports_no_plug_in():
    code = "import sys, pygrade.data.events, pygrade.pipeline.run, pygrade.cli.commands.pipeline; "
    code += "print([name for name in sys.modules if name.startswith('pygrade_datasets')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
