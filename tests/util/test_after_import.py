"""An action waits for the import of a module and leaves nothing behind."""

import importlib
import importlib.util
import sys

import pytest

from pygrade._util.after_import import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that is not imported yet; its import fails as long as a file says so."""
    name = "some_module_to_wait_for"
    (tmp_path / f"{name}.py").write_text(
        "from pathlib import Path\nready = True\n"
        "if Path(__file__).with_name('broken').exists():\n    raise RuntimeError('broken')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield name
    sys.meta_path[:] = before
    sys.modules.pop(name, None)


def test_the_action_comes_after_the_module_and_once(module):
    calls, before = [], list(sys.meta_path)
    after_import(module, lambda: calls.append(sys.modules[module].ready))
    assert importlib.util.find_spec(module) is not None and not calls and module not in sys.modules
    found = importlib.import_module(module)
    assert calls == [True] and sys.meta_path == before
    assert "exec_module" not in vars(found.__spec__.loader)
    importlib.reload(found)
    assert calls == [True]
    after_import(module, lambda: calls.append(False))
    assert calls == [True, False] and sys.meta_path == before


def test_a_failed_or_absent_import_leaves_the_action_waiting(module, tmp_path):
    calls = []
    after_import(module, lambda: calls.append(True))
    (tmp_path / "broken").touch()
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(module)
    assert not calls
    (tmp_path / "broken").unlink()
    importlib.import_module(module)
    assert calls == [True]
    after_import(module + "_absent", lambda: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module + "_absent")
