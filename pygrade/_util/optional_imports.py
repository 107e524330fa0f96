"""Optional dependencies: imported where they are used, with a hint when they are missing."""

import importlib
from types import ModuleType


def require(module: str, extra: str = "train") -> ModuleType:
    """The imported module, or an ImportError that says which extra installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the module is there, one of its own dependencies is not
        raise ImportError(f"{module} is not installed; run: pip install 'pygrade-ranking[{extra}]'") from error
