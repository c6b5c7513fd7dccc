"""Scripts of benchmarks/ as modules. Their folder is not on sys.path: there run.py or scan.py could hide a package."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from support import ROOT

BENCHMARKS = ROOT / "benchmarks"


def load(name: str) -> ModuleType:
    """benchmarks/<name>.py as a module, run once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # for scripts that import it, too
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
