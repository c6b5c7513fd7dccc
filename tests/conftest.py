"""Helper modules for the tests, loaded by path (pytest's importlib mode puts no folder on sys.path)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load_module(path: Path) -> ModuleType:
    name = f"robustcheck_test_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def lookup() -> ModuleType:
    """benchmarks/lookup.py: `write_lookup_model`, `write_lookup_images`."""
    return load_module(ROOT / "benchmarks" / "lookup.py")


@pytest.fixture(scope="session")
def onnx_models() -> ModuleType:
    """tests/onnx_models.py: tiny graphs made with onnx.helper."""
    return load_module(ROOT / "tests" / "onnx_models.py")
