"""Scripts of the repository as modules. Their folders are not on sys.path: run.py or scan.py could hide a package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from support import ROOT


def load(script: str) -> ModuleType:
    """The script of this path, without its suffix, as a module, run once."""
    name = Path(script).name
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{script}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # for scripts that import it, too
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
